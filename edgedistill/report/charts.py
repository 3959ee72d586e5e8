"""The charts of training and of accuracy; `plots` has those of speed, size and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from edgedistill.report import canvas
from edgedistill.report.blocks import label
from edgedistill.report.canvas import COLORS
from edgedistill.report.figures import shown, unit_of
from edgedistill.types import Arm

_POINTS = 160

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
    y = canvas.rows_of("row", len(rows), above=0.75)
    base = canvas.chart(rows)
    return canvas.svg(
        base.mark_rule(strokeWidth=2).encode(x=end, x2="high:Q", y=y, color=canvas.color()),
        base.mark_point(filled=True, size=80, opacity=1).encode(x=value, y=y, color=canvas.color()),
        canvas.text(rows, "label", "title", side="left"),
        canvas.text(rows, "label", "text", side="right"),
        height=len(rows) * 48 + 34,
    )


def curves(series: Mapping[str, Sequence[Point]], field: str, title: str, *, percent: bool = False) -> str:
    """One line a contestant over training steps; long curves are averaged in buckets."""
    rows = [
        {"step": step, "value": value * (100 if percent else 1), "color": COLORS[name]}
        for name, points in series.items()
        for step, value in _thinned(points, field)
    ]
    chart = canvas.chart(rows)
    x = alt.X("step:Q", axis=alt.Axis(title="step", tickCount=4, format=",~f"), scale=alt.Scale(nice=False))
    y = alt.Y("value:Q", axis=alt.Axis(title=None, tickCount=4, format=",~f"), scale=alt.Scale(zero=False))
    marks = [chart.mark_line(strokeWidth=2, strokeJoin="round").encode(x=x, y=y, color=canvas.color())]
    if len(rows) <= 24 * len(series):
        marks.append(chart.mark_point(filled=True, size=28, opacity=1).encode(x=x, y=y, color=canvas.color()))
    return canvas.svg(*marks, height=146, title=title)


def _thinned(points: Sequence[Point], field: str) -> list[tuple[float, float]]:
    kept = [(point["step"], point[field]) for point in points if math.isfinite(point.get(field, math.nan))]
    size = max(math.ceil(len(kept) / _POINTS), 1)
    buckets = [kept[start : start + size] for start in range(0, len(kept), size)]
    return [(bucket[-1][0], sum(value for _, value in bucket) / len(bucket)) for bucket in buckets]
