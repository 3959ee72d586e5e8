"""The page of a benchmark and its twin in plain Markdown. Pure: a Result in, text out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgedistill.bench import compare as comparing
from edgedistill.bench.course import STOPPED
from edgedistill.report import bench_history, bench_panels, bench_tables, bench_validity, pareto
from edgedistill.report import page as pages
from edgedistill.report.blocks import MISSING, Cell, Figure, Page, Panel, Section, label, within
from edgedistill.report.figures import date, interval, is_exact, number, shown
from edgedistill.report.markdown import text
from edgedistill.report.runs import (
    FAILED,
    SHORT,
    WHO,
    Column,
    by_length,
    capital,
    columns,
    device,
    estimate_cell,
    of_median,
    sure,
    tokens,
)
from edgedistill.types import Comparison, Contender, DeviceRun, Measurement, NotMeasured, Ratio, Result

AGAINST: tuple[Contender, ...] = ("teacher", "teacher exported")
"""Whom the headline compares with: the first of them that was measured."""


def page(
    result: Result,
    before: Result | None = None,
    *,
    comparisons: Sequence[Comparison] = (),
    alternatives: Sequence[Mapping[str, Any]] = (),
) -> str:
    """A benchmark as one self-contained HTML page.

    Args:
        before: an earlier result, and `comparisons` of it with this one, earlier first.
        alternatives: the files that the export could have shipped: `candidates` of `export.json`.
    """
    return pages.html(_content(result, before, comparisons, alternatives))


def markdown(
    result: Result,
    before: Result | None = None,
    *,
    comparisons: Sequence[Comparison] = (),
    alternatives: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The same figures in plain Markdown; the arguments are those of `page`."""
    return text(_content(result, before, comparisons, alternatives))


def _content(
    result: Result,
    before: Result | None,
    comparisons: Sequence[Comparison],
    alternatives: Sequence[Mapping[str, Any]],
) -> Page:
    of = columns(result)
    head = _headline(of)
    unit = "tokens/s" if by_length(of) else "ms"
    drawn, tables = _trade_offs(result, head, unit, alternatives)
    first = (bench_tables.devices(of, result.remarks), bench_tables.writing(of), bench_tables.against(result))
    rest = (
        bench_history.section(result, before, comparisons),
        bench_tables.baselines(of),
        bench_tables.sweep(of),
        tables,
        bench_validity.validity(of),
        bench_validity.environment(result),
    )
    return Page(
        name=str(result.bundle.get("name", "bundle")),
        about=f"for {result.bundle.get('target', 'any device')}, benchmarked",
        verdict=verdict(result, head),
        standing=(bench_validity.trust(of), *_standing(result, comparisons)),
        clock=_clock(result, head),
        made=f"edgedistill {result.version}, {date(result.created)}",
        figures=_figures(head),
        place=None if head is None else Cell(text=f"On {device(head.run)}", marks=head.head().marks),
        first=tuple(part for part in first if part),
        panels=(*bench_panels.panels(of), *drawn),
        sections=tuple(part for part in rest if part),
    )


def verdict(result: Result, head: Column | None) -> str:
    """The one sentence under the title: against the teacher where there is one, else what the bundle does alone."""
    if head is None:
        return capital(f"{_why_not(result)}.")
    found = {
        (ratio.name, ratio.against): ratio
        for ratio in result.ratios
        if ratio.link == head.run.link and ratio.kind == head.kind
    }
    for who in AGAINST:
        speed = found.get(("latency", who)) or found.get(("decode", who))
        size, kept = found.get(("size", who)), found.get(("accuracy", who))
        said = [_times(ratio) for ratio in (speed, size) if ratio is not None]
        if said:
            held = "" if kept is None else f", keeping {shown(kept.estimate, 'share')} of its {within(head.metric)}"
            sure_ = "" if kept is None or is_exact(kept.estimate) else f" ({interval(kept.estimate, 'share')})"
            return capital(f"{' and '.join(said)} than {WHO[who]}{held}{sure_}.")
    there = [figure for figure in _figures(head)[:3] if figure.value.text != MISSING]
    told = ", ".join(f"{figure.value.text} {figure.title.lower()}" for figure in there)
    return f"{told}."


def _why_not(result: Result) -> str:
    """Why the bundle was measured nowhere; where several devices failed, why the first of them did."""
    for run in result.runs:
        for figure in run.measurements:
            if run.contender == "bundle" and isinstance(figure, NotMeasured):
                # What is refused lists its problems below its first line.
                return f"{MISSING} on {device(run)}: {figure.reason.splitlines()[0]}"
    return f"the bundle was {MISSING}"


def _times(ratio: Ratio) -> str:
    found = ratio.estimate
    _, better, worse = bench_tables.OF_RATIOS[ratio.name]
    if found.low <= 1 <= found.high and not is_exact(found):
        return f"no {better} and no {worse}"
    return f"{shown(bench_tables.turned(found), 'times')} {better if found.value > 1 else worse}"


def _headline(of: Sequence[Column]) -> Column | None:
    """The run that the page speaks of first: the bundle's first one that was timed, stable ones before others."""
    bundles = [column for column in of if column.run.contender == "bundle" and column.own and column.state != FAILED]
    return min(bundles, key=lambda column: (column.kind != "measured", not column.run.stable), default=None)


