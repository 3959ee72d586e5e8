"""How many requests a teacher gets at once, against servers that can do much, little, or say that they are busy."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.labeling.pace import ALONE, START, Pace


def served(pace: Pace, slots: int, answers: int, seconds: float = 1.0, now: float = 0.0) -> float:
    """A server with so many slots answers one request after the other; as many are under way as the pace allows.

    Returns the time when the last answer came.
    """
    free = [now] * slots
    under_way: list[float] = []
    pace.begin(now)
    for _ in range(answers):
        while len(under_way) < int(pace.limit):
            start = max(now, heapq.heappop(free))
            heapq.heappush(free, start + seconds)
            heapq.heappush(under_way, start + seconds)
        now = heapq.heappop(under_way)
        pace.up(1, now)
    return now


def proven(most: int) -> Pace:
    pace = Pace(most)
    pace.begin(0.0)
    pace.up(1, 1.0)
    return pace


@pytest.mark.parametrize("most", [1, 2, 31, 32, 33, 1000])
def test_one_request_goes_alone_until_it_is_answered(most: int) -> None:
    pace = Pace(most)
    pace.begin(0.0)
    pace.begin(5.0)
    assert (pace.limit, pace.proven) == (1, False)
    pace.up(1, 6.0)
    assert (pace.limit, pace.proven) == (min(START, most), True)


@pytest.mark.parametrize("seconds", [0.001, 1.0, 60.0])
@pytest.mark.parametrize(
    "most",
    [
        2,
        pytest.param(8, marks=pytest.mark.xfail(strict=True, reason="up to START nothing is ever compared")),
        64,
        500,
    ],
)
def test_a_server_with_one_slot_gets_one_request_more_than_it_works_on(most: int, seconds: float) -> None:
    pace = Pace(most)
    served(pace, slots=1, answers=4000, seconds=seconds)
    assert pace.limit == ALONE


def test_a_server_that_takes_everything_gets_all_that_is_allowed() -> None:
    pace = Pace(500)
    served(pace, slots=10_000, answers=5000)
    assert pace.limit == 500


def test_the_limit_at_most_doubles_a_round() -> None:
    pace = proven(1000)
    limits = [pace.limit]
    now = 1.0
    for _ in range(6):
        now += 1.0
        for _ in range(int(pace.limit)):
            pace.up(1, now)
        limits.append(pace.limit)
    assert limits == [32, 64, 128, 256, 512, 1000, 1000]


@pytest.mark.parametrize("slots", [16, 40, 100, 300])
def test_a_server_is_kept_at_work_without_a_long_queue(slots: int) -> None:
    pace = Pace(1000)
    served(pace, slots, answers=6000)
    assert slots <= pace.limit <= 4 * slots


def test_calls_of_one_round_halve_the_limit_once() -> None:
    pace = proven(64)
    sent_in = pace.rounds
    assert [pace.down(sent_in) for _ in range(32)] == [True] + [False] * 31
    assert pace.limit == START / 2
    assert pace.down(pace.rounds)
    assert pace.limit == START / 4


def test_after_a_busy_answer_the_limit_grows_by_one_a_round() -> None:
    pace = proven(64)
    pace.down(pace.rounds)
    limits = []
    for now in range(5):
        for _ in range(int(pace.limit)):
            pace.up(1, float(now))
        limits.append(pace.limit)
    assert limits == pytest.approx([17, 18, 19, 20, 21], abs=0.5)


def test_a_server_that_was_found_slow_may_still_be_found_busy() -> None:
    pace = Pace(64)
    now = served(pace, slots=1, answers=400)
    pace.down(pace.rounds)
    assert pace.limit == 1
    pace.up(1, now + 1)
    assert pace.limit == 2


def test_after_an_outage_it_begins_with_one_and_finds_its_pace_again() -> None:
    pace = Pace(500)
    now = served(pace, slots=10_000, answers=3000)
    pace.restart()
    assert (int(pace.limit), pace.proven) == (1, True)
    now = served(pace, slots=10_000, answers=3000, now=now + 60)
    assert pace.limit == 500
    pace.restart()
    served(pace, slots=1, answers=3000, now=now + 60)
    assert pace.limit == ALONE


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["up", "down", "old down", "restart", "begin"]), st.floats(0, 10), st.integers(1, 50)
        ),
        max_size=120,
    ),
    st.integers(1, 100),
)
def test_the_limit_is_never_below_one_nor_above_what_is_allowed(steps: list[tuple[str, float, int]], most: int) -> None:
    pace, now = Pace(most), 0.0
    for step, seconds, answers in steps:
        now += seconds
        match step:
            case "up":
                pace.up(answers, now)
            case "down":
                pace.down(pace.rounds)
            case "old down":
                before = pace.limit
                assert not pace.down(pace.rounds - 1)
                assert pace.limit == before
            case "restart":
                pace.restart()
            case _:
                pace.begin(now)
        assert 1 <= pace.limit <= most
