"""What every chart is drawn on: static inline SVG, narrow so that its text stays legible on a phone."""

from __future__ import annotations

import math
import re
from typing import Any

import altair as alt
import vl_convert

WIDTH = 340
"""Pixels of a chart before the page scales it: a phone shows it at about 0.9 of that, a desktop at about 1.2."""

INK, SOFT, GRID = "#1f2428", "#5b6570", "#dfe3e8"
COLORS = {
    "teacher": "#7a838d",
    "control": "#b96a00",
    "student": "#2f74c0",
    "exported": "#0b7f6d",
    "fifth": "#8a56b8",
    "sixth": "#c2476f",
}
THEME = ((INK, "ink"), (SOFT, "soft"), (GRID, "line"), *((shade, name) for name, shade in COLORS.items()))
"""The page's style sheet finds marks by these exact colors and replaces them by its own, lighter in the dark."""

_FONT = "system-ui, sans-serif"


def chart(rows: list[dict[str, Any]]) -> alt.Chart:
    """A layer over rows that travel inside the chart."""
    return alt.Chart(alt.InlineData(values=rows))


def color() -> alt.Color:
    """The color that each row names."""
    return alt.Color("color:N", scale=None, legend=None)


def rows_of(field: str, count: int, *, above: float, below: float = 0.35) -> alt.Y:
    """A hidden vertical axis with one unit a row, the first row on top."""
    scale = alt.Scale(domain=[count - 1 + below, -above], nice=False, zero=False)
    return alt.Y(f"{field}:Q", scale=scale, axis=None)


def text(rows: list[dict[str, Any]], y: str, field: str, *, side: str, limit: int = 210, color: str = INK) -> alt.Chart:
    """A word a row at the chart's left or right edge."""
    right = side == "right"
    mark = chart(rows).mark_text(
        align="right" if right else "left", limit=limit, color=color, fontWeight=600 if right else 400
    )
    x = alt.value("width" if right else 0)
    drawn: alt.Chart = mark.encode(x=x, y=alt.Y(f"{y}:Q", axis=None), text=f"{field}:N")
    return drawn


def round_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten inside a range; only the powers when there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    inside = [value for value in every if low <= value <= high]
    return inside if len(inside) <= 8 else [value for value in inside if math.log10(value).is_integer()]


def svg(*layers: alt.Chart, height: int, title: str | None = None) -> str:
    """The layers as one SVG element for use inside a page."""
    drawn = alt.layer(*layers).properties(
        width=WIDTH, height=height, autosize=alt.AutoSizeParams(type="fit", contains="padding")
    )
    if title is not None:
        drawn = drawn.properties(
            title=alt.TitleParams(text=title, anchor="start", frame="group", fontSize=12.5, color=INK, fontWeight=400)
        )
    spec = drawn.configure(
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
    ).to_dict(validate=False)  # fmt: skip
    head, body = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]).split(">", 1)
    # Inline SVG needs no namespace, and takes its size from the page.
    head = re.sub(r' (?:xmlns(?::xlink)?|version|class|width|height)="[^"]*"', "", head)
    return f'{head} aria-hidden="true" focusable="false">{body}'
