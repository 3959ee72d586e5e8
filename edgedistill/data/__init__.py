"""Rows: read, checked and split, and the embedded default set."""
