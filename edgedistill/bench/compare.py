"""Whether one benchmark's result is slower, larger or less right than another's, and whether that can be told at all.

Two runs of the same bundle never give the same figures. What differs between them, and how each is met:

    texts           every text is compared with itself: the figure of a round is the median over texts of the logarithm
                    of (this round's time of the text / all rounds' time of it)
    the process     where it lies in memory: rounds are fresh processes, and they are what is drawn first
    other programs  they only ever make a call slower, so the fastest calls of each text must differ, too (of figures
                    that are not taken text by text, the fastest rounds)
    the machine     a clock that is lower today: both results time a reference that no bundle changes; what that one
                    changed by is allowed for, and beyond 5 % nothing is compared; where a result has none (a page has
                    none), it may have been anything up to that, so the bound of its times is wider by it
    what remains    an hour's drift that no round knows of: a difference has to be more than just noticeable

"worse" and "better" therefore need the whole interval, and what is fastest, beyond 1 ± the bound of the figure.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgedistill.bench import taken
from edgedistill.errors import StageError
from edgedistill.evaluate.stats import LEVEL, SAMPLE_DRAWS, paired
from edgedistill.types import Comparison, Contender, DeviceRun, Estimate, Measurement, NotMeasured, Result

TIME, START, MEMORY, SHARE, SIZE = 0.02, 0.1, 0.05, 0.01, 0.01
BOUNDS: Mapping[str, float] = {
    # Medians of two quiet sessions on one machine differ by about 1 %; 5 % must be found.
    "latency": TIME,
    "throughput": TIME,
    "first_token": TIME,
    "prefill": TIME,
    "decode": TIME,
    "inter_token": TIME,
    # What a start takes depends on what the system still holds of the files.
    "cold_start": START,
    "load": START,
    "first_answer": START,
    "energy": MEMORY,
    # Some pages more or less are an allocator's mood.
    "memory_model": MEMORY,
    "memory_process": MEMORY,
    "memory_peak": MEMORY,
    "answers_equal": SHARE,
}
"""What is compared, and by how much it has to differ."""
MACHINE_WITHIN = 0.05
"""Beyond that, another clock is no correction any more: memory and processor do not slow down alike. What nobody timed
a reference for is given as much."""
TIMED = frozenset(name for name in BOUNDS if not name.startswith(("memory", "answers")))
MORE_IS_BETTER = frozenset({"rows/s", "tokens/s", "share"})
SETTINGS = ("batch_rows", "prompt_tokens", "new_tokens", "texts_sha256")
FEWEST_ROUNDS = 3
"""Rounds of each side; fewer say nothing of how much processes differ."""
QUARTILE = 0.25
MOST_INSIDE = 500
"""Samples of a round that a resample takes: more would only narrow what is far narrower than the rounds' spread."""

