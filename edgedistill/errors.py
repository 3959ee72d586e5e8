"""Every error that edgedistill raises on purpose, with the exit status the command line turns it into.

EdgeDistillError(message, *, hint)         1
├── InputError                             2   a bad flag, file, key or row: names it and what was expected
│   └── MissingExtra                       2   an optional dependency is not installed
├── PlanRefused                            2   cannot fit or cannot match; said before any training
├── StageError                             1   a stage failed: which one, what is kept, how to resume
│   ├── NothingHolds                       1   no recipe's file answers like its checkpoint: what each came to
│   └── EngineCrashed                      1   a measuring child died: its signal and its last words
├── BudgetMissed                           3   everything worked, a goal was not reached
└── IntegrityError                         4   a hash or a file set is wrong: never goes on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class EdgeDistillError(Exception):
    """The base of all errors meant for people: what happened, and what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(EdgeDistillError):
    """Something the user handed in is wrong; nothing was started."""

    exit_code = 2


class MissingExtra(InputError):
    """An optional dependency is needed and not installed."""

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(f"{what} is not installed", hint=f'pip install "edgedistill[{extra}]"')


class PlanRefused(EdgeDistillError):
    """Nothing that edgedistill can build would fit the target; the message shows the arithmetic."""

    exit_code = 2


class StageError(EdgeDistillError):
    """A stage of the build failed; finished stages are kept."""


class NothingHolds(StageError):
    """No recipe's file answers like what it was made from; `steps` says what each came to."""

    def __init__(self, steps: Sequence[Mapping[str, Any]], *, hint: str) -> None:
        super().__init__(f"no recipe answers like the checkpoint: {steps[-1]['reason']}", hint=hint)
        self.steps = tuple(steps)


class EngineCrashed(StageError):
    """A child process with an inference engine in it died."""


class BudgetMissed(EdgeDistillError):
    """The build worked, and a goal that was asked for does not hold."""

    exit_code = 3


class IntegrityError(EdgeDistillError):
    """A file is not what its hash says, or a bundle holds more or less than its manifest."""

    exit_code = 4
