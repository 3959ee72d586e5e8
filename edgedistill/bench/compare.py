"""Whether one benchmark's result is slower, larger or less right than another's, and whether that can be told at all.

Two runs of the same bundle never give the same figures. What differs between them, and how each is met:

    texts           every text is compared with itself: the figure of a round is the median over texts of the logarithm
                    of (this round's fastest time of the text / all rounds' fastest times of it)
    the process     where it lies in memory: rounds are fresh processes, and they are what is drawn first
    other programs  they only make calls slower, so a round's fastest call of each text is taken, of as many passes in
                    every round (Chen and Revels, "Robust benchmarking in noisy environments", 2016), and the fastest
                    of all rounds must differ, too (of figures that are not taken text by text, the fastest rounds)
    some calls      a clock may run faster for some of them, and a bundle may slow some of them: where the fastest calls
                    and the usual ones do not tell the same, nothing is told, and the note says so
    the machine     a clock that is lower today: each process times a reference that no bundle changes, and what
                    computes as that does is compared over it, if it differs without it as well; for other times what
                    it surely changed by is allowed for; beyond 5 % nothing is compared; where a result has none, of an
                    older version, it may have been anything up to that, so the bound of its times is wider by it
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

from edgedistill.bench import differences, taken, validity
from edgedistill.bench.differences import Clocks, Difference
from edgedistill.errors import StageError
from edgedistill.evaluate.stats import paired
from edgedistill.types import Comparison, Contender, DeviceRun, Estimate, Measurement, NotMeasured, Result

TIME, LOAD, START, MEMORY, SHARE, SIZE = 0.02, 0.1, 0.2, 0.05, 0.01, 0.01
BOUNDS: Mapping[str, float] = {
    # Medians of two quiet sessions on one machine differ by about 1 %; 5 % must be found.
    "latency": TIME,
    "throughput": TIME,
    "first_token": TIME,
    "prefill": TIME,
    "decode": TIME,
    "inter_token": TIME,
    # What a start takes depends on what the system still holds of the files. Of results of one bundle on a host with
    # other guests one pair in a hundred differed by 12 % in what loading takes, and by 20 % in the others.
    "load": LOAD,
    "cold_start": START,
    "first_answer": START,
    "energy": MEMORY,
    # Some pages more or less are an allocator's mood.
    "memory_model": MEMORY,
    "memory_process": MEMORY,
    "memory_peak": MEMORY,
    "answers_equal": SHARE,
}
"""What is compared, and by how much it has to differ."""
TIMED = frozenset(name for name in BOUNDS if not name.startswith(("memory", "answers")))
COMPUTES = frozenset({"latency", "throughput", "first_answer"})
"""Of what answers in one pass: it computes, as the reference does. What writes waits for memory, whatever the clock."""
MORE_IS_BETTER = frozenset({"rows/s", "tokens/s", "share"})
SETTINGS = ("batch_rows", "prompt_tokens", "new_tokens", "texts_sha256")
HELD_UP = 0.1
"""By which p50 may differ otherwise than the fastest calls. Of results of one bundle on a host with other guests, p50
differed by up to 10 %."""
USUAL = 2
"""Times the bound by which the faster quarter of the calls may differ otherwise than the fastest ones: of results of
one bundle it differed by 1.1 %, half of the least bound."""
FEWEST_ROUNDS = 3
"""Rounds of each side; fewer say nothing of how much processes differ."""
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


def no_time(found: Sequence[Comparison]) -> bool:
    """Whether times of the bundle are there and none of them was compared."""
    timed = [one for one in found if one.contender == "bundle" and one.name.partition("@")[0] in TIMED]
    return bool(timed) and all(one.verdict == "not comparable" for one in timed)


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
            clocks = _clocks(a, b) if name in COMPUTES else None
            bound = BOUNDS[name] + (_allowed(machine) if name in TIMED and clocks is None else 0)
            yield _figure(figure, a, b, texts, bound, clocks)
    yield from _accuracy(a, b, other)


def _figure(
    figure: Measurement,
    a: DeviceRun,
    b: DeviceRun,
    texts: int,
    bound: float,
    clocks: Clocks | None,
) -> Comparison:
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
    bound = math.log1p(bound)
    by_text = figure.name == "latency" and texts > 0
    if by_text and any(len(samples) < texts for rounds in costs for samples in rounds):
        return _not(figure.name, a.link, f"a round did not get through the {texts} texts")
    found = differences.by_text(costs, texts, clocks) if by_text else differences.by_round(costs, clocks)
    ends = sorted((math.exp(sign * found.interval.low), math.exp(sign * found.interval.high)))
    ratio = Estimate(value=math.exp(sign * found.interval.value), low=ends[0], high=ends[1])
    verdict, note = _verdict(found, bound)
    if verdict == "not comparable":
        return _not(figure.name, a.link, note)
    return Comparison(name=figure.name, link=a.link, verdict=verdict, ratio=ratio, note=note)


def _verdict(found: Difference, bound: float) -> tuple[Verdict, str]:
    """What a difference comes to, and what should be known of it.

    Args:
        bound: in logarithms.
    """
    sure, more = found.interval, found.interval.value > 0
    beyond = sure.low > bound if more else sure.high < -bound
    same_way = (found.floor if more else -found.floor) > bound and (found.raw if more else -found.raw) > bound / 2
    if beyond and same_way:
        if (found.usual if more else -found.usual) < bound / 2:
            return "not comparable", _parted(found)
        return "worse" if more else "better", ""
    if abs(found.middle - sure.value) > math.log1p(HELD_UP) or abs(found.usual - sure.value) > USUAL * bound:
        return "not comparable", _parted(found)
    if abs(found.middle - sure.value) > bound:
        said = f"p50 itself is × {math.exp(found.middle):.3f}, and the fastest calls are equal"
        return "equal", f"{said}: other programs, or the bundle, slowed some calls"
    return "equal", f"a difference of {math.exp((sure.high - sure.low) / 2 + bound) - 1:.1%} would have been told"


def _parted(found: Difference) -> str:
    fastest, usual, middle = (math.exp(value) for value in (found.interval.value, found.usual, found.middle))
    return (
        f"the fastest calls of each text are × {fastest:.3f}, the faster quarter × {usual:.3f}, p50 is × {middle:.3f}: "
        "other programs slowed some calls, or the bundle does; measure again on a quiet machine"
    )


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
        "other texts (give both the same --data)"
        if name == "texts_sha256"
        else f"not the same {name.replace('_', ' ')}: {_short(x)}, then {_short(y)}"
        for name, x, y in same
        if _listed(x) != _listed(y)
    ]
    if any(one.startswith("not the same threads") for one in found):
        found.append("bench with --threads N, or with --against, which takes the earlier number")
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


def _clocks(a: DeviceRun, b: DeviceRun) -> Clocks | None:
    """What the reference took in both runs, where each of their timed processes has one."""
    timed = [[one.samples for one in run.taken if one.cell.what in ("timing", "writing")] for run in (a, b)]
    first, second = map(taken.clocks, timed)
    return None if first is None or second is None else [first, second]


def _allowed(machine: Estimate | None) -> float:
    """By how much wider a bound is for what the machine itself surely changed by, or may have."""
    return validity.MACHINE_WITHIN if machine is None else max(0.0, machine.low - 1, 1 - machine.high)


def _machine(a: DeviceRun, b: DeviceRun) -> Estimate | None:
    """How many times longer the reference takes in the second run; None where one of them has none, or one process."""
    clocks = _clocks(a, b)
    if clocks is None or min(map(len, clocks)) < 2:
        return None
    found = differences.quartiles(*([np.array([clock]) for clock in side] for side in clocks))
    return Estimate(value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high))


def _another_clock(machine: Estimate | None) -> str:
    if machine is None or abs(machine.value - 1) <= validity.MACHINE_WITHIN:
        return ""
    slower = "slower" if machine.value > 1 else "faster"
    return f"the machine itself was {abs(machine.value - 1):.0%} {slower} the second time"


def _missing(a: Measurement | NotMeasured, b: Measurement | NotMeasured | None) -> str:
    if isinstance(a, NotMeasured):
        return f"not measured the first time: {a.reason}"
    if b is None or isinstance(b, NotMeasured):
        return f"not measured the second time{'' if b is None else f': {b.reason}'}"
    return ""


def _not(name: str, link: str, note: str) -> Comparison:
    return Comparison(name=name, link=link, verdict="not comparable", note=note)
