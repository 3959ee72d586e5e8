"""For what happens in another process, some time soon."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest


def wait_for(happened: Callable[[], bool]) -> None:
    """Returns as soon as it has happened; fails after ten seconds."""
    for _ in range(500):
        if happened():
            return
        time.sleep(0.02)
    pytest.fail("it never happened")
