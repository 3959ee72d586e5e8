"""The charts of the page as static inline SVG, drawn narrow so that their text stays legible on a phone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import vl_convert

from edgedistill.report.blocks import label
from edgedistill.report.figures import number, percentiles, shown, unit_of
from edgedistill.types import Arm, Measurement, Subject

WIDTH = 340
"""Pixels of a chart before the page scales it: a phone shows it at about 0.9 of that, a desktop at about 1.2."""

INK, SOFT, GRID = "#1f2428", "#5b6570", "#dfe3e8"
COLORS = {"teacher": "#7a838d", "control": "#b96a00", "student": "#2f74c0", "exported": "#0b7f6d"}
THEME = ((INK, "ink"), (SOFT, "soft"), (GRID, "line"), *((color, name) for name, color in COLORS.items()))
"""The page's style sheet finds marks by these exact colors and replaces them by its own, lighter in the dark."""

_FONT = "system-ui, sans-serif"
_POINTS = 160
_BINS = 68

Point = Mapping[str, float]


def accuracy(arms: Sequence[Arm], metric: str) -> str:
    """Dot and whisker for each arm that has the metric; the scale does not begin at zero."""
    drawn = [(arm, arm.metrics[metric]) for arm in arms if metric in arm.metrics]
    unit = unit_of(metric, (estimate for _, estimate in drawn))
    share = unit == "share"
    factor = 100 if share else 1
    rows: list[dict[str, Any]] = [
        {
            "row": index,
            "label": index - 0.42,
            "value": estimate.value * factor,
            "low": estimate.low * factor,
            "high": estimate.high * factor,
            "title": arm.title,
            "text": shown(estimate, unit),
            "color": COLORS[arm.name],
        }
        for index, (arm, estimate) in enumerate(drawn)
    ]
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    margin = max((high - low) * 0.06, 1e-3 * factor)
    scale = alt.Scale(domain=[low - margin, high + margin], nice=False)
    scaled = {"share": f"{label(metric)}, %", "nats": f"{label(metric)}, nats a token"}
    axis = alt.Axis(title=scaled.get(unit, label(metric)), tickCount=5)
    value, end = (alt.X(f"{field}:Q", scale=scale, axis=axis) for field in ("value", "low"))
    y = _rows("row", len(rows), above=0.75)
    base = _chart(rows)
    return _svg(
        base.mark_rule(strokeWidth=2).encode(x=end, x2="high:Q", y=y, color=_color()),
        base.mark_point(filled=True, size=80, opacity=1).encode(x=value, y=y, color=_color()),
        _text(rows, "label", "title", side="left"),
        _text(rows, "label", "text", side="right"),
        height=len(rows) * 48 + 34,
    )


def latency(subjects: Sequence[tuple[Subject, Measurement]]) -> str:
    """One histogram a subject over a shared logarithmic axis, with p50, p90 and p99 marked under it."""
    every = [value for _, found in subjects for value in found.values]
    low, high = math.log10(min(every)) - 0.08, math.log10(max(every)) + 0.08
    edges = [10 ** (low + (high - low) * index / _BINS) for index in range(_BINS + 1)]
    bars: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for row, (subject, found) in enumerate(subjects):
        color = COLORS[subject.name]
        counts = _histogram(found.values, low, high)
        bars += [
            {"left": a, "right": b, "floor": row + 0.0, "top": row - 0.5 * count / max(counts), "color": color}
            for (a, b), count in zip(pairwise(edges), counts, strict=True)
            if count
        ]
        told = []
        for name, estimate in percentiles(found):
            if estimate is not None:
                told.append(f"{name} {shown(estimate, '')}")
                size = {"p50": 0.14, "p90": 0.1, "p99": 0.06}[name]
                marks.append({"left": estimate.value, "floor": row + 0.03, "top": row + 0.03 + size, "color": color})
        labels.append({"label": row - 0.8, "title": subject.title, "second": row - 0.64})
        labels[-1]["text"] = f"{', '.join(told) or 'median ' + number(found.median, '')} {found.unit}"
    axis = alt.Axis(title="milliseconds, logarithmic", values=_round_values(min(edges), max(edges)), format="~g")
    x = alt.X("left:Q", scale=alt.Scale(type="log", domain=[edges[0], edges[-1]], nice=False), axis=axis)
    y = _rows("floor", len(subjects), above=0.9, below=0.22)
    return _svg(
        _chart(bars).mark_rect().encode(x=x, x2="right:Q", y=y, y2="top:Q", color=_color()),
        _chart(marks).mark_rule(strokeWidth=2).encode(x=x, y=y, y2="top:Q", color=_color()),
        _text(labels, "label", "title", side="left", limit=WIDTH - 20),
        _text(labels, "second", "text", side="left", limit=WIDTH - 20, color=SOFT),
        height=len(subjects) * 104 + 44,
    )


