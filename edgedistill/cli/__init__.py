"""Every command of edgedistill: parse, call, print. The only room that prints or ends the program."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any

import typer

from edgedistill import __version__
from edgedistill.cli import boards, devices, measuring, students
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


KEPT = {
    **dict.fromkeys(
        ("build", "distill", "export", "label", "evaluate"), "; what is finished is kept, and the same command goes on"
    ),
    "bench": "; a benchmark writes its result when all rounds are taken, so the same command measures again",
}
"""What is true of a command that was stopped; of the others there is nothing to say."""


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
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except EdgeDistillError as error:
        print(f"edgedistill: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  what to do: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)


def _stop(number: int, _: Any) -> None:
    said = KEPT.get("".join(sys.argv[1:2]), "")  # the command stands first
    print(f"\nedgedistill: stopped{said}", file=sys.stderr)
    sys.exit(128 + number)
