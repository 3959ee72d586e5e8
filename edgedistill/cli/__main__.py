"""`python -m edgedistill.cli` is the command line."""

from edgedistill.cli import main

main()
