"""What SIGINT and SIGTERM do: they end the command, wherever it is."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import Any

KEPT = dict.fromkeys(
    ("build", "distill", "export", "label", "evaluate"), "; what is finished is kept, and the same command goes on"
)
"""What is true of a command that was stopped; of the others there is nothing to say here."""
_told: list[int] = []


def listen() -> None:
    """From now on both signals end the program."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def stop(number: int, _: Any) -> None:
    """Ends the program with the status that shells give to the signal."""
    said = KEPT.get("".join(sys.argv[1:2]), "")  # the command stands first
    _told.append(number)
    if len(_told) == 1:
        # Who reads it may be stopped as well, and the signal may come in the middle of another line.
        with contextlib.suppress(OSError, RuntimeError):
            print(f"\nedgedistill: stopped{said}", file=sys.stderr)
    check()


def check() -> None:
    """Ends the program if it was told to.

    Long loops ask: in some places, such as a weak reference's callback, Python drops what a signal raises.
    """
    if _told:
        sys.exit(128 + _told[0])
