"""Decoders, whatever runs them: how their files are judged, and the ladder from the smallest to safer ones."""
