"""One line a stage while stages run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edgedistill.types import Progress

BAR = 24
REDRAW_S = 0.2
UNBROKEN = 100_000
"""Characters a line where no terminal is: a log has one line a stage."""


class Lines:
    """One line a stage on standard error: name, time, what came out; a live bar while it runs.

    Without a terminal, finished lines only. `quiet` shows nothing. `step` is called at every step.
    """

    def __init__(self, *, quiet: bool = False, step: Callable[[], None] = lambda: None) -> None:
        self._step = step
        width = None if sys.stderr.isatty() else UNBROKEN
        self._console = Console(stderr=True, quiet=quiet, highlight=False, width=width)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._stage = ""
        self._started = 0.0
        self._drawn = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()

    def begin(self, stage: str) -> Progress:
        """Starts the line of a stage."""
        self._stage, self._started, self._drawn = stage, time.monotonic(), 0.0
        self._show(Text(f"  {stage:<9}", style="bold"))
        return self._advance

    def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
        """Finishes the line of a stage."""
        took = "cached" if cached else _seconds(seconds)
        self._show(Text(""))
        head = Text.assemble((f"  {stage:<9}", "bold"), (f"{took:>8}  ", "green" if cached else "cyan"))
        line = Table.grid()  # so that a long note goes on below itself
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(head, Text(note))
        self._console.print(line)

    def _advance(self, done: int, total: int, note: str = "") -> None:
        self._step()
        now = time.monotonic()
        if now - self._drawn < REDRAW_S and done < total:
            return
        self._drawn = now
        share = done / max(1, total)
        elapsed = now - self._started
        left = f"{_seconds(elapsed / share - elapsed)} left" if 0.02 < share < 1 else ""
        bar = "━" * round(share * BAR)
        self._show(
            Text.assemble(
                (f"  {self._stage:<9}", "bold"),
                (f"{_seconds(elapsed):>8}  ", "cyan"),
                (bar, "cyan"),
                ("─" * (BAR - len(bar)), "dim"),
                f" {share:>4.0%}  {left}  {note}",
                no_wrap=True,
                overflow="ellipsis",
            )
        )

    def _show(self, text: Text) -> None:
        if self._live.is_started:
            self._live.update(text, refresh=True)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)}:{int(value % 60):02d} min"
