"""The columns of a benchmark's tables: one a run, and one more for figures of another kind, so that none is mixed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgedistill.evaluate.stats import quantile_interval
from edgedistill.report.blocks import MISSING, Cell, Table, table
from edgedistill.report.figures import SPACE, interval, is_exact, middle, percentile_estimate, shown
from edgedistill.report.measurements import cell_of, median_cell
from edgedistill.types import Contender, DeviceRun, Estimate, Kind, Measurement, NotMeasured, Result

WHO: Mapping[Contender, str] = {
    "bundle": "the bundle",
    "teacher": "the teacher in PyTorch",
    "teacher exported": "the teacher, exported by the same recipe",
}
SHORT: Mapping[Contender, str] = {
    "bundle": "bundle",
    "teacher": "teacher, PyTorch",
    "teacher exported": "teacher, exported",
}
"""The same where there is little room."""
STABLE = "stable"
FAILED = "failed"
SHARES = (0.5, 0.9, 0.99)
SAMPLES = {"latency": ("timing", "latency_ms")}
"""Where the raw samples of a measurement stand, round by round."""
OF_PROMPT = {
    "first_token": "first_token_ms",
    "prefill": "prefill_tokens_s",
    "decode": "decode_tokens_s",
    "inter_token": "token_ms",
}
"""The same for figures that a model that writes has for each length of prompt: `first_token@64`."""
MOST_DRAWN = 2000
"""Samples of a round that its bootstrap draws from: more would take memory and tell no more."""

_BUNDLE_COLORS = ("exported", "student", "control", "fifth", "sixth")
_COLORS: Mapping[Contender, str] = {"teacher": "teacher", "teacher exported": "sixth"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The figures of one kind of one run. `place` is its device for sentences and charts, `metric` what is right."""

    run: DeviceRun
    kind: Kind
    color: str
    place: str
    metric: str = "accuracy"
    _quantiles: dict[str, list[tuple[str, Estimate | None]]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def own(self) -> bool:
        """Whether this is the run's own kind: sizes and accuracy stand there and nowhere else."""
        return self.kind == self.run.kind

    @property
    def state(self) -> str:
        """Whether the run kept the rules of the protocol, broke one, or found out nothing at all."""
        if self.run.stable:
            return STABLE
        return "unstable" if any(isinstance(item, Measurement) for item in self.run.measurements) else FAILED

    @property
    def name(self) -> str:
        """Who was measured, and where."""
        return f"{SHORT[self.run.contender]} on {self.place}"

    def head(self, *, who: bool = False) -> Cell:
        """The column's head, with the kind of all that stands under it.

        Args:
            who: the table has several contenders.
        """
        title = capital(WHO[self.run.contender]) if who else self.run.title
        around = self.place if who else self.run.link if self.run.link != self.run.title else ""
        marks = {STABLE: (self.kind,), FAILED: (FAILED,)}.get(self.state, (self.kind, self.state))
        return Cell(text=title, note=around, tone="figure", marks=marks)

    def find(self, name: str) -> Measurement | NotMeasured:
        """What the run has under a name and of this kind; when there is nothing, a NotMeasured that says so."""
        found = [item for item in self.run.measurements if item.name == name]
        missing: Measurement | NotMeasured | None = None
        for item in found:
            if isinstance(item, Measurement) and item.kind == self.kind:
                return item
            missing = item
        if isinstance(missing, Measurement):
            return NotMeasured(name=name, reason=f"on {self.place} it was {missing.kind}: see that column")
        return missing or NotMeasured(name=name, reason="the benchmark did not ask for it")

    def quantiles(self, name: str) -> list[tuple[str, Estimate | None]]:
        """p50, p90 and p99 with 95 % bootstrap intervals; None where there are too few samples to see one."""
        found = self.find(name)
        if isinstance(found, NotMeasured):
            return []
        if name not in self._quantiles:
            rounds = self._rounds(name, found)
            self._quantiles[name] = [(f"p{round(100 * share)}", _quantile(found, rounds, share)) for share in SHARES]
        return self._quantiles[name]

    def _rounds(self, name: str, found: Measurement) -> list[Sequence[float]]:
        """The raw samples, round by round; all as one round where the result does not hold them."""
        rounds = [samples for samples in map(self._samples(name), self.run.taken) if samples]
        return rounds if sum(map(len, rounds)) == len(found.values) else [found.values]

    def _samples(self, name: str) -> Callable[[Any], Sequence[float]]:
        metric, _, length = name.partition("@")
        threads = self.run.in_effect.get("threads")

        def of(taken: Any) -> Sequence[float]:
            if threads not in (None, taken.samples.get("threads") or taken.cell.threads):
                return ()
            if length:
                prompts = taken.samples.get("prompts") or ()
                here = [one for one in prompts if str(one.get("prompt_tokens")) == length]
                return here[0].get(OF_PROMPT.get(metric, ""), ()) if here else ()
            what, key = SAMPLES.get(metric, ("", ""))
            return taken.samples.get(key, ()) if taken.cell.what == what else ()

        return of


@dataclass(slots=True)
class Reasons:
    """Why figures are missing, each reason once, by the number that stands in the cells."""

    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)

    def cell(self, found: NotMeasured) -> Cell:
        """A cell that refers to the reason."""
        return self.refer(MISSING, found.reason, found.remedy or "")

    def refer(self, text: str, reason: str, remedy: str = "") -> Cell:
        """The same behind other words."""
        number = self._numbers.setdefault((reason, remedy), len(self._numbers) + 1)
        return Cell(text=f"{text} ({number})", tone="missing")

    @property
    def notes(self) -> tuple[str, ...]:
        """What the numbers stand for."""
        return tuple(
            f"({number}) {reason}" + (f"; {remedy}" if remedy else "")
            for (reason, remedy), number in self._numbers.items()
        )


