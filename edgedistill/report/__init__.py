"""The report of a build: one self-contained page for people, the same content as JSON for programs."""
