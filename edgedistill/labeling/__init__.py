"""Rows without answers to rows with a teacher's: asked once, checked, paid for once."""