Find = Callable[[Column], Cell | NotMeasured]
"""The cell of a column in one row, or why there is none."""


def columns(result: Result) -> tuple[Column, ...]:
    """All columns, in the order in which the runs stand in the result."""
    found, bundles = [], 0
    # A baseline's title says who it is as well, so devices go by the bundle's.
    titles = {run.link: run.title for run in result.runs if run.contender == "bundle"}
    for run in result.runs:
        title = titles.get(run.link, run.link)
        place = title if list(titles.values()).count(title) < 2 or title == run.link else f"{title} ({run.link})"
        color = _COLORS.get(run.contender) or _BUNDLE_COLORS[bundles % len(_BUNDLE_COLORS)]
        bundles += run.contender == "bundle"
        others = [item.kind for item in run.measurements if isinstance(item, Measurement) and item.kind != run.kind]
        metric = result.workload.get("metric") or "accuracy"
        found += [
            Column(run=run, kind=kind, color=color, place=place, metric=metric)
            for kind in (run.kind, *dict.fromkeys(others))
        ]
    return tuple(found)


def grid(
    title: str, of: Sequence[Column], rows: Iterable[tuple[str, Find]], *, who: bool = False, note: str = ""
) -> Table:
    """One column a run, one row a figure; what is missing refers to its reason under the table."""
    reasons = Reasons()
    made: list[tuple[str | Cell, ...]] = []
    for name, find in rows:
        found = [find(column) for column in of]
        cells = [reasons.cell(item) if isinstance(item, NotMeasured) else item for item in found]
        made.append((name, *cells))
    heads = tuple(column.head(who=who) for column in of)
    return table(title, "What", *made, heads=heads, note=note, notes=reasons.notes)


def of_median(name: str) -> Find:
    """The median of a measurement."""

    def find(column: Column) -> Cell | NotMeasured:
        found = column.find(name)
        return found if isinstance(found, NotMeasured) else _calm(column, median_cell(found))

    return find


def of_quantile(name: str, which: str) -> Find:
    """A percentile of a measurement, "p99"; the median where there is a single sample."""

    def find(column: Column) -> Cell | NotMeasured:
        found = column.find(name)
        if isinstance(found, NotMeasured):
            return found
        estimate = dict(column.quantiles(name))[which]
        if estimate is None and which == "p50":
            return _calm(column, median_cell(found))
        if estimate is None:
            return NotMeasured(name=name, reason="too few samples to see so rare a value")
        cell = cell_of(found, estimate, "" if is_exact(estimate) else interval(estimate, found.unit))
        return _calm(column, cell)

    return find


def estimate_cell(found: Estimate, unit: str) -> Cell:
    """An estimate with its interval under it, or "exact"."""
    return Cell(text=shown(found, unit), note="exact" if is_exact(found) else interval(found, unit))


def sure(found: Measurement) -> Estimate:
    """The median with its interval; where there is none, one without width."""
    return middle(found) or Estimate(value=found.median, low=found.median, high=found.median)


def device(run: DeviceRun) -> str:
    """The device of a run as its title with its address."""
    return run.title if run.link == run.title else f"{run.title} ({run.link})"


def by_length(of: Sequence[Column]) -> dict[str, list[int]]:
    """For each figure of a model that writes, the prompt lengths that any run has."""
    found: dict[str, list[int]] = {}
    for column in of:
        for item in column.run.measurements:
            metric, _, length = item.name.partition("@")
            if length.isdecimal():
                found.setdefault(metric, []).append(int(length))
    return {metric: sorted(set(lengths)) for metric, lengths in found.items()}


def tokens(length: int) -> str:
    """A length of prompt in words."""
    return f"{length:,}{SPACE}tokens"


def _quantile(found: Measurement, rounds: Sequence[Sequence[float]], share: float) -> Estimate | None:
    if share == SHARES[0] and found.interval is not None:
        return Estimate(value=found.median, low=found.interval[0], high=found.interval[1])
    plain = percentile_estimate(found.values, share)
    if plain is None or len(found.values) < 6:
        return None
    # Every round weighs the same: a longer one is thinned evenly to the shortest.
    count = min(MOST_DRAWN, *map(len, rounds), len(found.values))
    thinned = [[one[math.floor(place * len(one) / count)] for place in range(count)] for one in rounds]
    drawn = quantile_interval(np.array(thinned, dtype=np.float64), share)
    return Estimate(value=plain.value, low=min(drawn.low, plain.value), high=max(drawn.high, plain.value))


def _calm(column: Column, cell: Cell) -> Cell:
    """The cell without its own mark where the head of its column says already that the run is unstable."""
    return cell if column.run.stable else replace(cell, tone="")


def capital(words: str) -> str:
    """The words at the beginning of a line."""
    return words[:1].upper() + words[1:]
