"""What the command line shows of a benchmark and of two of them compared, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgedistill.bench import sweep
from edgedistill.report.figures import SPACE, date, interval, is_exact, middle, number, shown
from edgedistill.report.runs import FAILED, Column, columns
from edgedistill.terminal.tables import table_of
from edgedistill.types import Comparison, DeviceRun, Estimate, Measurement, NotMeasured, Result

WIDE = 80
COLORS = {"equal": "", "better": "green", "worse": "bold red", "not comparable": "yellow"}


def result_tables(result: Result) -> list[RenderableType]:
    """One table a run, with the thread counts that were tried, and what a reader should know."""
    found: list[RenderableType] = []
    for column in columns(result):
        if column.own:
            found += _run(column)
    return [*found, *(Text(f"note: {remark}") for remark in result.remarks)]


def compared_tables(first: Result, second: Result) -> list[RenderableType]:
    """Which two results are compared, and whether they stand the other way round."""
    found = [
        Text(f"{which}  {one.bundle.get('name')}, digest {str(one.bundle.get('digest'))[:12]}, {date(one.created)}")
        for which, one in (("first ", first), ("second", second))
    ]
    if second.created < first.created:
        found.append(Text("the second is the older one: what is called worse became better", "yellow"))
    return [*found, Text()]


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


def _run(column: Column) -> Iterator[RenderableType]:
    run = column.run
    who = "" if run.contender == "bundle" else f", {run.contender}"
    failed = column.state == FAILED
    kind = "not measured" if failed else run.kind
    end = who if kind in run.title else f"{who}, {kind}"
    name = run.title if len(run.title) + len(end) <= WIDE else f"{run.title[: WIDE - len(end) - 1]}…"
    # A line of its own: a table's title is broken at the width of the table, which may be half of this.
    yield Text(f"{name}{end}", "bold")
    missing: dict[tuple[str, str | None], list[str]] = {}
    for figure in run.measurements:
        if isinstance(figure, NotMeasured):
            missing.setdefault((figure.reason, figure.remedy), []).append(figure.name.replace("_", " "))
    if failed:  # for the reason that its first figure has; what others add does not matter any more
        missing = {why: [] for why in list(missing)[:1]}
    else:
        yield Text(f"{number(run.file_bytes, 'bytes')}, {run.engine}, threads: {run.in_effect['threads']}")
        yield _figures(column)
        if len(run.sweep) > 1:
            yield from _sweep(run)
    for (reason, remedy), names in missing.items():
        what = f"not measured: {', '.join(names)}: " if names else ""
        yield Text(f"{what}{reason}" + (f" ({remedy})" if remedy else ""))
    for reason in run.reasons:
        yield Text(f"unstable: {reason}", "yellow")
    yield Text()


def _figures(column: Column) -> Table:
    """In the digits of the page."""
    run = column.run
    table = table_of(None, "figure", "p50", "95 %", "p90", "p99")
    for figure in run.measurements:
        if isinstance(figure, Measurement):
            _, *higher = column.quantiles(figure.name)
            found = middle(figure)
            first = (number(figure.median, figure.unit), "") if found is None else _sure(found, figure.unit)
            # Where the 99th percentile is more than the largest sample.
            rest = [_bare(one, figure.unit) for _, one in higher if one is not None]
            name = Text(figure.name.replace("_", " "), "" if figure.stable else "yellow")
            table.add_row(name, *first, *(rest if len(rest) == len(higher) else ("", "")))
    if run.accuracy is not None:
        table.add_row(column.metric.replace("_", " "), *_sure(run.accuracy, "share"), "", "")
    return table


def _sweep(run: DeviceRun) -> Iterator[RenderableType]:
    name = "latency_ms" if "latency_ms" in run.sweep[0] else "decode_tokens_s"
    unit = "ms" if name == "latency_ms" else "tokens/s"
    chosen = sweep.choose(run.sweep)
    table = table_of(None, "threads tried", "p50", "95 %", "")
    for point in run.sweep:
        found = Estimate(value=point[name], low=point["low"], high=point["high"])
        table.add_row(f"{point['threads']:.0f}", *_sure(found, unit), "taken" if point["threads"] == chosen else "")
    yield table
    best = (min if unit == "ms" else max)(run.sweep, key=lambda point: point[name])
    if best["threads"] > chosen:
        yield Text(sweep.FEWEST)


def _sure(found: Estimate, unit: str) -> tuple[str, str]:
    return shown(found, unit), "" if is_exact(found) else interval(found, unit).replace(" to ", "–")


def _bare(found: Estimate, unit: str) -> str:
    """Without its unit, which stands in front."""
    return shown(found, unit).partition(SPACE)[0]
