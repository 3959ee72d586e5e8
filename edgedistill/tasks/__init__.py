"""What a classifier is asked for and judged by; one file a task."""
