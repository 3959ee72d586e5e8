"""The charts of what was measured: times, sizes, memory, lines over a setting, points that trade one for another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt

from edgedistill.report import canvas
from edgedistill.report.canvas import COLORS, INK, SOFT, WIDTH
from edgedistill.report.figures import interval, is_exact, number, shown
from edgedistill.types import Estimate

LOGARITHMIC_FROM = 4.0
"""Greatest over least value from which an axis is logarithmic: below that a linear one shows more."""
_BINS = 68
_PLAIN_BINS = 34
_BLOCKS = "▁▂▃▄▅▆▇█"
_MARKS = {"p50": 0.14, "p90": 0.1, "p99": 0.06}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the samples of one contestant are spread. `percentiles` are None where there are too few samples."""

    title: str
    color: str
    values: Sequence[float]
    unit: str
    percentiles: Sequence[tuple[str, Estimate | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar of one part or of several, one after the other. `text` is written at its end, `tick` marks a value."""

    title: str
    parts: Sequence[tuple[str, float]]
    text: str
    tick: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Estimates over a setting. `chosen` is the value of the setting that is in use."""

    color: str
    points: Sequence[tuple[float, Estimate]]
    chosen: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One contender in a plane, by a letter. One that is not `best` is drawn hollow."""

    letter: str
    color: str
    x: Estimate
    y: Estimate
    best: bool


class Scale:
    """Bins of equal width over values above zero, of their logarithm where they are far apart."""

    def __init__(self, values: Sequence[float], bins: int) -> None:
        least, most = min(values), max(values)
        self.logarithmic = most >= LOGARITHMIC_FROM * least
        self.bins = bins
        low, high = self._of(least), self._of(most)
        margin = max(0.04 * (high - low), 1e-3 * abs(high), 1e-9)
        self._low = low - margin if self.logarithmic else max(low - margin, 0.0)
        self._width = (high + margin - self._low) / bins

    @property
    def edges(self) -> list[float]:
        """The bounds of the bins. Length: bins + 1."""
        steps = [self._low + self._width * number for number in range(self.bins + 1)]
        return [10**step for step in steps] if self.logarithmic else steps

    def counts(self, values: Sequence[float]) -> list[int]:
        """How many of the values are in each bin."""
        found = [0] * self.bins
        for value in values:
            found[min(max(int((self._of(value) - self._low) / self._width), 0), self.bins - 1)] += 1
        return found

    def _of(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def histograms(shapes: Sequence[Shape]) -> str:
    """One histogram a contestant over a shared axis, with p50, p90 and p99 marked under it."""
    scale = Scale([value for shape in shapes for value in shape.values], _BINS)
    edges = scale.edges
    bars: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for row, shape in enumerate(shapes):
        shade = COLORS[shape.color]
        counts = scale.counts(shape.values)
        bars += [
            {"left": a, "right": b, "floor": row + 0.0, "top": row - 0.46 * count / max(counts), "color": shade}
            for (a, b), count in zip(pairwise(edges), counts, strict=True)
            if count
        ]
        told = []
        for name, estimate in shape.percentiles:
            if estimate is not None:
                told.append(f"{name} {shown(estimate, '')}")
                bottom = row + 0.03 + _MARKS[name]
                marks.append({"left": estimate.value, "floor": row + 0.03, "top": bottom, "color": shade})
        text = f"{', '.join(told)} {shape.unit}" if told else f"{len(shape.values)} samples"
        labels.append({"label": row - 0.75, "title": shape.title, "second": row - 0.61, "text": text})
    if scale.logarithmic:
        ticks = canvas.round_values(edges[0], edges[-1])
        axis = alt.Axis(title="milliseconds, logarithmic", values=ticks, format="~g")
    else:
        axis = alt.Axis(title="milliseconds", tickCount=5, format="~g")
    x = alt.X(
        "left:Q",
        scale=alt.Scale(
            type="log" if scale.logarithmic else "linear", domain=[edges[0], edges[-1]], nice=False, zero=False
        ),
        axis=axis,
    )
    y = canvas.rows_of("floor", len(shapes), above=0.84, below=0.22)
    return canvas.svg(
        canvas.chart(bars).mark_rect().encode(x=x, x2="right:Q", y=y, y2="top:Q", color=canvas.color()),
        canvas.chart(marks).mark_rule(strokeWidth=2).encode(x=x, y=y, y2="top:Q", color=canvas.color()),
        canvas.text(labels, "label", "title", side="left", limit=WIDTH - 20),
        canvas.text(labels, "second", "text", side="left", limit=WIDTH - 20, color=SOFT),
        height=len(shapes) * 112 + 44,
    )


def plain_histograms(shapes: Sequence[Shape]) -> tuple[str, ...]:
    """The same with letters, one line a contestant and one for the axis."""
    scale = Scale([value for shape in shapes for value in shape.values], _PLAIN_BINS)
    lines = [f"{_blocks(scale.counts(shape.values))}  {shape.title}" for shape in shapes]
    left, right = (number(value, "") for value in (scale.edges[0], scale.edges[-1]))
    ends = f"{left}{right:>{max(_PLAIN_BINS - len(left), len(right) + 1)}}"
    return (*lines, f"{ends}  {shapes[0].unit}{', logarithmic' if scale.logarithmic else ''}")


def percentiles_of(shape: Shape) -> str:
    """The percentiles with their intervals in words."""
    told = [
        f"{name} {shown(found, shape.unit)}" + ("" if is_exact(found) else f" ({interval(found, shape.unit)})")
        for name, found in shape.percentiles
        if found is not None
    ]
    return ", ".join(told) or f"{len(shape.values)} samples"


def bars(drawn: Sequence[Bar], *, most: float = 0.0, title: str | None = None) -> str:
    """Bars from zero, each under its title, with its text at its end.

    Args:
        most: a value that the scale shall reach, so that several charts can share it.
    """
    rows: list[dict[str, Any]] = []
    heads: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    ticks: list[dict[str, Any]] = []
    for number_, bar in enumerate(drawn):
        row, left = 2.0 * number_, 0.0
        heads.append({"label": row, "title": bar.title})
        for name, value in bar.parts:
            right = left + max(value, 0.0)
            rows.append({"left": left, "right": right, "row": row + 0.45, "end": row + 1.15, "color": COLORS[name]})
            left = right
        furthest = max(left, bar.tick or 0.0)
        ends.append({"left": furthest, "row": row + 0.8, "text": bar.text})
        if bar.tick is not None:
            ticks.append({"left": bar.tick, "row": row + 0.35, "end": row + 1.25, "color": INK})
    longest = max(len(bar.text) for bar in drawn)
    reach = max(most, *(end["left"] for end in ends)) or 1.0
    # Room for the text behind the longest bar, at about 7 pixels a letter.
    x = alt.X("left:Q", scale=alt.Scale(domain=[0, reach / (1 - (7 * longest + 12) / WIDTH)], nice=False), axis=None)
    y = alt.Y("row:Q", scale=alt.Scale(domain=[2.0 * len(drawn) - 0.7, -0.5], nice=False), axis=None)
    return canvas.svg(
        canvas.chart(rows).mark_rect().encode(x=x, x2="right:Q", y=y, y2="end:Q", color=canvas.color()),
        canvas.chart(ticks).mark_rule(strokeWidth=2).encode(x=x, y=y, y2="end:Q", color=canvas.color()),
        canvas.chart(ends).mark_text(align="left", dx=5, color=INK).encode(x=x, y=y, text="text:N"),
        canvas.text(heads, "label", "title", side="left", limit=WIDTH - 20),
        height=round(len(drawn) * 52 + 4 + 22 * (title is not None)),
        title=title,
    )


def lines(drawn: Sequence[Line], x_title: str, title: str) -> str:
    """Lines with 95 % intervals over a setting that doubles from step to step; the vertical scale begins at zero."""
    rows: list[dict[str, Any]] = []
    chosen: list[dict[str, Any]] = []
    for line in drawn:
        for setting, found in line.points:
            row = {"x": setting, "value": found.value, "low": found.low, "high": found.high}
            rows.append(row | {"color": COLORS[line.color]})
            if setting == line.chosen:
                chosen.append(rows[-1] | {"text": "in use"})
    settings = sorted({row["x"] for row in rows})
    least, most = settings[0], settings[-1]
    domain = [least / 1.15, most * 1.15]
    axis = alt.Axis(title=x_title, values=settings, format=",~f", labelOverlap=True)
    x = alt.X("x:Q", scale=alt.Scale(type="log", domain=domain, nice=False), axis=axis)
    top = max(max(row["high"], row["value"]) for row in rows) * (1.32 if chosen else 1.1)
    scale = alt.Scale(domain=[0, top], nice=False)
    y = alt.Y("value:Q", scale=scale, axis=alt.Axis(title=None, tickCount=4, format=",~f"))
    base = canvas.chart(rows)
    ring = canvas.chart(chosen)
    return canvas.svg(
        base.mark_line(strokeWidth=2, strokeJoin="round").encode(x=x, y=y, color=canvas.color()),
        base.mark_rule(strokeWidth=2).encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q", color=canvas.color()),
        base.mark_point(filled=True, size=36, opacity=1).encode(x=x, y=y, color=canvas.color()),
        ring.mark_point(filled=False, size=190, opacity=1, strokeWidth=2).encode(x=x, y=y, color=canvas.color()),
        ring.mark_text(dy=-17, color=INK).encode(x=x, y=y, text="text:N"),
        height=164,
        title=title,
    )


def points(drawn: Sequence[Point], x_title: str, y_title: str, *, most: float = math.inf) -> str:
    """Points with their 95 % intervals in a plane of two figures; neither scale begins at zero.

    Args:
        most: the greatest value that the vertical scale has: a share ends at 100 %.
    """
    rows: list[dict[str, Any]] = []
    for point in drawn:
        row = {"x": point.x.value, "y": point.y.value, "left": point.x.low, "right": point.x.high}
        row |= {"low": point.y.low, "high": point.y.high, "best": point.best}
        rows.append(row | {"color": COLORS[point.color], "text": point.letter})
    wide = max(row["right"] for row in rows) >= LOGARITHMIC_FROM * min(row["left"] for row in rows) > 0
    low, high = min(row["left"] for row in rows), max(row["right"] for row in rows)
    if wide:
        domain = [low / 1.5, high * 1.7]
        ticks = canvas.round_values(*domain)
        axis = alt.Axis(title=f"{x_title}, logarithmic", values=ticks, format="~g", labelOverlap=True)
    else:
        margin = max(0.14 * (high - low), 0.02 * high)
        domain = [low - margin, high + margin]
        axis = alt.Axis(title=x_title, tickCount=5, format="~g")
    x_scale = alt.Scale(type="log" if wide else "linear", domain=domain, nice=False, zero=False)
    bottom, top = min(row["low"] for row in rows), max(row["high"] for row in rows)
    margin = max(0.16 * (top - bottom), 0.002 * abs(top), 1e-6)
    y_scale = alt.Scale(domain=[bottom - margin, min(top + margin, most)], nice=False, zero=False)
    x = alt.X("x:Q", scale=x_scale, axis=axis)
    y = alt.Y("y:Q", scale=y_scale, axis=alt.Axis(title=None, tickCount=4, format="~g"))
    base = canvas.chart(rows)
    hollow, full = (canvas.chart([row for row in rows if row["best"] is best]) for best in (False, True))
    return canvas.svg(
        base.mark_rule(strokeWidth=1.5).encode(
            x=alt.X("left:Q", scale=x_scale, axis=axis), x2="right:Q", y=y, color=canvas.color()
        ),
        base.mark_rule(strokeWidth=1.5).encode(x=x, y=alt.Y("low:Q", scale=y_scale), y2="high:Q", color=canvas.color()),
        full.mark_point(filled=True, size=90, opacity=1).encode(x=x, y=y, color=canvas.color()),
        hollow.mark_point(filled=False, size=70, opacity=1, strokeWidth=2).encode(x=x, y=y, color=canvas.color()),
        *(
            canvas.chart(beside).mark_text(dx=dx, dy=-10, fontWeight=600, color=INK).encode(x=x, y=y, text="text:N")
            for dx, beside in zip((-10, 10), _sides(rows, domain, wide=wide), strict=True)
        ),
        height=206,
        title=y_title,
    )


def _sides(
    rows: Sequence[dict[str, Any]], domain: Sequence[float], *, wide: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Points whose letter stands to the left, because the next point is close, and the others."""
    of = math.log10 if wide else float
    near = 0.07 * (of(domain[1]) - of(domain[0]))
    ordered = sorted(rows, key=lambda row: row["x"])
    left = [row for row, after in pairwise(ordered) if of(after["x"]) - of(row["x"]) < near]
    return left, [row for row in ordered if row not in left]


def _blocks(counts: Sequence[int]) -> str:
    most = max(counts)
    return "".join(_BLOCKS[math.ceil(count / most * len(_BLOCKS)) - 1] if count else " " for count in counts)
