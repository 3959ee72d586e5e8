"""Quantizers and builders that say on the terminal what is none of the user's business."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def no_advice() -> Iterator[None]:
    """Leaves out what libraries log below an error, and gives back what the caller had set."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