Floats = NDArray[np.float64]
Verdict = Literal["equal", "better", "worse", "not comparable"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def compare(a: Result, b: Result) -> tuple[Comparison, ...]:
    """Every figure of two results, device by device and contender by contender: B over A."""
    there = {(run.link, run.contender): run for run in b.runs}
    found: list[Comparison] = []
    for run in a.runs:
        other = there.pop((run.link, run.contender), None)
        one = [_alone(run, "first")] if other is None else _runs(run, other, a.workload, b.workload)
        found += [replace(comparison, contender=run.contender) for comparison in one]
    found += [replace(_alone(run, "second"), contender=run.contender) for run in there.values()]
    return tuple(found)


def regressions(found: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """What is worse about the bundle; another version of PyTorch is nothing that it could answer for."""
    return _of_bundle(found, "worse")


def untold(found: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """What of the bundle could not be compared, or was measured and is not any more."""
    return _of_bundle(found, "not comparable")


def counts(found: Sequence[Comparison]) -> dict[Verdict, int]:
    """How many figures of the bundle came to each verdict."""
    count = Counter(comparison.verdict for comparison in found if comparison.contender == "bundle")
    return {verdict: count[verdict] for verdict in VERDICTS}


def says_nothing(found: Sequence[Comparison]) -> bool:
    """Whether no figure of the bundle was compared, apart from its size, which nobody has to measure."""
    measured = [comparison for comparison in found if comparison.name != "size"]
    return not any(number for verdict, number in counts(measured).items() if verdict != "not comparable")


def threads_of(earlier: Result) -> dict[tuple[str, Contender], int]:
    """The threads that each contender had on each device: two equally good numbers are two figures of throughput."""
    return {(run.link, run.contender): int(run.in_effect["threads"]) for run in earlier.runs if run.taken}


def _of_bundle(found: Sequence[Comparison], verdict: Verdict) -> tuple[Comparison, ...]:
    return tuple(one for one in found if one.contender == "bundle" and one.verdict == verdict)


def _alone(run: DeviceRun, which: str) -> Comparison:
    return _not("run", run.link, f"only the {which} result has the {run.contender} on {run.link}")


def _runs(a: DeviceRun, b: DeviceRun, asked_a: Mapping[str, Any], asked_b: Mapping[str, Any]) -> Iterator[Comparison]:
    yield _plain("size", a.link, a.file_bytes, b.file_bytes, SIZE, more_is_better=False)
    other = _other(a, b, asked_a, asked_b)
    machine = _machine(a, b)
    unstable = _unstable(a, b) or _another_clock(machine)
    texts = int(asked_a.get("texts", 0))
    there = {figure.name: figure for figure in b.measurements}
    for figure in a.measurements:
        name = figure.name.partition("@")[0]
        if name not in BOUNDS or (isinstance(figure, NotMeasured) and isinstance(there.get(figure.name), NotMeasured)):
            continue  # neither of the two has it
        reason = other or (unstable if name in TIMED else "") or _missing(figure, there.get(figure.name))
        if reason:
            yield _not(figure.name, a.link, reason)
        elif isinstance(figure, Measurement):
            own = MACHINE_WITHIN if machine is None else abs(machine - 1)
            bound = BOUNDS[name] + (own if name in TIMED else 0)
            yield _figure(figure, a, b, texts, bound)
    yield from _accuracy(a, b, other)


def _figure(figure: Measurement, a: DeviceRun, b: DeviceRun, texts: int, bound: float) -> Comparison:
    sides = [_rounds(run, figure.name) for run in (a, b)]
    if figure.unit == "share":
        return _plain(figure.name, a.link, _middle(sides[0]), _middle(sides[1]), bound, more_is_better=True)
    if any(value <= 0 for rounds in sides for samples in rounds for value in samples):
        if _middle(sides[0]) == _middle(sides[1]) == 0:
            return Comparison(name=figure.name, link=a.link, verdict="equal")
        return _not(figure.name, a.link, "a figure of 0 or less has no ratio")
    if min(map(len, sides)) < FEWEST_ROUNDS:
        return _not(figure.name, a.link, f"{FEWEST_ROUNDS} rounds of both are needed")
    # Costs: what is better when there is more of it counts the other way round.
    sign = -1.0 if figure.unit in MORE_IS_BETTER else 1.0
    costs = [[sign * np.log(np.asarray(samples, dtype=np.float64)) for samples in rounds] for rounds in sides]
    floor = None
    if figure.name == "latency" and texts:
        if any(len(samples) < texts for rounds in costs for samples in rounds):
            return _not(figure.name, a.link, f"a round did not get through the {texts} texts")
        floor, costs = _floor(costs, texts), _by_text(costs, texts)
    found, fastest = difference(costs[0], costs[1])
    ends = sorted((math.exp(sign * found.low), math.exp(sign * found.high)))
    ratio = Estimate(value=math.exp(sign * found.value), low=ends[0], high=ends[1])
    verdict = _verdict(found, fastest if floor is None else floor, math.log1p(bound))
    told = math.exp((found.high - found.low) / 2 + math.log1p(bound)) - 1
    note = f"a difference of {told:.1%} would have been told" if verdict == "equal" else ""
    return Comparison(name=figure.name, link=a.link, verdict=verdict, ratio=ratio, note=note)


def difference(a: Sequence[Floats], b: Sequence[Floats], *, seed: int = 0) -> tuple[Estimate, float]:
    """How much more B costs than A, in logarithms: the lower quartile over rounds of each round's median.

    What disturbs a process only adds to its costs, so the lower rounds know more than the upper ones. Of 5 % more and
    rounds that differ by 1 %, every fifth of which is held up by 3 to 12 %, ten rounds of each find 93 % by the lower
    quartile and 59 % by the median; neither calls a thing worse that is not.

    The interval resamples rounds, then what is inside them (Davison and Hinkley, 1997, section 3.8). Of n rounds the
    bootstrap sees a spread that is √((n − 1) / n) of the true one (ibid., section 2.5.1), so it is stretched by that.

    Args:
        a: the logarithms of costs, an array a round.
        b: the same of the other result.

    Returns:
        The difference with its interval, and the difference between the cheapest rounds of both.
    """
    chance = np.random.default_rng(seed)
    medians = [np.array([np.median(samples) for samples in rounds]) for rounds in (a, b)]
    value = float(np.quantile(medians[1], QUARTILE) - np.quantile(medians[0], QUARTILE))
    drawn = _drawn(b, chance) - _drawn(a, chance)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    fewest = min(len(a), len(b))
    stretch = math.sqrt(fewest / (fewest - 1))
    estimate = Estimate(value=value, low=value + stretch * (low - value), high=value + stretch * (high - value))
    return estimate, float(medians[1].min() - medians[0].min())


def _drawn(rounds: Sequence[Floats], chance: np.random.Generator) -> Floats:
    """The lower quartile over rounds of each resample. Shape: [draws]."""
    inside = np.empty((len(rounds), SAMPLE_DRAWS))
    for number, samples in enumerate(rounds):
        picked = chance.integers(len(samples), size=(SAMPLE_DRAWS, min(len(samples), MOST_INSIDE)))
        inside[number] = np.median(samples[picked], axis=1)
    which = chance.integers(len(rounds), size=(SAMPLE_DRAWS, len(rounds)))
    return np.asarray(np.quantile(inside[which, np.arange(SAMPLE_DRAWS)[:, None]], QUARTILE, axis=1))


def _by_text(sides: Sequence[Sequence[Floats]], texts: int) -> list[list[Floats]]:
    """Each round's cost of each text, over all rounds' cost of it: long texts and short ones become one population."""
    each = [
        [np.median(samples[: len(samples) // texts * texts].reshape(-1, texts), axis=0) for samples in rounds]
        for rounds in sides
    ]
    usual = np.median(np.stack([one for rounds in each for one in rounds]), axis=0)
    return [[one - usual for one in rounds] for rounds in each]


def _floor(sides: Sequence[Sequence[Floats]], texts: int) -> float:
    """How much more the fastest call of each text costs in B, of as many rounds and passes of each side.

    What other programs do, and other guests of the same host, whom no counter tells, only ever adds to a call. With two
    to five programs for two processors, medians of two runs were 11 % apart and these floors 0.8 %; of a runtime that
    burns 5 % they said 6 %. What code adds to some calls alone, they do not see.

    Returns:
        The median over texts.
    """
    passes = min(len(samples) // texts for rounds in sides for samples in rounds)
    count = min(map(len, sides))
    a, b = (
        np.concatenate([samples[: passes * texts].reshape(-1, texts) for samples in rounds[:count]]).min(axis=0)
        for rounds in sides
    )
    return float(np.median(b - a))


def _verdict(found: Estimate, fastest: float, bound: float) -> Verdict:
    if found.low > bound and fastest > bound:
        return "worse"
    if found.high < -bound and fastest < -bound:
        return "better"
    return "equal"


def _rounds(run: DeviceRun, name: str) -> list[Sequence[float]]:
    """The samples of a figure, a list a round, from the raw ones where there are several a round."""
    timed = [one.samples for one in run.taken if one.cell.what in ("timing", "writing")]
    if name in ("latency", "throughput"):
        return [samples["latency_ms" if name == "latency" else "throughput_rows_s"] for samples in timed]
    if "@" in name:
        return next(list(rounds) for found, _, rounds in taken.by_prompt(timed) if found == name)
    (figure,) = (m for m in run.measurements if m.name == name)
    return [[value] for value in figure.values] if isinstance(figure, Measurement) else []


def _middle(rounds: Sequence[Sequence[float]]) -> float:
    return statistics.median(map(statistics.median, rounds))


def _plain(name: str, link: str, a: float, b: float, bound: float, *, more_is_better: bool) -> Comparison:
    """Of a figure that is counted, and has no spread."""
    if a <= 0:
        return _not(name, link, "a figure of 0 has no ratio")
    ratio = b / a
    cost = 1 / ratio if more_is_better and ratio > 0 else math.inf if more_is_better else ratio
    verdict: Verdict = "worse" if cost > 1 + bound else "better" if cost < 1 / (1 + bound) else "equal"
    return Comparison(name=name, link=link, verdict=verdict, ratio=Estimate(value=ratio, low=ratio, high=ratio))


def _accuracy(a: DeviceRun, b: DeviceRun, other: str) -> Iterator[Comparison]:
    """Row by row: what is hard for both says nothing about either."""
    if a.accuracy is None or b.accuracy is None:
        if a.accuracy is not b.accuracy:
            which = "first" if a.accuracy is None else "second"
            yield _not("accuracy", a.link, f"not measured the {which} time")
        return
    right = [
        next(np.array(one.samples["right"], dtype=np.float64) for one in run.taken if one.cell.what == "answers")
        for run in (a, b)
    ]
    if (
        other_rows := other
        if "texts" in other
        else ""
        if len(right[0]) == len(right[1])
        else "other rows were answered"
    ):
        yield _not("accuracy", a.link, other_rows)
        return
    try:
        ratio = paired(lambda means: means[1] / means[0], right)
    except StageError as error:
        yield _not("accuracy", a.link, error.message)
        return
    verdict: Verdict = "worse" if ratio.high < 1 else "better" if ratio.low > 1 else "equal"
    yield Comparison(name="accuracy", link=a.link, verdict=verdict, ratio=ratio)


def _other(a: DeviceRun, b: DeviceRun, asked_a: Mapping[str, Any], asked_b: Mapping[str, Any]) -> str:
    """What is not the same about the two runs, apart from the bundle; empty when all is."""
    machines = [run.environment.get("machine") for run in (a, b)]
    same: list[tuple[str, Any, Any]] = [
        ("kind", a.kind, b.kind),
        ("machine", machines[0], machines[1]),
        ("engine", a.engine, b.engine),
        ("threads", a.in_effect.get("threads"), b.in_effect.get("threads")),
        *((name, asked_a.get(name), asked_b.get(name)) for name in SETTINGS),
    ]
    found = [
        "other texts"
        if name == "texts_sha256"
        else f"not the same {name.replace('_', ' ')}: {_short(x)}, then {_short(y)}"
        for name, x, y in same
        if _listed(x) != _listed(y)
    ]
    return "; ".join(found)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    return str(value)[:60]


def _unstable(a: DeviceRun, b: DeviceRun) -> str:
    said = [
        f"the {which} run is unstable: {'; '.join(run.reasons)}"
        for which, run in (("first", a), ("second", b))
        if run.reasons
    ]
    return "; ".join(said)


def _machine(a: DeviceRun, b: DeviceRun) -> float | None:
    """How much longer the reference takes in the second run; None where one of them has none."""
    found = [_reference(run) for run in (a, b)]
    return None if found[0] is None or found[1] is None else found[1] / found[0]


def _reference(run: DeviceRun) -> float | None:
    """Its fastest call in each process; the median over processes."""
    fastest = [min(times) for one in run.taken if (times := one.samples.get("reference_ms"))]
    return statistics.median(fastest) if fastest else None


def _another_clock(machine: float | None) -> str:
    if machine is None or abs(machine - 1) <= MACHINE_WITHIN:
        return ""
    return f"the machine itself was {abs(machine - 1):.0%} {'slower' if machine > 1 else 'faster'} the second time"


def _missing(a: Measurement | NotMeasured, b: Measurement | NotMeasured | None) -> str:
    if isinstance(a, NotMeasured):
        return f"not measured the first time: {a.reason}"
    if b is None or isinstance(b, NotMeasured):
        return f"not measured the second time{'' if b is None else f': {b.reason}'}"
    return ""


def _not(name: str, link: str, note: str) -> Comparison:
    return Comparison(name=name, link=link, verdict="not comparable", note=note)
