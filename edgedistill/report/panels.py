"""The charts of a build with their titles, legends and the same content in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from edgedistill.report import charts, memory, pareto, plots
from edgedistill.report.blocks import MISSING, Panel, label, missing, within
from edgedistill.report.canvas import COLORS
from edgedistill.report.figures import ends, interval, number, percentiles, shown, terms, unit_of
from edgedistill.report.measurements import HOST, find
from edgedistill.report.sections import main_metric
from edgedistill.types import Arm, Measurement, NotMeasured, Report, Subject


def panels(report: Report) -> tuple[Panel, ...]:
    """Accuracy, times, size and memory, what the recipes trade for what, and training, in this order."""
    shown_arms = accuracy(report.arms, main_metric(report.arms))
    found = (shown_arms, _latency(report), _sizes(report), *_memory(report), *_recipes(report))
    return *found, training(report.curves, report.arms)


def accuracy(arms: Sequence[Arm], metric: str | None) -> Panel:
    """How the arms do by one metric."""
    if metric is None:
        return _empty("Accuracy", "no arm was evaluated")
    return Panel(
        title=f"{label(metric)} on the test rows",
        drawings=(partial(charts.accuracy, arms, metric),),
        words=_arms_in_words(arms, metric),
        note="Measured. Dots with 95\N{NO-BREAK SPACE}% intervals; the scale does not begin at zero.",
    )


def _latency(report: Report) -> Panel:
    title = "Time for one text"
    drawn = [
        plots.Shape(
            title=side.title,
            color=side.name,
            values=item.values,
            unit=item.unit,
            percentiles=percentiles(item),
        )
        for side, item in _measured(report, "latency")
        if min(item.values) > 0
    ]
    absent = _absent(report, "latency")
    if not drawn:
        return _empty(title, " ".join(absent) or "the benchmark was not run")
    note = f"Measured on {HOST}. The bars under each shape, long to short, are p50, p90, p99."
    return Panel(
        title=title,
        drawings=(partial(plots.histograms, drawn),),
        words=tuple(f"{shape.title}: {plots.percentiles_of(shape)}" for shape in drawn),
        note=" ".join([note, *absent]),
        plain=plots.plain_histograms(drawn),
    )


def _sizes(report: Report) -> Panel:
    title = "Size of the files"
    if not report.subjects:
        return _empty(title, "the benchmark was not run")
    bars = [
        plots.Bar(title=side.title, parts=[(side.name, float(side.file_bytes))], text=number(side.file_bytes, "bytes"))
        for side in report.subjects
    ]
    return Panel(
        title=title,
        drawings=(partial(plots.bars, bars),),
        words=tuple(f"{bar.title}: {bar.text}" for bar in bars),
        note="Counted. 1 MB is a million bytes.",
    )


def _memory(report: Report) -> tuple[Panel, ...]:
    """What the memory of each contestant's process is made of."""
    found, absent = [], []
    for side in report.subjects:
        medians = {
            item.name: item.median
            for item in side.measurements
            if isinstance(item, Measurement) and item.kind == "measured"
        }
        if parts := memory.split(medians):
            found.append((side.title, parts))
        absent += [
            f"{label(item.name)} of the {side.name}: {missing(item)}."
            for item in side.measurements
            if isinstance(item, NotMeasured) and item.name in ("memory_process", "memory_model")
        ]
    made = memory.stack({f"Measured on {HOST}": found}, " ".join(absent))
    return (made,) if made else ()


def _recipes(report: Report) -> tuple[Panel, ...]:
    """The recipes that the export tried, where there are several: what each loses for its size."""
    steps = pareto.of_alternatives(report.export.get("ladder", ()))
    metric = next((str(step.get("metric", "")) for step in report.export.get("ladder", ())), "")
    note = "Measured on the validation rows."
    made = pareto.panel("Recipes that were tried", steps, unit="ms", metric=label(metric), note=note)
    return (made,) if made else ()


def training(curves: Mapping[str, Sequence[Mapping[str, float]]], arms: Sequence[Arm]) -> Panel:
    """What each arm's training logged, every term of the loss in a chart of its own."""
    title = "Training"
    series = {name: curves[name] for name in COLORS if curves.get(name)}
    drawings = []
    for term in terms(series):
        there = {name: points for name, points in series.items() if any(term in point for point in points)}
        drawings.append(partial(charts.curves, there, term, label(term)))
    if not drawings:
        return _empty(title, "no curve was logged")
    return Panel(
        title=title,
        drawings=tuple(drawings),
        words=tuple(
            f"{name}: {within(term)} from {ends(points, term)}"
            for name, points in series.items()
            for term in terms({name: points})
        ),
        note="Measured, on the training rows; only the score is of validation rows.",
        legend=tuple((name, _title(arms, name)) for name in series),
    )


def _arms_in_words(arms: Sequence[Arm], metric: str) -> tuple[str, ...]:
    found = [(arm.title, arm.metrics[metric]) for arm in arms if metric in arm.metrics]
    unit = unit_of(metric, (estimate for _, estimate in found))
    return tuple(f"{title} {shown(estimate, unit)} ({interval(estimate, unit)})" for title, estimate in found)


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
    return Panel(title=title, drawings=(), words=(), note=text[:1].upper() + text[1:])
