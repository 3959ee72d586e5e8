"""Size, quality and speed of several files: a picture of what is traded for what, and the table behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from string import ascii_uppercase
from typing import Any

from edgedistill.report import plots
from edgedistill.report.blocks import MISSING, Cell, Panel, Table, table
from edgedistill.report.figures import interval, is_exact, number, shown, unit_of
from edgedistill.types import Estimate

BIGGER_IS_BETTER = ("tokens/s", "rows/s")
BEST, FAILED = "exported", "teacher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A file with what it takes and what it gives; None where that was not found out.

    Attributes:
        holds: it may ship.
        best: no other one that holds is as small, as good and as fast, and better in one of these.
        note: why it does not hold, or anything else.
    """

    title: str
    size_bytes: float | None
    quality: Estimate | None
    speed: Estimate | None
    holds: bool = True
    best: bool = False
    note: str = ""


def of_alternatives(found: Sequence[Mapping[str, Any]]) -> tuple[Contestant, ...]:
    """The recipes of an export: the candidates of its record, or the steps of a build's ladder."""
    made = []
    for one in found:
        kept = len(one.get("kept_in_float") or ())
        made.append(
            Contestant(
                title=str(one.get("recipe", "")) + (f", {kept} in float32" if kept else ""),
                size_bytes=one.get("size_bytes"),
                quality=_exact(one.get("quality", one.get("value"))),
                speed=_exact(one.get("speed"), one.get("speed_interval")),
                holds=bool(one.get("passed")),
                best=bool(one.get("best")),
                note=str(one.get("reason") or ""),
            )
        )
    return tuple(made) if any("best" in one for one in found) else marked(made)


def marked(contestants: Sequence[Contestant], *, unit: str = "ms") -> tuple[Contestant, ...]:
    """The same with those marked that no other one beats: the Pareto front of size, quality and speed.

    Speeds whose intervals overlap are taken for equal, and so are figures that are missing. Quality is compared as it
    is: files are judged on the same rows, so their intervals are wider than what is between them.

    Args:
        unit: of speed; it says whether a greater figure is better.
    """
    sign = 1 if unit in BIGGER_IS_BETTER else -1
    held = [one for one in contestants if one.holds]

    def beats(other: Contestant, mine: Contestant) -> bool:
        less = (mine.size_bytes or 0.0) - (other.size_bytes or 0.0)
        better = (other.quality.value - mine.quality.value) if other.quality and mine.quality else 0.0
        leads = (less, better, sign * _apart(other.speed, mine.speed))
        return min(leads) >= 0 and max(leads) > 0

    return tuple(replace(one, best=one.holds and not any(beats(other, one) for other in held)) for one in contestants)


def panel(title: str, contestants: Sequence[Contestant], *, unit: str, metric: str, note: str) -> Panel | None:
    """Quality over size, and over speed where that is known; None where there are no two points to compare."""
    lettered = list(zip(ascii_uppercase, contestants, strict=False))
    quality = unit_of(metric, (one.quality for _, one in lettered if one.quality))
    factor = 100 if quality == "share" else 1
    of_size = [_point(letter, one, _scaled(one.size_bytes), factor) for letter, one in lettered]
    of_speed = [_point(letter, one, one.speed, factor) for letter, one in lettered]
    name = f"{metric}, %" if quality == "share" else metric
    drawings = [
        partial(plots.points, drawn, axis, name, most=100.0 if quality == "share" else math.inf)
        for axis, points in (("megabytes", of_size), (_axis(unit), of_speed))
        if len(drawn := [point for point in points if point is not None]) > 1
    ]
    if not drawings:
        return None
    who = "; ".join(
        f"{letter}: {one.title}" for letter, one in lettered if one.quality and (one.size_bytes or one.speed)
    )
    said = "Filled: no other one is as small, as good and as fast, and better in one of these. No scale begins at zero."
    words = tuple(f"{letter}, {_in_words(one, unit)}" for letter, one in lettered)
    return Panel(title=title, drawings=tuple(drawings), words=words, note=f"{who}. {note} {said}")


def front(title: str, contestants: Sequence[Contestant], *, unit: str, metric: str, note: str = "") -> Table:
    """The table behind the picture, with its letters."""
    quality = unit_of(metric, (one.quality for one in contestants if one.quality))
    speed = {"ms": "Time", "tokens/s": "Tokens a second"}.get(unit, "Speed")
    rows = [
        (
            Cell(text=f"{letter}  {one.title}", note=one.note),
            _cell(_scaled(one.size_bytes, 1), "bytes"),
            _cell(one.quality, quality),
            _cell(one.speed, unit),
            _verdict(one),
        )
        for letter, one in zip([*ascii_uppercase, *[""] * len(contestants)], contestants, strict=False)
    ]
    return table(title, f"File | Size# | {metric}# | {speed}# | On the front", *rows, note=note)


def _verdict(one: Contestant) -> Cell:
    if not one.holds:
        return Cell(text="does not hold", tone="bad")
    return Cell(text="yes", tone="good") if one.best else Cell(text="no")


def _cell(found: Estimate | None, unit: str) -> Cell:
    if found is None:
        return Cell(text=MISSING, tone="missing")
    exact = is_exact(found)
    return Cell(
        text=number(found.value, unit) if exact else shown(found, unit), note="" if exact else interval(found, unit)
    )


def _point(letter: str, one: Contestant, x: Estimate | None, factor: float) -> plots.Point | None:
    if x is None or one.quality is None:
        return None
    y = Estimate(value=one.quality.value * factor, low=one.quality.low * factor, high=one.quality.high * factor)
    return plots.Point(letter=letter, color=BEST if one.holds else FAILED, x=x, y=y, best=one.best)


def _axis(unit: str) -> str:
    return {"ms": "milliseconds an answer", "tokens/s": "tokens a second"}.get(unit, unit)


def _in_words(one: Contestant, unit: str) -> str:
    size = MISSING if one.size_bytes is None else number(one.size_bytes, "bytes")
    quality = MISSING if one.quality is None else shown(one.quality, unit_of("", [one.quality]))
    speed = MISSING if one.speed is None else shown(one.speed, unit)
    return f"{one.title}: size {size}, quality {quality}, speed {speed}"


def _scaled(size: float | None, factor: float = 1e-6) -> Estimate | None:
    return None if size is None else Estimate(value=size * factor, low=size * factor, high=size * factor)


def _exact(found: float | None, interval_: Sequence[float] | None = None) -> Estimate | None:
    if found is None:
        return None
    low, high = interval_ or (found, found)
    return Estimate(value=found, low=low, high=high)


def _apart(one: Estimate | None, other: Estimate | None) -> int:
    """1 where one interval lies above the other, -1 where below, 0 where they share a value or one is missing."""
    if one is None or other is None:
        return 0
    return (one.low > other.high) - (one.high < other.low)
