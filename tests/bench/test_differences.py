"""How much more one result's rounds cost than another's: what is seen of whom, and what is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgedistill.bench.differences import by_round, by_text, known, quartiles, relative

TEXTS = 40


def rounds(seed: int, *, passes: int = 10, factor: float = 1.0, slowed: Any = 0.0, by: float = 1.0) -> list[Any]:
    """Five rounds of texts of 1 to 3 ms, of which calls are held up by up to a fifth.

    Args:
        slowed: share of the calls that take `by` times as long.
    """
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(5):
        times = factor * np.linspace(1, 3, TEXTS) * (1 + 0.2 * chance.random((passes, TEXTS)) ** 3)
        times *= np.where(chance.random(times.shape) < slowed, by, 1.0)
        found.append(np.log(times.ravel()))
    return found


@pytest.mark.parametrize(
    ("slower", "number", "held_up", "least", "most"),
    [(1.0, 5, 0.0, 0.0, 0.0), (1.0, 10, 0.2, 0.0, 0.03), (1.05, 5, 0.0, 0.8, 1.0), (1.05, 10, 0.2, 0.8, 1.0)],
)
def test_false_alarms_are_rare_and_five_percent_is_found(
    slower: float, number: int, held_up: float, least: float, most: float
) -> None:
    """Processes that differ by 1 %, and some of which are held up by 3 to 12 %: 40 pairs of results."""
    chance = np.random.default_rng(0)

    def result(factor: float) -> list[Any]:
        own = chance.normal(0, 0.01, number) + (chance.random(number) < held_up) * chance.uniform(0.03, 0.12, number)
        return [np.log(factor) + one + chance.normal(0, 0.01, 20) for one in own]

    told = 0
    for seed in range(40):
        a, b = result(1.0), result(slower)
        told += quartiles(a, b, seed=seed).low > np.log(1.02) and by_round((a, b)).floor > np.log(1.02)
    assert least <= told / 40 <= most


def test_five_percent_of_every_call_is_seen_by_all() -> None:
    found = by_text((rounds(0), rounds(1, factor=1.05)), TEXTS)
    for value in (found.interval.value, found.floor, found.usual, found.middle):
        assert value == pytest.approx(np.log(1.05), abs=0.012)
    assert found.interval.low > np.log(1.03)


def test_more_passes_of_one_side_make_it_no_faster() -> None:
    found = by_text((rounds(0, passes=4), rounds(1, passes=60)), TEXTS)
    assert abs(found.interval.value) < 0.01


def test_what_code_adds_to_most_calls_moves_the_median_and_not_the_fastest() -> None:
    found = by_text((rounds(0, passes=30), rounds(1, passes=30, slowed=0.7, by=1.5)), TEXTS)
    assert abs(found.interval.value) < 0.02
    assert found.middle > np.log(1.3)


def test_a_boost_of_some_calls_moves_the_fastest_and_not_the_quarter() -> None:
    found = by_text((rounds(0, passes=30, slowed=0.1, by=0.92), rounds(1, passes=30)), TEXTS)
    assert found.interval.value > 0.05
    assert found.usual < 0.02


def test_one_round_that_nothing_held_up_is_the_floor() -> None:
    """Nine tenths of one side's rounds are late, and the host's other guests are to blame."""
    a, b = rounds(0), rounds(1)
    late = [*(one + 0.08 for one in b[:4]), b[4]]
    found = by_text((a, late), TEXTS)
    assert found.interval.value > 0.04
    assert abs(found.floor) < 0.01


def test_texts_of_other_lengths_become_one_population() -> None:
    (a, b) = relative((rounds(0), rounds(1)), TEXTS, 0.0)
    assert max(np.ptp(one) for one in (*a, *b)) < 0.1  # the texts differ threefold


def test_what_the_clock_of_a_round_adds_is_counted_out_and_told() -> None:
    """Rounds at clocks that differ by up to 8 %, of one bundle and of one that takes 5 % more."""
    clocks = [[0.0, 0.02, 0.01, 0.03, 0.0], [0.05, 0.08, 0.04, 0.06, 0.05]]
    a, b = (
        [one + clock for one, clock in zip(rounds(seed, factor=factor), own, strict=True)]
        for seed, factor, own in zip((0, 1), (1.0, 1.05), clocks, strict=True)
    )
    found = by_text((a, b), TEXTS, clocks)
    assert found.interval.value == pytest.approx(np.log(1.05), abs=0.012)
    assert found.raw > found.interval.value + 0.03
    assert known(a, TEXTS, clocks[0]) < 0.01 < known(a, TEXTS)
