"""`python -m edgedistill` is the command line."""

from edgedistill.cli import main

main()
