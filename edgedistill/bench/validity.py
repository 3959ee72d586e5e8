"""When a figure must not be believed: the rules that raw samples are held against, each with its bound and why.

A run that breaks a rule is `unstable`: it is shown, with the reason, and no time of it is compared. Its size, memory
and answers are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgedistill.bench import taken

Samples = Mapping[str, Any]

ANCHORS_WITHIN = 0.05
"""The same texts before and after the timed part: two windows of 20 calls on an idle core agree to 1 or 2 %."""
ROUNDS_WITHIN = 0.1
"""Of the better half of the rounds. Fresh processes on an idle machine differ by 2 to 4 % from where their memory lies;
a tenth is another machine."""
MACHINE_WITHIN = 0.05
"""Of the reference that every timed process takes behind its samples. Where it takes longer in the last rounds, heat or
the end of a boost has lowered the clock, and the faster rounds are not what a user gets. Between two results it is no
correction beyond that: memory and processor do not slow down alike."""
LAST = 2
"""Rounds; one alone is held up now and then."""
FOREIGN_CORES = 0.1
"""Other processes' load, in cores. An idle desktop has 0.01 to 0.05, a busy program on any core has 1; it takes the
shared cache, the memory's bandwidth and the clock's reserve even where it takes no turn of ours."""
WAITED = 0.02
"""Share of the time in which we were ready and did not run. Each such pause is a tail of the latencies."""
CLOCK_FELL = 0.1
"""A clock that is a tenth lower after the timed part than before it: the board was slowed down while it was timed."""
HOTTEST_C = 80.0
"""Where the firmware of a Raspberry Pi begins to lower the clock (documentation/raspberry-pi/frequency-management).
Others begin elsewhere, laptops near 100 °C: there the clock, the anchors, and what the system says of throttling tell.
"""
RATES = frozenset({"decode"})
"""Figures of a round of which more is better."""
RASPBERRY = "Raspberry Pi"
EARLIER = " earlier"
"""How what happened at some time since the start of a board ends, which stays until it is started again."""
POWERSAVE = "powersave"
POWERSAVE_SHARE = 0.7
"""Of the highest clock. The governor of this name holds a Pi 4 or 5 at a third to two thirds of it; Intel's driver
uses the same name for one that follows the load, and then the clock is near the top while we compute."""


def lasting(samples: Samples, machine: str = "", texts: int = 0) -> dict[str, str]:
    """Rules that a process broke and the next one would: settings of the device, its heat, and how slow it is.

    Args:
        machine: what the device says it is.
        texts: that were to be timed.

    Returns:
        What happened, by the name of the rule.
    """
    before, after = _conditions(samples)
    found = {}
    clock, top = after.get("clock_hz"), after.get("max_clock_hz")
    slow = clock is None or top is None or clock < POWERSAVE_SHARE * top
    if POWERSAVE in (before.get("governor"), after.get("governor")) and slow:
        found["governor"] = "the clock's governor is powersave; set it to performance"
    hottest = max((c["temperature_c"] for c in (before, after) if c.get("temperature_c") is not None), default=0.0)
    if RASPBERRY in machine and hottest > HOTTEST_C:
        found["temperature"] = f"it was {hottest:.0f} °C hot, and clocks are lowered above {HOTTEST_C:.0f} °C"
    if throttled := _throttled(before, after):
        found["throttled"] = f"the device throttled: {', '.join(throttled)}"
    timed = samples.get("latency_ms")
    if samples.get("ended_by") == "time" and timed is not None and len(timed) < texts:
        found["pass"] = f"the time was over after {len(timed)} of {texts} texts"
    return found


def passing(samples: Samples) -> dict[str, str]:
    """Rules that a process broke and the next one may keep.

    Returns:
        What happened, by the name of the rule.
    """
    before, after = _conditions(samples)
    found = {}
    if samples.get("steady") is False:
        found["warm-up"] = "the clock never settled while warming up"
    moved = drift(samples.get("anchors_ms"))
    if moved is not None and abs(moved) > ANCHORS_WITHIN:
        found["anchors"] = f"the same texts took {moved:+.1%} at the end, and {ANCHORS_WITHIN:.0%} is allowed"
    foreign = samples.get("foreign_cores")
    if foreign is not None and foreign > FOREIGN_CORES:
        found["foreign load"] = f"other programs used {foreign:.2f} cores, and {FOREIGN_CORES:g} is allowed"
    waited = samples.get("waited_share")
    if waited is not None and waited > WAITED:
        found["waited"] = f"it waited for a processor in {waited:.1%} of the time, and {WAITED:.0%} is allowed"
    clocks = before.get("clock_hz"), after.get("clock_hz")
    if clocks[0] and clocks[1] and clocks[1] < (1 - CLOCK_FELL) * clocks[0]:
        found["clock"] = f"the clock fell from {clocks[0] / 1e9:.2f} to {clocks[1] / 1e9:.2f} GHz"
    told = [condition.get("throttled") for condition in (before, after)]
    if told[0] is not None and told[1] is not None:
        new = {name.removesuffix(EARLIER) for name in told[1] if name.endswith(EARLIER) and name not in told[0]}
        if meanwhile := sorted(new - set(_throttled(before, after))):
            found["throttled meanwhile"] = f"the device throttled while it was timed: {', '.join(meanwhile)}"
    return found


def reasons(
    rounds: Sequence[Samples], centers: Mapping[str, Sequence[float]], *, machine: str = "", texts: int = 0
) -> tuple[str, ...]:
    """Why the timing of a contender must not be believed; empty when it may be.

    Args:
        rounds: the raw samples of each timed process.
        centers: what each of them found, by the figure's name: the median of its latencies.
        machine, texts: as for `lasting`.
    """
    broken: dict[str, list[str]] = {}
    for samples in rounds:
        for rule, what in (lasting(samples, machine, texts) | passing(samples)).items():
            broken.setdefault(rule, []).append(what)
    said = [
        f"{found[0]} ({'in 1' if len(found) == 1 else f'the first of {len(found)}'} of {len(rounds)} rounds)"
        for found in broken.values()
    ]
    clocks = taken.clocks(rounds)
    if clocks and (slower := math.expm1(min(clocks[-LAST:]) - min(clocks))) > MACHINE_WITHIN:
        said.append(
            f"the machine itself was {slower:.0%} slower in the last rounds than before, and "
            f"{MACHINE_WITHIN:.0%} is allowed"
        )
    spreads = {name: apart(name, found) for name, found in centers.items() if found}
    worst = max(spreads, key=spreads.__getitem__, default="")
    if worst and spreads[worst] > ROUNDS_WITHIN:
        figure = worst.replace("_", " ")
        said.append(
            f"the better half of the rounds differs by {spreads[worst]:.0%} in {figure}, "
            f"and {ROUNDS_WITHIN:.0%} is allowed"
        )
    return tuple(said)


def apart(name: str, centers: Sequence[float]) -> float:
    """How far the better half of the rounds lies apart: from the best to the median, as a share of the median.

    What disturbs a process only ever adds to its times, so a median is to be believed where half of the rounds agree
    with the best of them, however late the others were: on a host with other guests, whom no counter tells, single
    rounds were 10 to 30 % late (benchmarks/LOG.md).

    Args:
        name: of the figure; of what is written a second, the best is the highest.
        centers: what each round found.
    """
    ordered = sorted(centers, reverse=name.partition("@")[0] in RATES)
    # Of an even number the later one of the two in the middle, so that it is at least half that agree.
    middle = ordered[len(ordered) // 2]
    return abs(ordered[0] - middle) / middle


def _throttled(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What holds the device back just now."""
    told = {name for condition in (before, after) for name in condition.get("throttled") or ()}
    return sorted(name for name in told if not name.endswith(EARLIER))


def _conditions(samples: Samples) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    before, after = samples.get("conditions") or ({}, {})
    return before or {}, after or {}


def drift(anchors: Sequence[Sequence[float]] | None) -> float | None:
    """How much longer the anchors took at the end; None where they were not taken twice.

    Of each window the lower quartile: a pause of some milliseconds meets half of a window's calls and is no drift.
    """
    if not anchors or len(anchors) < 2 or not anchors[0] or not anchors[1]:
        return None
    before, after = (sorted(window)[len(window) // 4] for window in anchors[:2])
    return after / before - 1
