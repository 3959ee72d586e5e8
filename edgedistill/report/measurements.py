"""The tables of what was measured, emulated and predicted: one table a kind, so no column mixes them."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistill.report.blocks import KINDS, MISSING, Cell, Section, Table, label, missing, table
from edgedistill.report.figures import interval, is_exact, middle, number, percentiles, shown
from edgedistill.types import Estimate, Kind, Measurement, NotMeasured, Report, Subject

HOST = "the build machine"
ORDER = ("latency", "cold_start", "first_answer", "throughput", "memory_model", "memory_process")
RATIOS = ("latency", "throughput", "size", "memory")
OF_SAMPLES = {"latency": "latency", "throughput": "throughput", "memory": "memory_model"}
"""The measurement that a ratio compares; sizes are counted, not sampled."""

_TITLES = {
    "measured": "Measured on {place}",
    "emulated": "Emulated: the right instructions, not the right clock",
    "predicted": "Predicted, not measured",
}


def find(subject: Subject, name: str) -> Measurement | NotMeasured:
    """What a contestant has under a name; when there is nothing, a NotMeasured that says so."""
    for item in subject.measurements:
        if item.name == name:
            return item
    return NotMeasured(name=name, reason="the benchmark did not ask for it")


def subject(report: Report, name: str) -> Subject | None:
    """The teacher or the exported file, as far as it was benchmarked."""
    return next((item for item in report.subjects if item.name == name), None)


def ratio_kind(report: Report, key: str) -> Kind | None:
    """How a ratio came about; None when its two sides are of different kinds, so that it means nothing."""
    if key == "size":
        return "measured"
    found = {
        item.kind
        for side in report.subjects
        for item in side.measurements
        if isinstance(item, Measurement) and item.name.split("_")[0] == key
    }
    return found.pop() if len(found) == 1 else None if found else "measured"


def section(report: Report) -> Section:
    """Speed and memory of the teacher and the exported file under one protocol."""
    if not report.subjects:
        return Section(id="speed", title="Speed and memory", lines=(f"{MISSING}: the benchmark was not run",))
    tables = [made for kind in KINDS if (made := _by_kind(report, kind))]
    tables += _ratios(report)
    line = (
        "Teacher and exported file went through the same protocol on the same machine. Latency is one text in, its "
        "answer out. Under a figure stands its 95\N{NO-BREAK SPACE}% interval, or how many samples it is the median of."
    )
    return Section(id="speed", title="Speed and memory", lines=(line,), tables=tuple(tables), items=_absent(report))


def kind_table(
    found: Sequence[Measurement | NotMeasured], kind: Kind, place: str, bounds: dict[str, str]
) -> Table | None:
    """Figures of one kind for the target; `bounds` holds what the board allows, by measurement name."""
    rows: list[tuple[str | Cell, ...]] = []
    for item in found:
        if isinstance(item, Measurement) and item.kind == kind:
            for title, cell in _cells(item):
                rows.append((title, kind, cell, *([bounds.get(item.name, "no budget")] if bounds else [])))
    if not rows:
        return None
    columns = f"What | Kind! | {label(kind)}#" + (" | The board's budget#" if bounds else "")
    return table(_TITLES[kind].format(place=place), columns, *rows)


def _by_kind(report: Report, kind: Kind) -> Table | None:
    sides = report.subjects
    names = [name for name in _names(report) if any(_is(find(side, name), kind) for side in sides)]
    rows: list[tuple[str | Cell, ...]] = []
    if kind == "measured":
        rows.append(("Size of the file", kind, *(Cell(text=number(side.file_bytes, "bytes")) for side in sides)))
    for name in names:
        columns = [_column(find(side, name), kind) for side in sides]
        titles = max((list(column) for column in columns), key=len)
        for title in titles:
            cells = (column.get(title) or next(iter(column.values())) for column in columns)
            rows.append((title, kind, *cells))
    if not rows:
        return None
    heads = tuple(Cell(text=label(side.name), note=f"{side.title}, {side.engine}", tone="figure") for side in sides)
    return table(_TITLES[kind].format(place=HOST), "What | Kind!", *rows, heads=heads)


def _column(found: Measurement | NotMeasured, kind: Kind) -> dict[str, Cell]:
    """The cells of one contestant for one measurement by row title; one cell for all rows when it is missing."""
    if isinstance(found, NotMeasured):
        return {label(found.name): Cell(text=missing(found), tone="missing")}
    if found.kind != kind:
        return {label(found.name): Cell(text=f"{MISSING}: it was {found.kind}, see that table", tone="missing")}
    return dict(_cells(found))


def _cells(found: Measurement) -> list[tuple[str, Cell]]:
    """A row title and a cell for each figure of a measurement: percentiles for latency, else the median."""
    if found.name != "latency" or len(found.values) < 2:
        return [(label(found.name), median_cell(found))]
    cells = []
    for name, estimate in percentiles(found):
        if estimate is None:
            cell = Cell(text=f"{MISSING}: {len(found.values)} samples are too few", tone="missing")
        else:
            cell = cell_of(found, estimate, interval(estimate, found.unit))
        cells.append((f"{label('latency')}, {name}", cell))
    return [*cells, (f"{label('latency')}, samples", Cell(text=f"{len(found.values):,}"))]


def median_cell(found: Measurement) -> Cell:
    """The median with its interval, else with the number of samples it is the median of."""
    estimate = middle(found)
    if estimate is None or is_exact(estimate):
        count = f"median of {len(found.values)}" if len(found.values) > 1 else ""
        return Cell(text=number(found.median, found.unit), note=count, tone="" if found.stable else "unstable")
    rough = "rough range " if found.kind == "predicted" else ""
    return cell_of(found, estimate, rough + interval(estimate, found.unit))


def cell_of(found: Measurement, estimate: Estimate, note: str) -> Cell:
    """A figure of a measurement, marked where the measurement is unstable."""
    return Cell(text=shown(estimate, found.unit), note=note, tone="" if found.stable else "unstable")


def _ratios(report: Report) -> list[Table]:
    """How many times better the exported file is, one table a kind."""
    tables = []
    for kind in KINDS:
        rows: list[tuple[str | Cell, ...]] = []
        for key in RATIOS:
            if key in report.ratios and ratio_kind(report, key) == kind:
                found = report.ratios[key]
                cell = Cell(text=shown(found, "times"), note=_sure(report, key, found))
                rows.append((label(key), kind, cell, _reading(found)))
        if rows:
            title = f"How many times better than the teacher, with 95\N{NO-BREAK SPACE}% intervals, {kind}"
            tables.append(table(title, "What | Kind! | Times better# | Reading", *rows))
    return tables


def _sure(report: Report, key: str, found: Estimate) -> str:
    """How sure a ratio is: its interval, "exact" for what was counted, else how many samples it rests on."""
    if key == "size":
        return "exact"
    if not is_exact(found):
        return interval(found, "times")
    sides = [find(side, OF_SAMPLES[key]) for side in report.subjects]
    fewest = min((len(side.values) for side in sides if isinstance(side, Measurement)), default=1)
    return f"median of {fewest} each" if fewest > 1 else "one sample each"


def _reading(found: Estimate) -> str | Cell:
    if found.low <= 1 <= found.high:
        return Cell(text="no difference shown", tone="missing")
    return Cell(text="better", tone="good") if found.low > 1 else Cell(text="worse", tone="bad")


def _absent(report: Report) -> tuple[str, ...]:
    """One line for each thing that has no row of its own because no contestant has a figure for it."""
    lines = []
    for name in _names(report):
        found = [(side, find(side, name)) for side in report.subjects]
        if all(isinstance(item, NotMeasured) for _, item in found):
            lines += [
                f"{label(side.name)}, {label(name).lower()}: {missing(item)}"
                for side, item in found
                if isinstance(item, NotMeasured)
            ]
    for key in RATIOS:
        if key not in report.ratios:
            lines.append(f"{label(key)} against the teacher: {MISSING}: one of the two sides is missing")
        elif ratio_kind(report, key) is None:
            lines.append(f"{label(key)} against the teacher: {MISSING}: the two sides differ in kind")
    return tuple(lines)


def _names(report: Report) -> list[str]:
    """Names in the usual order, then those that only this report has; latency is expected even when absent."""
    there = [item.name for side in report.subjects for item in side.measurements]
    return [*ORDER, *dict.fromkeys(name for name in there if name not in ORDER)]


def _is(found: Measurement | NotMeasured, kind: Kind) -> bool:
    return isinstance(found, Measurement) and found.kind == kind