def _figures(head: Column | None) -> tuple[Figure, ...]:
    """What an engineer asks first: how fast, how big, how good, how much memory."""
    if head is None:
        return ()
    lengths = by_length([head])
    if lengths:
        # A prompt of middling length stands for all; the table has every one.
        length = sorted(lengths.get("decode") or next(iter(lengths.values())))
        chosen = length[len(length) // 2]
        speed = [(f"Writing, prompt of {tokens(chosen)}", f"decode@{chosen}")]
        speed += [(f"First token, prompt of {tokens(chosen)}", f"first_token@{chosen}")]
    else:
        speed = [("A text, p50", "latency"), ("In batches", "throughput")]
    fast = [Figure(title=title, value=_first(head, name)) for title, name in speed]
    accuracy, kept = head.run.accuracy, head.find("answers_equal")
    good = Figure(title=label(head.metric), value=_none() if accuracy is None else estimate_cell(accuracy, "share"))
    if accuracy is None and isinstance(kept, Measurement):
        good = Figure(title="Answers equal to the host's", value=_first(head, "answers_equal"))
    big = Figure(title="File", value=Cell(text=number(head.run.file_bytes, "bytes"), note="exact"))
    memory = Figure(title="Memory of the process", value=_first(head, "memory_process"))
    return fast[0], big, good, fast[1], memory


def _first(head: Column, name: str) -> Cell:
    found = of_median(name)(head)
    return _none(found.reason) if isinstance(found, NotMeasured) else found


def _none(reason: str = "no answers were judged") -> Cell:
    return Cell(text=MISSING, note=reason, tone="missing")


def _standing(result: Result, comparisons: Sequence[Comparison]) -> tuple[tuple[str, str], ...]:
    """What the devices agree on, and what became worse, in a few words with their tones."""
    found: list[tuple[str, str]] = []
    if any(reason.startswith(STOPPED) for run in result.runs for reason in run.reasons):
        found.append(("bad", "Stopped before its end"))
    equal = [
        item.median
        for run in result.runs
        if run.contender == "bundle"
        for item in run.measurements
        if item.name == "answers_equal" and isinstance(item, Measurement)
    ]
    if equal:
        same = sum(share == 1 for share in equal)
        devices = f"{len(equal)} device{'s' if len(equal) > 1 else ''}"
        found.append(("good" if same == len(equal) else "bad", f"Answers equal on {same} of {devices}"))
    if comparisons:
        found += _changes(comparisons)
    return tuple(found)


def _changes(comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    """What became worse or better; what could not be compared is no good news."""
    count = Counter(comparison.verdict for comparison in comparisons if comparison.contender == "bundle")
    worse, better, untold = (count[verdict] for verdict in ("worse", "better", "not comparable"))
    if untold == count.total():
        return [("missing", "Nothing comparable with the run before")]
    if not worse and comparing.no_time(comparisons):
        return [("missing", "No time comparable with the run before")]
    figures = f"figure{'s' if worse > 1 else ''} worse than before"
    found = [("bad", f"{worse} {figures}") if worse else ("good", "No figure worse than before")]
    found += [("good", f"{better} better than before")] if better else []
    return found + ([("missing", f"{untold} not comparable")] if untold else [])


def _clock(result: Result, head: Column | None) -> str:
    """What exactly was measured, and when."""
    digest = str(result.bundle.get("digest") or "")[: bench_history.DIGITS] or "unknown"
    what = f"recipe {result.bundle.get('recipe', 'unknown')}, digest {digest}, {date(result.created)}."
    if head is None:
        return capital(what)
    threads = head.run.in_effect.get("threads")
    spent = f", {threads} thread{'' if threads == 1 else 's'}" if threads else ""
    return f"Engine {head.run.engine}{spent}, {what}"


def _trade_offs(
    result: Result, head: Column | None, unit: str, alternatives: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Panel, ...], Section | None]:
    """Size, accuracy and speed of the contenders on the headline's device, and of the files that could have shipped."""
    panels, tables = [], []
    here = [] if head is None else [run for run in result.runs if (run.link, run.kind) == (head.run.link, head.kind)]
    if head is not None and len(here) > 1:
        contenders = pareto.marked([_contestant(run, unit) for run in here], unit=unit)
        title = f"Size, accuracy and speed on {head.place}"
        panels.append(
            pareto.panel(title, contenders, unit=unit, metric=label(head.metric), note=f"{label(head.kind)}.")
        )
        caption = f"Contenders on {head.place}, {head.kind}"
        tables.append(pareto.front(caption, contenders, unit=unit, metric=label(head.metric)))
    if alternatives:
        others = pareto.of_alternatives(alternatives)
        note = "Measured when the files were made, on the machine that made them, with one thread."
        title = "Files that could have shipped"
        panels.append(pareto.panel(title, others, unit=unit, metric="Quality", note=note))
        tables.append(pareto.front(f"{title}, measured", others, unit=unit, metric="Quality", note=note))
    section = Section(id="trade", title="What is traded for what", tables=tuple(tables)) if tables else None
    return tuple(panel for panel in panels if panel), section


def _contestant(run: DeviceRun, unit: str) -> pareto.Contestant:
    names = [item for item in run.measurements if isinstance(item, Measurement) and item.kind == run.kind]
    lengths = sorted(int(item.name.split("@")[1]) for item in names if item.name.startswith("decode@"))
    name = f"decode@{lengths[len(lengths) // 2]}" if lengths else "latency"
    speed = next((sure(item) for item in names if item.name == name and item.unit == unit), None)
    return pareto.Contestant(
        title=SHORT[run.contender],
        size_bytes=float(run.file_bytes),
        quality=run.accuracy,
        speed=speed,
        note="" if run.stable else "unstable",
    )
