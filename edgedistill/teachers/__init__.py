"""What answers: local checkpoints."""
