"""How good each arm is, with intervals."""
