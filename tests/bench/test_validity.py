"""Which samples must not be believed: every rule, from either side of its bound."""

from __future__ import annotations

import random
from typing import Any

import pytest

from edgedistill.bench import taken, validity
from tests.bench.devices import QUIET, timing, writing

FINE = timing(random.Random(0), 20)


@pytest.mark.parametrize(
    ("factors", "hot"),
    [
        ((1.0, 1.0, 1.01, 1.04, 1.04), False),
        # The first rounds agree, and the later ones are what a user gets.
        ((1.0, 1.0, 1.01, 1.3, 1.35), True),
        # Something held single rounds up.
        ((1.0, 1.3, 1.0, 1.01, 1.3), False),
        ((1.0,), False),
    ],
)
def test_a_clock_that_is_lower_in_the_end_is_another_machine(factors: tuple[float, ...], hot: bool) -> None:
    rounds = [FINE | {"reference_ms": [factor, 1.5 * factor]} for factor in factors]
    found = validity.reasons(rounds, {"latency": factors})
    assert [reason.startswith("the machine itself was 30% slower in the last rounds") for reason in found] == [
        True
    ] * hot


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
    assert said == "other programs used 1.02 cores, and 0.1 is allowed (the first of 2 of 3 rounds)"


@pytest.mark.parametrize(
    ("name", "centers", "agree"),
    [
        ("latency", [1.0], True),
        ("latency", [1.0, 1.05, 0.99], True),
        # Late rounds are what disturbs; a median that most rounds share is not.
        ("latency", [1.0, 1.35, 1.01, 1.2, 0.99], True),
        ("latency", [1.0, 1.35, 1.12, 1.2, 1.01], False),
        ("latency", [0.85, 1.0, 1.0], False),
        ("latency", [1.0, 1.22], False),
        ("latency", [1.0, 1.0, 1.22, 1.22], False),
        ("latency", [1.0, 1.0, 1.0, 1.22], True),
        ("decode@64", [100.0, 80.0], False),
        # Of tokens a second, the late rounds are the low ones.
        ("decode@64", [100.0, 65.0, 99.0, 80.0, 101.0], True),
        ("decode@64", [100.0, 65.0, 85.0, 80.0, 101.0], False),
        ("decode@64", [115.0, 100.0, 100.0], False),
    ],
)
def test_the_better_half_of_the_rounds_has_to_agree(name: str, centers: list[float], agree: bool) -> None:
    assert (validity.reasons([FINE] * len(centers), {name: centers}) == ()) == agree


def test_of_a_model_that_writes_every_figure_has_to_agree() -> None:
    """Two lengths of prompt: of the longer one most first tokens are late, and no gap between tokens is."""
    rounds = [writing(random.Random(0), (16, 64), 8) for _ in range(3)]
    for late in rounds[1:]:
        late["prompts"][1]["first_token_ms"] = [50.0] * 3
    found = taken.centers(rounds, 20)
    assert found.keys() == {"first_token@16", "first_token@64", "decode@16", "decode@64"}
    (said,) = validity.reasons(rounds, found)
    assert said == "the better half of the rounds differs by 36% in first token@64, and 10% is allowed"


def test_nothing_was_timed_and_nothing_is_said() -> None:
    assert validity.reasons([], taken.centers([], 20)) == ()
