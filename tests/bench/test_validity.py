"""Which samples must not be believed: every rule, from either side of its bound."""

from __future__ import annotations

import random
from typing import Any

import pytest

from edgedistill.bench import taken, validity
from tests.bench.devices import QUIET, timing, writing

FINE = timing(random.Random(0), 20)


def broken(**change: Any) -> set[str]:
    samples = FINE | change
    return set(validity.passing(samples)) | set(validity.lasting(samples, "Raspberry Pi 5 Model B Rev 1.0", 20))


def test_eighty_degrees_are_the_bound_of_one_board_alone() -> None:
    hot = FINE | {"conditions": conditions({}, {"temperature_c": 95.0})}
    assert validity.lasting(hot, "12th Gen Intel(R) Core(TM) i7-1260P") == {}


def conditions(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    return [QUIET | before, QUIET | after]


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({}, set()),
        ({"steady": False}, {"warm-up"}),
        ({"anchors_ms": [[1.0] * 20, [1.04] * 20]}, set()),
        ({"anchors_ms": [[1.0] * 20, [1.06] * 20]}, {"anchors"}),
        ({"anchors_ms": [[1.0] * 20, [0.94] * 20]}, {"anchors"}),
        ({"anchors_ms": [[1.0] * 20, []]}, set()),
        ({"foreign_cores": 0.09}, set()),
        ({"foreign_cores": 0.12}, {"foreign load"}),
        ({"foreign_cores": None, "waited_share": None}, set()),
        ({"waited_share": 0.03}, {"waited"}),
        ({"conditions": conditions({}, {"clock_hz": 1.9e9})}, set()),
        ({"conditions": conditions({}, {"clock_hz": 1.7e9})}, {"clock"}),
        ({"conditions": conditions({}, {"temperature_c": 79.0})}, set()),
        ({"conditions": conditions({"temperature_c": 81.0}, {})}, {"temperature"}),
        ({"conditions": conditions({"throttled": ["x earlier"]}, {"throttled": ["x earlier"]})}, set()),
        ({"conditions": conditions({"throttled": None}, {"throttled": ["x earlier"]})}, set()),
        ({"conditions": conditions({}, {"throttled": ["x earlier"]})}, {"throttled meanwhile"}),
        ({"conditions": conditions({}, {"throttled": ["x", "x earlier"]})}, {"throttled"}),
        ({"ended_by": "time"}, set()),
        ({"ended_by": "time", "latency_ms": [1.0] * 19}, {"pass"}),
        ({"conditions": conditions({}, {"throttled": ["under-voltage"]})}, {"throttled"}),
        # Intel's driver calls a governor that follows the load by this name, too.
        ({"conditions": conditions({"governor": "powersave"}, {"governor": "powersave"})}, set()),
        ({"conditions": conditions({"governor": "powersave", "clock_hz": 1e9}, {"clock_hz": 1e9})}, {"governor"}),
        ({"conditions": [{"governor": "powersave"}, {}]}, {"governor"}),
        ({"conditions": [None, None]}, set()),
    ],
)
def test_each_rule_has_its_bound(change: dict[str, Any], rules: set[str]) -> None:
    assert broken(**change) == rules


def test_a_reason_says_how_much_and_in_how_many_rounds() -> None:
    loaded = FINE | {"foreign_cores": 1.02}
    (said,) = validity.reasons([FINE, loaded, loaded], {"latency": [1.0, 1.0, 1.0]})
    assert said == "other programs used 1.02 cores, and 0.1 is allowed (in 2 of 3 rounds)"


@pytest.mark.parametrize(("centers", "agree"), [([1.0, 1.05, 0.99], True), ([1.0, 1.12, 1.0], False), ([1.0], True)])
def test_rounds_have_to_agree(centers: list[float], agree: bool) -> None:
    assert (validity.reasons([FINE] * len(centers), {"latency": centers}) == ()) == agree


def test_of_a_model_that_writes_every_figure_has_to_agree() -> None:
    """Two lengths of prompt: of the longer one the first tokens differ, and no gap between tokens does."""
    rounds = [writing(random.Random(0), (16, 64), 8) for _ in range(3)]
    rounds[1]["prompts"][1]["first_token_ms"] = [50.0] * 3
    found = taken.centers(rounds, 20)
    assert found.keys() == {"first_token@16", "first_token@64", "decode@16", "decode@64"}
    assert validity.reasons(rounds, found) == ("rounds differ by 56% in their first token@64, and 10% is allowed",)


def test_nothing_was_timed_and_nothing_is_said() -> None:
    assert validity.reasons([], taken.centers([], 20)) == ()
