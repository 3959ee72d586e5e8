"""What changed since another run of the same benchmark: one table a kind of figure, with a verdict in each row."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistill.report.blocks import KINDS, MISSING, Cell, Section, label, table
from edgedistill.report.figures import date, interval, is_exact, number, shown
from edgedistill.report.runs import SHORT, Reasons, device, tokens
from edgedistill.types import Comparison, Contender, DeviceRun, Kind, Measurement, Result

DIGITS = 12
"""Of a bundle's digest, which is enough to tell two bundles apart."""

Row = tuple[str | Cell, ...]


def section(result: Result, before: Result | None, comparisons: Sequence[Comparison]) -> Section | None:
    """Every figure of the bundle before and now; None where there is nothing to compare with."""
    if before is None and not comparisons:
        return None
    rows: dict[Kind | None, list[Row]] = {kind: [] for kind in (*KINDS, None)}
    reasons = {kind: Reasons() for kind in rows}
    if comparisons:
        for one in comparisons:
            now, then = _on(result, one.link, one.contender), _on(before, one.link, one.contender)
            kind = _kind(now, then)
            rows[kind].append(_compared(one, now, then, reasons[kind]))
    else:
        for now in result.runs:
            then = _on(before, now.link, "bundle")
            if now.contender == "bundle" and then is not None and now.kind == then.kind:
                rows[now.kind] += _side_by_side(now, then)
    tables = tuple(
        table(
            label(kind or MISSING),
            "What | Verdict | Now over before# | Before# | Now#",
            *found,
            notes=reasons[kind].notes,
        )
        for kind, found in rows.items()
        if found
    )
    lines = []
    if before is not None:
        digests = [str(one.bundle.get("digest", ""))[:DIGITS] for one in (before, result)]
        same = "the same bundle" if digests[0] == digests[1] else f"bundle {digests[0]} then, {digests[1]} now"
        lines.append(f"Before: {date(before.created)}, {same}.")
    if not comparisons:
        lines.append("No verdict: the two runs were not compared.")
    return Section(id="history", title="Against the run before", lines=tuple(lines), tables=tables)


def _compared(one: Comparison, now: DeviceRun | None, then: DeviceRun | None, reasons: Reasons) -> Row:
    if one.ratio is None:
        ratio = Cell(text="the same") if one.verdict == "equal" else Cell(text=MISSING, tone="missing")
    else:
        sure = "" if is_exact(one.ratio) else interval(one.ratio, "times")
        ratio = Cell(text=shown(one.ratio, "times"), note=sure)
    if one.verdict == "not comparable":
        verdict = reasons.refer(one.verdict, one.note)
    else:
        tone = {"better": "good", "worse": "bad", "equal": ""}[one.verdict]
        verdict = Cell(text=one.verdict, note=one.note, tone=tone)
    run = now or then
    place = one.link if run is None else device(run)
    if one.contender != "bundle":
        place = f"{SHORT[one.contender]} on {one.link}"
    return Cell(text=_named(one.name), note=place), verdict, ratio, _median(then, one.name), _median(now, one.name)


def _side_by_side(now: DeviceRun, then: DeviceRun) -> list[Row]:
    names = [item.name for item in now.measurements if isinstance(item, Measurement) and item.kind == now.kind]
    none = Cell(text="not compared", tone="missing")
    return [
        (Cell(text=_named(name), note=device(now)), none, none, _median(then, name), _median(now, name))
        for name in names
    ]


def _median(run: DeviceRun | None, name: str) -> Cell:
    if run is not None:
        for item in run.measurements:
            if item.name == name and isinstance(item, Measurement) and item.kind == run.kind:
                return Cell(text=number(item.median, item.unit))
        if name == "accuracy" and run.accuracy is not None:
            return Cell(text=shown(run.accuracy, "share"))
        if name == "size":
            return Cell(text=number(run.file_bytes, "bytes"))
    return Cell(text=MISSING, tone="missing")


def _named(name: str) -> str:
    metric, _, length = name.partition("@")
    return f"{label(metric)}, {tokens(int(length))}" if length.isdecimal() else label(name)


def _on(result: Result | None, link: str, contender: Contender) -> DeviceRun | None:
    """The run of a contender on a device."""
    runs = () if result is None else result.runs
    return next((run for run in runs if (run.link, run.contender) == (link, contender)), None)


def _kind(now: DeviceRun | None, then: DeviceRun | None) -> Kind | None:
    """Of both sides; None where they differ or one is missing, so that no column has two kinds."""
    if now is not None and then is not None and now.kind != then.kind:
        return None
    run = now or then
    return None if run is None else run.kind
