"""Which samples must not be believed: every rule, from either side of its bound."""

from __future__ import annotations

import random
from typing import Any

import pytest

from edgedistill.bench import validity
from tests.bench.devices import QUIET, timing

FINE = timing(random.Random(0), 20)


def broken(**change: Any) -> set[str]:
    samples = FINE | change
    return set(validity.passing(samples)) | set(validity.lasting(samples))


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
    (said,) = validity.reasons([FINE, loaded, loaded], [1.0, 1.0, 1.0])
    assert said == "other programs used 1.02 cores, and 0.1 is allowed (in 2 of 3 rounds)"


@pytest.mark.parametrize(("centers", "agree"), [([1.0, 1.05, 0.99], True), ([1.0, 1.12, 1.0], False), ([1.0], True)])
def test_rounds_have_to_agree(centers: list[float], agree: bool) -> None:
    assert (validity.reasons([FINE] * len(centers), centers) == ()) == agree


def test_nothing_was_timed_and_nothing_is_said() -> None:
    assert validity.reasons([], []) == ()
