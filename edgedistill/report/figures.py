"""Numbers as text: never more digits than their interval justifies, always with their unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from edgedistill.types import Estimate, Measurement

SIGNIFICANT = 3
"""Digits of a figure that has no interval."""
MOST_SIGNIFICANT = 4
"""Digits of a figure whose interval would justify more than a reader can use."""

SCORE = "score"
"""What a curve calls how good the model is on validation rows."""
NATS = ("cross_entropy", "kl")
"""Metrics that count nats a token."""

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
SPACE = "\N{NO-BREAK SPACE}"

_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the samples lie, interpolated between neighbours (Hyndman and Fan, type 7)."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def percentile_estimate(values: Sequence[float], share: float) -> Estimate | None:
    """A percentile with its 95 % interval from order statistics, or None when there are too few samples to see it.

    The rank of the true percentile is binomial; its interval is taken from the normal approximation. It is seen only
    when at least one sample is expected beyond it, else the figure would just be the largest sample.
    """
    count = len(values)
    if count * min(share, 1 - share) < 1:
        return None
    ordered = sorted(values)
    spread = 1.96 * math.sqrt(count * share * (1 - share))
    low = max(math.floor(count * share - spread), 0)
    high = min(math.ceil(count * share + spread), count - 1)
    return Estimate(value=percentile(ordered, share), low=ordered[low], high=ordered[high])


def percentiles(found: Measurement) -> list[tuple[str, Estimate | None]]:
    """p50, p90 and p99 of a measurement; p50 takes the interval that the benchmark gave it."""
    named = [(f"p{round(100 * share)}", percentile_estimate(found.values, share)) for share in (0.5, 0.9, 0.99)]
    return [("p50", middle(found)), *named[1:]]


def middle(found: Measurement) -> Estimate | None:
    """The median with the benchmark's interval, else with the one of its order, else None: too few samples."""
    if found.interval is not None:
        return Estimate(value=found.median, low=found.interval[0], high=found.interval[1])
    return percentile_estimate(found.values, 0.5) if len(found.values) >= 6 else None


def decimals(value: float, low: float, high: float) -> int:
    """Decimal places that an interval justifies: its half-width keeps one digit, two when it begins with 1.

    Negative means rounding to tens.
    """
    largest = max(abs(value), abs(low), abs(high))
    if largest == 0 or not math.isfinite(value + low + high):
        return 0
    magnitude = math.floor(math.log10(largest))
    half = (high - low) / 2
    if half <= 0:
        return SIGNIFICANT - 1 - magnitude
    return min(-math.floor(math.log10(half / 2)), MOST_SIGNIFICANT - 1 - magnitude)


def fixed(value: float, places: int, *, signed: bool = False) -> str:
    """A number with that many decimal places, a true minus sign, and commas between thousands."""
    if not math.isfinite(value):
        return "not finite"
    rounded = round(value, places)
    text = f"{abs(rounded):,.{max(places, 0)}f}"
    if rounded < 0:
        return MINUS + text
    return f"+{text}" if signed and rounded > 0 else text


def date(iso: str) -> str:
    """A moment in ISO 8601 to the minute, as people write it; what is none stays as it is."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{moment:%Y-%m-%d %H:%M}" + ("" if moment.tzinfo is None else f"{SPACE}{moment:%Z}")


def number(value: float, unit: str) -> str:
    """A figure without an interval, with its unit: three digits, no zeros behind them."""
    factor, suffix = _scale(value, unit)
    return _trimmed(fixed(value * factor, decimals(value * factor, value * factor, value * factor))) + suffix


def shown(estimate: Estimate, unit: str) -> str:
    """The value of an estimate with its unit, to the digits that its interval justifies."""
    factor, suffix = _scale(estimate.value, unit)
    return fixed(estimate.value * factor, _places(estimate, factor), signed=unit == "points") + suffix


def interval(estimate: Estimate, unit: str) -> str:
    """The interval of an estimate as "low to high", in the scale and digits of its value, without the unit."""
    factor, _ = _scale(estimate.value, unit)
    places = _places(estimate, factor)
    low, high = (fixed(bound * factor, places, signed=unit == "points") for bound in (estimate.low, estimate.high))
    return f"{low} to {high}"


def apart(value: float, bound: float, unit: str) -> str:
    """A figure shown with enough digits that it never looks like a bound it differs from."""
    factor, suffix = _scale(value, unit)
    places = max(decimals(value * factor, value * factor, value * factor), 0)
    while value != bound and places < 12 and round(value * factor, places) == round(bound * factor, places):
        places += 1
    return _trimmed(fixed(value * factor, places)) + suffix


def is_exact(estimate: Estimate) -> bool:
    """Whether the interval has no width: a count or a file size, not a sample."""
    return estimate.low == estimate.high


def unit_of(metric: str, estimates: Iterable[Estimate]) -> str:
    """The unit of a metric: nats, a share of one (accuracy, F1), or none for a scale of its own."""
    if metric in NATS:
        return "nats"
    return "share" if all(0 <= estimate.value <= 1 for estimate in estimates) else ""


def terms(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """What curves say at their steps, cross-entropy first; a loss of several terms is told by its terms."""
    there = dict.fromkeys(name for points in curves.values() for point in points for name in point if name != "step")
    names = sorted(there, key=lambda name: (name != "ce", name == SCORE))
    return [name for name in names if name != "loss"] if {*names} - {"loss", SCORE} else names


def ends(points: Sequence[Mapping[str, float]], term: str) -> str:
    """Where a curve begins and where it ends."""
    values = [point[term] for point in points if term in point]
    return f"{number(values[0], '')} to {number(values[-1], '')}" if values else ""


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _places(estimate: Estimate, factor: float) -> int:
    return decimals(estimate.value * factor, estimate.low * factor, estimate.high * factor)


def _scale(value: float, unit: str) -> tuple[float, str]:
    """What to multiply a figure with, and what to write behind it."""
    if unit == "share":
        return 100.0, f"{SPACE}%"
    if unit == "times":
        return 1.0, TIMES
    if unit == "bytes":
        size, name = next((item for item in _BYTES if abs(value) >= item[0]), _BYTES[-1])
        return 1 / size, f"{SPACE}{name}"
    return 1.0, f"{SPACE}{unit}" if unit else ""
