"""What is left of a benchmark is told from what its steps took."""

from __future__ import annotations

import pytest

from edgedistill.bench.pace import GUESS_S, Pace


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def step(pace: Pace, clock: Clock, who: str, what: str, seconds: float) -> None:
    with pace.step(who, what):
        clock.now += seconds


def test_a_step_is_expected_to_take_what_it_took_before_else_what_it_took_elsewhere_else_a_guess() -> None:
    clock = Clock()
    pace = Pace(clock)
    for who in ("board", "page"):
        pace.expect(who, "timing", 3)
        pace.expect(who, "memory")
    assert pace.left_ms == 1e3 * (6 * GUESS_S["timing"] + 2 * GUESS_S["memory"])
    step(pace, clock, "board", "timing", 40)
    assert pace.left_ms == 1e3 * (5 * 40 + 2 * GUESS_S["memory"])
    step(pace, clock, "page", "timing", 2)
    step(pace, clock, "page", "memory", 1)
    assert pace.left_ms == 1e3 * (2 * 40 + 2 * 2 + 1)
    assert pace.spent_ms == 43_000


def test_what_failed_is_not_waited_for_and_a_step_beyond_the_expected_ones_is_one_more() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.expect("board", "timing", 2)
    pace.expect("page", "timing", 1)
    step(pace, clock, "page", "timing", 2)
    with pytest.raises(OSError, match="gone"), pace.step("board", "timing"):
        raise OSError("gone")
    pace.drop("board")
    assert pace.left_ms == 0
    with pace.step("page", "timing"):
        assert pace.left_ms == 2000
    assert pace.left_ms == 0
