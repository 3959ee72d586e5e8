"""What becomes of a benchmark that is told to end in the middle."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgedistill.types import Result

INTERRUPTED = 130
"""Exit status of a program that SIGINT ended."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit, KeyboardInterrupt):
    """The program was told to end in the middle of a benchmark. Whoever waits for either of the two gets it.

    Attributes:
        result: makes the result of what was taken until then; None where nothing was, or where it is kept already.
        kept: where the result is, once it was written.
    """

    def __init__(
        self, stop: BaseException, result: Callable[[], Result] | None = None, *, kept: Path | None = None
    ) -> None:
        super().__init__(getattr(stop, "code", INTERRUPTED))
        self.result = result
        self.kept = kept


@contextmanager
def unstopped() -> Iterator[None]:
    """What is done in it, for some milliseconds, is done to its end, however often the program is told to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal ends anything there
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
