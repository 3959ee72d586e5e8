"""The four charts with their titles, legends and the same content in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgedistill.report import charts
from edgedistill.report.blocks import MISSING, label, missing, within
from edgedistill.report.figures import ends, interval, number, shown, terms, unit_of
from edgedistill.report.measurements import HOST, find
from edgedistill.report.sections import main_metric
from edgedistill.types import Arm, Measurement, NotMeasured, Report, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart. `words` is its content for those who do not see it; `legend` pairs a contestant with its title."""

    title: str
    drawings: tuple[Markup, ...]
    words: str
    note: str
    legend: tuple[tuple[str, str], ...] = ()


def panels(report: Report) -> tuple[Panel, ...]:
    """Accuracy, latency, size and memory, and training, in this order."""
    shown_arms = accuracy(report.arms, main_metric(report.arms))
    return shown_arms, _latency(report), _sizes(report), training(report.curves, report.arms)


def accuracy(arms: Sequence[Arm], metric: str | None) -> Panel:
    """How the arms do by one metric."""
    if metric is None:
        return _empty("Accuracy", "no arm was evaluated")
    return Panel(
        title=f"{label(metric)} on the test rows",
        drawings=(Markup(charts.accuracy(arms, metric)),),
        words=_arms_in_words(arms, metric),
        note="Measured. Dots with 95\N{NO-BREAK SPACE}% intervals; the scale does not begin at zero.",
    )


def _latency(report: Report) -> Panel:
    title = "Time for one text"
    drawn = [(side, item) for side, item in _measured(report, "latency") if min(item.values) > 0]
    absent = _absent(report, "latency")
    if not drawn:
        return _empty(title, " ".join(absent) or "the benchmark was not run")
    note = f"Measured on {HOST}. The bars under each shape, long to short, are p50, p90, p99."
    return Panel(
        title=title,
        drawings=(Markup(charts.latency(drawn)),),
        words="; ".join(f"{side.title}: median {number(item.median, item.unit)}" for side, item in drawn),
        note=" ".join([note, *absent]),
    )


def _sizes(report: Report) -> Panel:
    title = "Size and memory"
    if not report.subjects:
        return _empty(title, "the benchmark was not run")
    groups: list[tuple[str, list[tuple[str, float]]]] = []
    groups.append(("File", [(side.name, float(side.file_bytes)) for side in report.subjects]))
    absent: list[str] = []
    for name in ("memory_model", "memory_process"):
        if found := _measured(report, name):
            groups.append((label(name), [(side.name, item.median) for side, item in found]))
        absent += _absent(report, name)
    words = "; ".join(f"{head}: {name} {number(value, 'bytes')}" for head, bars in groups for name, value in bars)
    return Panel(
        title=title,
        drawings=(Markup(charts.sizes(groups)),),
        words=words,
        note=" ".join([f"Measured on {HOST}. 1 MB is a million bytes.", *absent]),
        legend=tuple((side.name, side.title) for side in report.subjects),
    )


def training(curves: Mapping[str, Sequence[Mapping[str, float]]], arms: Sequence[Arm]) -> Panel:
    """What each arm's training logged, every term of the loss in a chart of its own."""
    title = "Training"
    series = {name: curves[name] for name in charts.COLORS if curves.get(name)}
    drawings = []
    for term in terms(series):
        there = {name: points for name, points in series.items() if any(term in point for point in points)}
        drawings.append(Markup(charts.curves(there, term, label(term))))
    if not drawings:
        return _empty(title, "no curve was logged")
    return Panel(
        title=title,
        drawings=tuple(drawings),
        words="; ".join(
            f"{name}: {within(term)} from {ends(points, term)}"
            for name, points in series.items()
            for term in terms({name: points})
        ),
        note="Measured, on the training rows; only the score is of validation rows.",
        legend=tuple((name, _title(arms, name)) for name in series),
    )


def _arms_in_words(arms: Sequence[Arm], metric: str) -> str:
    found = [(arm.title, arm.metrics[metric]) for arm in arms if metric in arm.metrics]
    unit = unit_of(metric, (estimate for _, estimate in found))
    return "; ".join(f"{title} {shown(estimate, unit)} ({interval(estimate, unit)})" for title, estimate in found)


def _title(arms: Sequence[Arm], name: str) -> str:
    return next((arm.title for arm in arms if arm.name == name), label(name))


def _measured(report: Report, name: str) -> list[tuple[Subject, Measurement]]:
    found = ((side, find(side, name)) for side in report.subjects)
    return [(side, item) for side, item in found if isinstance(item, Measurement) and item.kind == "measured"]


def _absent(report: Report, name: str) -> list[str]:
    found = ((side, find(side, name)) for side in report.subjects)
    return [
        f"{label(name)} of the {side.name}: {missing(item)}." for side, item in found if isinstance(item, NotMeasured)
    ]


def _empty(title: str, why: str) -> Panel:
    text = why if MISSING in why else f"{MISSING}: {why}"
    return Panel(title=title, drawings=(), words="", note=text[:1].upper() + text[1:])
