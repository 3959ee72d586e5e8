"""One line a stage while stages run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edgedistill.types import Progress

BAR = 24
REDRAW_S = 0.2
REFRESHED_A_SECOND = 1
"""Seldom enough that a benchmark does not see it."""
LOGGED_S = 30.0
"""From line to line of a stage in a log."""
UNBROKEN = 100_000
"""Characters a line where no terminal is: a log has one line a stage."""


class Lines:
    """One line a stage on standard error: name, time, what came out; a live bar while it runs.

    Without a terminal, finished lines, and now and then where a long stage is. `quiet` shows nothing. `step` is called
    at every step.
    """

    def __init__(self, *, quiet: bool = False, step: Callable[[], None] = lambda: None) -> None:
        self._step = step
        width = None if sys.stderr.isatty() else UNBROKEN
        self._console = Console(stderr=True, quiet=quiet, highlight=False, width=width)
        self._at: _At | None = None
        self._drawn = self._logged = 0.0
        self._live = Live(
            console=self._console, get_renderable=self._line, refresh_per_second=REFRESHED_A_SECOND, transient=True
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()

    def begin(self, stage: str) -> Progress:
        """Starts the line of a stage."""
        self._drawn, self._logged = 0.0, time.monotonic()
        self._show(_At(stage=stage, started=time.monotonic()))
        return self._advance

    def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
        """Finishes the line of a stage."""
        took = "cached" if cached else _seconds(seconds)
        self._show(None)
        head = Text.assemble((f"  {stage:<9}", "bold"), (f"{took:>8}  ", "green" if cached else "cyan"))
        line = Table.grid()  # so that a long note goes on below itself
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(head, Text(note))
        self._console.print(line)

    def _advance(self, done: int, total: int, note: str = "") -> None:
        self._step()
        now = time.monotonic()
        if not self._console.is_terminal and self._at is not None and now - self._logged >= LOGGED_S:
            self._logged = now
            self._console.print(f"  {self._at.stage:<9}{_seconds(now - self._at.started):>8}  {note}")
        if now - self._drawn < REDRAW_S and done < total:
            return
        self._drawn = now
        if self._at is not None:
            share = done / max(1, total)
            left = (now - self._at.started) * (1 / share - 1) if 0.02 < share < 1 else None
            self._show(replace(self._at, share=share, note=note, ends=None if left is None else now + left))

    def _show(self, at: _At | None) -> None:
        self._at = at
        if self._live.is_started:
            self._live.refresh()

    def _line(self) -> Text:
        """The line as it is now: its clocks go on while nothing is heard of the stage."""
        at, now = self._at, time.monotonic()
        if at is None:
            return Text("")
        if at.share is None:
            return Text(f"  {at.stage:<9}", style="bold")
        bar = "━" * round(at.share * BAR)
        left = "" if at.ends is None or at.ends <= now else f"{_seconds(at.ends - now)} left"
        return Text.assemble(
            (f"  {at.stage:<9}", "bold"),
            (f"{_seconds(now - at.started):>8}  ", "cyan"),
            (bar, "cyan"),
            ("─" * (BAR - len(bar)), "dim"),
            f" {at.share:>4.0%}  {left}  {at.note}",
            no_wrap=True,
            overflow="ellipsis",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _At:
    """Where the stage that runs was when something was heard of it.

    Attributes:
        started, ends: by the monotonic clock, in seconds; the end is expected then.
        share: of it that is done; None where it has not said.
    """

    stage: str
    started: float
    share: float | None = None
    note: str = ""
    ends: float | None = None


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)}:{int(value % 60):02d} min"