def sizes(groups: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """Bars from zero for bytes: one group a quantity, one bar a contestant, each with its value written at its end."""
    bars: list[dict[str, Any]] = []
    heads: list[dict[str, Any]] = []
    row = 0.0
    for title, values in groups:
        heads.append({"label": row - 0.05, "title": title})
        for name, value in values:
            row += 1
            bars.append({"row": row - 0.4, "end": row + 0.3, "middle": row - 0.05, "value": value, "zero": 0})
            bars[-1] |= {"text": number(value, "bytes"), "color": COLORS[name]}
        row += 1.35
    x = alt.X("zero:Q", scale=alt.Scale(domain=[0, max(bar["value"] for bar in bars) * 1.28], nice=False), axis=None)
    y = alt.Y("row:Q", scale=alt.Scale(domain=[row - 0.8, -0.6], nice=False), axis=None)
    base = _chart(bars)
    ends = base.mark_text(align="left", dx=5, color=INK)
    return _svg(
        base.mark_rect().encode(x=x, x2="value:Q", y=y, y2="end:Q", color=_color()),
        ends.encode(x=alt.X("value:Q", axis=None), y=alt.Y("middle:Q", axis=None), text="text:N"),
        _text(heads, "label", "title", side="left"),
        height=round((row - 0.2) * 30),
    )


def curves(series: Mapping[str, Sequence[Point]], field: str, title: str, *, percent: bool = False) -> str:
    """One line a contestant over training steps; long curves are averaged in buckets."""
    rows = [
        {"step": step, "value": value * (100 if percent else 1), "color": COLORS[name]}
        for name, points in series.items()
        for step, value in _thinned(points, field)
    ]
    chart = _chart(rows)
    x = alt.X("step:Q", axis=alt.Axis(title="step", tickCount=4, format=",~f"), scale=alt.Scale(nice=False))
    y = alt.Y("value:Q", axis=alt.Axis(title=None, tickCount=4, format=",~f"), scale=alt.Scale(zero=False))
    marks = [chart.mark_line(strokeWidth=2, strokeJoin="round").encode(x=x, y=y, color=_color())]
    if len(rows) <= 24 * len(series):
        marks.append(chart.mark_point(filled=True, size=28, opacity=1).encode(x=x, y=y, color=_color()))
    return _svg(*marks, height=146, title=title)


def _chart(rows: list[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=rows))


def _color() -> alt.Color:
    return alt.Color("color:N", scale=None, legend=None)


def _rows(field: str, count: int, *, above: float, below: float = 0.35) -> alt.Y:
    """A hidden vertical axis with one unit a row, the first row on top."""
    scale = alt.Scale(domain=[count - 1 + below, -above], nice=False, zero=False)
    return alt.Y(f"{field}:Q", scale=scale, axis=None)


def _text(
    rows: list[dict[str, Any]], y: str, field: str, *, side: str, limit: int = 210, color: str = INK
) -> alt.Chart:
    right = side == "right"
    mark = _chart(rows).mark_text(
        align="right" if right else "left", limit=limit, color=color, fontWeight=600 if right else 400
    )
    x = alt.value("width" if right else 0)
    drawn: alt.Chart = mark.encode(x=x, y=alt.Y(f"{y}:Q", axis=None), text=f"{field}:N")
    return drawn


def _histogram(values: Sequence[float], low: float, high: float) -> list[int]:
    counts = [0] * _BINS
    for value in values:
        place = (math.log10(value) - low) / (high - low) * _BINS
        counts[min(max(int(place), 0), _BINS - 1)] += 1
    return counts


def _round_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten inside a range; only the powers when there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    inside = [value for value in every if low <= value <= high]
    return inside if len(inside) <= 8 else [value for value in inside if math.log10(value).is_integer()]


def _thinned(points: Sequence[Point], field: str) -> list[tuple[float, float]]:
    kept = [(point["step"], point[field]) for point in points if math.isfinite(point.get(field, math.nan))]
    size = max(math.ceil(len(kept) / _POINTS), 1)
    buckets = [kept[start : start + size] for start in range(0, len(kept), size)]
    return [(bucket[-1][0], sum(value for _, value in bucket) / len(bucket)) for bucket in buckets]


def _svg(*layers: alt.Chart, height: int, title: str | None = None) -> str:
    chart = alt.layer(*layers).properties(
        width=WIDTH, height=height, autosize=alt.AutoSizeParams(type="fit", contains="padding")
    )
    if title is not None:
        chart = chart.properties(
            title=alt.TitleParams(text=title, anchor="start", frame="group", fontSize=12.5, color=INK, fontWeight=400)
        )
    spec = chart.configure(
        aria=False,
        background="transparent",
        font=_FONT,
        padding=2,
        view=alt.ViewConfig(stroke=None),
        text=alt.MarkConfig(fontSize=12.5, baseline="middle"),
        axis=alt.AxisConfig(
            labelFontSize=12, titleFontSize=12, titleFontWeight="normal", labelColor=SOFT, titleColor=SOFT,
            gridColor=GRID, domainColor=GRID, tickColor=GRID, tickSize=4, labelPadding=4, titlePadding=6,
        ),
    ).to_dict()  # fmt: skip
    head, body = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]).split(">", 1)
    # Inline SVG needs no namespace, and takes its size from the page.
    head = re.sub(r' (?:xmlns(?::xlink)?|version|class|width|height)="[^"]*"', "", head)
    return f'{head} aria-hidden="true" focusable="false">{body}'
