"""Every command of edgedistill: parse, call, print. The only room that prints or ends the program."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edgedistill import __version__
from edgedistill.cli import boards, devices, measuring, stopping, students
from edgedistill.errors import EdgeDistillError

app = typer.Typer(
    help="From rows and a teacher to a proven model on a small device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (students.app, boards.app, devices.app, measuring.app):
    app.add_typer(commands)


def _version(asked: bool) -> None:
    if asked:
        print(f"edgedistill {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """From rows and a teacher to a proven model on a small device."""


def main() -> None:
    """Runs the command line and turns errors into one message and an exit status."""
    stopping.listen()
    try:
        app()
    except EdgeDistillError as error:
        print(f"edgedistill: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  what to do: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
