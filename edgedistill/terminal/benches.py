"""What the command line shows of a benchmark and of two of them compared, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgedistill.terminal.tables import table_of, value_of
from edgedistill.types import Comparison, DeviceRun, Measurement, NotMeasured, Result

ENOUGH = 100
"""Samples from which the 99th percentile is more than the largest of them."""
COLUMNS = 80
COLORS = {"equal": "", "better": "green", "worse": "bold red", "not comparable": "yellow"}


def result_tables(result: Result) -> list[RenderableType]:
    """One table a run, with the thread counts that were tried, and what a reader should know."""
    found: list[RenderableType] = []
    for run in result.runs:
        found += _run(run, result.workload.get("metric") or "accuracy")
    return [*found, *(Text(f"note: {remark}") for remark in result.remarks)]


def comparison_tables(found: Sequence[Comparison]) -> list[RenderableType]:
    """One table a device and contender: every figure of two results, the second over the first.

    Below it stands what was not compared.
    """
    shown: list[RenderableType] = []
    for link, contender in dict.fromkeys((comparison.link, comparison.contender) for comparison in found):
        who = "" if contender == "bundle" else f", {contender}"
        table = table_of(f"compared on {link}{who}: second over first", "figure", "ratio", "95 %", "verdict")
        notes: dict[str, list[str]] = {}
        for one in found:
            if (one.link, one.contender) != (link, contender):
                continue
            name = one.name.replace("_", " ")
            if one.ratio is not None or not one.note:
                table.add_row(name, *_ratio(one), Text(one.verdict, COLORS[one.verdict]))
            if one.note:
                notes.setdefault(f"{one.verdict}: {{}}: {one.note}", []).append(name)
        shown += [table] if table.row_count else []
        shown += [Text(note.replace("{}", ", ".join(names))) for note, names in notes.items()]
    return shown


def _ratio(one: Comparison) -> tuple[str, str]:
    found = one.ratio
    if found is None:
        return "", ""
    return f"{found.value:.3f}", "" if found.low == found.high else f"{found.low:.3f}–{found.high:.3f}"


def _run(run: DeviceRun, metric: str) -> Iterator[RenderableType]:
    who = "" if run.contender == "bundle" else f", {run.contender}"
    threads = run.in_effect["threads"]
    end = who if run.kind in run.title else f"{who}, {run.kind}"
    name = run.title if len(run.title) + len(end) <= COLUMNS else f"{run.title[: COLUMNS - len(end) - 1]}…"
    # A line of its own: a table's title is broken at the width of the table, which may be half of this.
    yield Text(f"{name}{end}", "bold")
    yield Text(f"{value_of(run.file_bytes, 'bytes')}, {run.engine}, threads: {threads}")
    table = table_of(None, "figure", "p50", "95 %", "p90", "p99")
    missing: dict[tuple[str, str | None], list[str]] = {}
    for figure in run.measurements:
        if isinstance(figure, NotMeasured):
            missing.setdefault((figure.reason, figure.remedy), []).append(figure.name.replace("_", " "))
        else:
            _add(table, figure)
    if run.accuracy is not None:
        low, high = run.accuracy.low, run.accuracy.high
        table.add_row(metric.replace("_", " "), f"{run.accuracy.value:.1%}", f"{low:.1%}–{high:.1%}", "", "")
    if table.row_count:
        yield table
    if len(run.sweep) > 1:
        yield _sweep(run)
    for (reason, remedy), names in missing.items():
        yield Text(f"not measured: {', '.join(names)}: {reason}" + (f" ({remedy})" if remedy else ""))
    for reason in run.reasons:
        yield Text(f"unstable: {reason}", "yellow")


def _add(table: Table, figure: Measurement) -> None:
    name = figure.name.replace("_", " ")
    spread = "" if figure.interval is None else "–".join(_plain(end) for end in figure.interval)
    high = ["", ""]
    if len(figure.values) >= ENOUGH:
        high = [value_of(float(np.percentile(figure.values, share)), figure.unit) for share in (90, 99)]
    style = "" if figure.stable else "yellow"
    table.add_row(Text(name, style), value_of(figure.median, figure.unit), spread, *high)


def _sweep(run: DeviceRun) -> Table:
    name = "latency_ms" if "latency_ms" in run.sweep[0] else "decode_tokens_s"
    unit = "ms" if name == "latency_ms" else "tokens/s"
    table = table_of(None, "threads tried", "p50", "95 %", "")
    for point in run.sweep:
        chosen = "taken" if point["threads"] == run.in_effect["threads"] else ""
        spread = f"{_plain(point['low'])}–{_plain(point['high'])}"
        table.add_row(f"{point['threads']:.0f}", value_of(point[name], unit), spread, chosen)
    return table


def _plain(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
