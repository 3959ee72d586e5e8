"""Whether to believe a benchmark: what was asked for and in effect, what disturbed it, and where it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgedistill.bench import validity as rules
from edgedistill.report.bench_tables import facts, value
from edgedistill.report.blocks import MISSING, Cell, Section, label, table
from edgedistill.report.figures import SPACE, fixed, number
from edgedistill.report.runs import FAILED, STABLE, Column, Find, capital, grid
from edgedistill.types import NotMeasured, Result

SETTINGS = {
    "threads": "Threads",
    "within": "Half width at which the repeats of a process end",
    "limit_s": "Limit of the repeats of a process",
    "rounds": "Rounds, each in fresh processes",
    "repeated": "Disturbed processes, taken again",
}
NO_LIMIT = "each text once"
TIMED = ("timing", "writing")
ENDED = {"once": "one pass", "interval": "narrow interval", "time": "time limit"}
SILENT = "the device does not tell"

Samples = Mapping[str, Any]
Read = Callable[[Samples], float | None]


def validity(of: Sequence[Column]) -> Section:
    """One column a run: whether its clock was disturbed, by what, and under which settings."""
    own = [column for column in of if column.own]
    unstable = [column for column in own if not column.run.stable]
    rows: list[tuple[str, Find]] = [("Rules of the protocol", _stable)]
    rows += [(SETTINGS.get(key, label(key)), _setting(key)) for key in _settings(own)]
    rows += [
        ("Repeats of a process ended by", _ended),
        ("Drift of the same texts, before to after", _drift),
        ("Other programs' load", _most(_foreign, "cores")),
        ("Ready, but waiting for a core", _most(_waited, "share")),
        ("Clock", _clock),
        ("Governor", _governor),
        ("Temperature, highest", _most(_temperature, "°C")),
        ("Throttled", _throttled),
    ]
    lines = [
        "Every process is fresh; memory has a process of its own. A run that breaks a rule is shown and is called "
        "unstable; it proves nothing."
    ]
    if own and not unstable:
        lines.append("No run broke a rule.")
    items = [f"{capital(column.name)}: {reason}." for column in unstable for reason in column.run.reasons]
    items += [f"{capital(column.name)}: {_failure(column)}." for column in unstable if not column.run.reasons]
    tables = (grid("How the measuring went, one column a run", own, rows, who=True),) if own else ()
    return Section(id="validity", title="Whether to believe it", lines=tuple(lines), tables=tables, items=tuple(items))


def environment(result: Result) -> Section:
    """What was measured, with which texts, and on what each device is."""
    places: dict[str, dict[str, Any]] = {}
    titles: dict[str, str] = {}
    for run in result.runs:
        around = places.setdefault(run.link, {})
        if run.contender == "bundle":
            titles[run.link] = run.title
        for key, found in run.environment.items():
            both = isinstance(found, Mapping) and isinstance(around.get(key), Mapping)
            around[key] = {**around[key], **found} if both else around.get(key, found)
    keys = list(dict.fromkeys(key for around in places.values() for key in around))
    none = Cell(text=SILENT, tone="missing")
    rows = [
        (label(key), *(value(around[key], key) if around.get(key) is not None else none for around in places.values()))
        for key in keys
    ]
    heads = tuple(
        Cell(text=titles.get(link, link), note=link if link in titles and link != titles[link] else "")
        for link in places
    )
    tables = [table("What was measured", "What | Value", *facts(result.bundle))]
    if result.workload:
        tables.append(table("What it was asked", "What | Value", *facts(result.workload)))
    engines = dict.fromkeys((run.contender, run.engine) for run in result.runs)
    tables.append(table("Engines", "Who | Engine", *((capital(who), engine) for who, engine in engines)))
    if rows:
        tables.append(table("Environment of each device", "What", *rows, heads=heads))
    return Section(id="environment", title="What was measured, and where", tables=tuple(tables))


def _stable(column: Column) -> Cell:
    return Cell(text="kept", tone="good") if column.state == STABLE else Cell(text=column.state, tone="bad")


def _setting(key: str) -> Find:
    """What was in effect, with what was asked for where that differs."""

    def find(column: Column) -> Cell | NotMeasured:
        if column.state == FAILED:
            return NotMeasured(name=key, reason="nothing ran on this device")
        asked, used = column.run.asked.get(key), column.run.in_effect.get(key)
        if key in column.run.in_effect or key in column.run.asked:
            note = f"asked for {_said(key, asked)}" if asked is not None and asked != used else ""
            if key == "threads" and "threads" in column.run.asked and asked is None:
                note = "chosen by trying"
            return Cell(text=_said(key, used), note=note)
        return Cell(text="does not apply", tone="missing")

    return find


def _said(key: str, found: object) -> str:
    if key == "within":
        return NO_LIMIT if found is None else f"±{value_of(found, 'share')}"
    if key == "limit_s":
        return value_of(found, "s")
    return "not set" if found is None else value(found, key)


def value_of(found: object, unit: str) -> str:
    """A number with its unit, or whatever else stands there."""
    return number(found, unit) if isinstance(found, int | float) else "not set" if found is None else str(found)


def _settings(of: Sequence[Column]) -> list[str]:
    """The settings that any run has, the usual ones first."""
    there = dict.fromkeys(key for column in of for found in (column.run.asked, column.run.in_effect) for key in found)
    return [*(key for key in SETTINGS if key in there), *(key for key in there if key not in SETTINGS)]


def _timed(column: Column) -> list[Samples]:
    """Raw samples of the timed processes with the threads that are in use, one a round."""
    threads = column.run.in_effect.get("threads")
    return [
        taken.samples
        for taken in column.run.taken
        if taken.cell.what in TIMED and threads in (None, taken.samples.get("threads") or taken.cell.threads)
    ]


def _ended(column: Column) -> Cell | NotMeasured:
    found = dict.fromkeys(str(one["ended_by"]) for one in _timed(column) if one.get("ended_by"))
    if not found:
        return NotMeasured(name="ended_by", reason="nothing was timed in this run")
    return Cell(text="; ".join(ENDED.get(name, name) for name in found))


def _drift(column: Column) -> Cell | NotMeasured:
    shares = [share for one in _timed(column) if (share := rules.drift(one.get("anchors_ms"))) is not None]
    if not shares:
        return NotMeasured(name="anchors", reason="the same texts were not timed twice in this run")
    return Cell(text=f"{fixed(100 * max(shares, key=abs), 1, signed=True)}{SPACE}%")


def _most(read: Read, unit: str) -> Find:
    """The highest of all timed processes."""

    def find(column: Column) -> Cell | NotMeasured:
        found = [said for one in _timed(column) if (said := read(one)) is not None]
        return Cell(text=number(max(found), unit)) if found else NotMeasured(name=unit, reason=SILENT)

    return find


def _foreign(samples: Samples) -> float | None:
    return samples.get("foreign_cores")


def _waited(samples: Samples) -> float | None:
    return samples.get("waited_share")


def _temperature(samples: Samples) -> float | None:
    found = [one["temperature_c"] for one in _conditions(samples) if one.get("temperature_c") is not None]
    return max(found, default=None)


def _clock(column: Column) -> Cell | NotMeasured:
    found = [one for samples in _timed(column) for one in _conditions(samples)]
    clocks = [one["clock_hz"] for one in found if one.get("clock_hz")]
    if not clocks:
        return NotMeasured(name="clock", reason=SILENT)
    tops = [one["max_clock_hz"] for one in found if one.get("max_clock_hz")]
    low, high = number(min(clocks) / 1e9, ""), number(max(clocks) / 1e9, "GHz")
    text = high if min(clocks) == max(clocks) else f"{low} to {high}"
    return Cell(text=text, note=f"of {number(max(tops) / 1e9, 'GHz')}" if tops else "")


def _governor(column: Column) -> Cell | NotMeasured:
    found = [one.get("governor") for samples in _timed(column) for one in _conditions(samples)]
    names = dict.fromkeys(str(name) for name in found if name)
    return Cell(text=", ".join(names)) if names else NotMeasured(name="governor", reason=SILENT)


def _throttled(column: Column) -> Cell | NotMeasured:
    found = [one.get("throttled") for samples in _timed(column) for one in _conditions(samples)]
    told = [names for names in found if names is not None]
    if not told:
        return NotMeasured(name="throttled", reason=SILENT)
    names = dict.fromkeys(str(name) for each in told for name in each)
    return Cell(text=", ".join(names) or "no", tone="")


def _conditions(samples: Samples) -> Iterator[Mapping[str, Any]]:
    yield from (one for one in samples.get("conditions") or () if one)


def trust(of: Sequence[Column]) -> tuple[str, str]:
    """Whether to believe what was timed in a few words with their tone, for the head of the page."""
    timed = [column for column in of if column.own and column.kind == "measured"]
    unstable = [f"{column.name} {column.state}" for column in timed if column.state != STABLE]
    if not timed:
        return "missing", f"Time {MISSING}"
    if not unstable:
        return "good", f"{len(timed)} of {len(timed)} timed runs stable"
    if len(unstable) < 3:
        return "bad", capital("; ".join(unstable))
    count = Counter(column.state for column in timed if column.state != STABLE)
    return "bad", ", ".join(f"{number} of {len(timed)} runs {state}" for state, number in count.items())


def _failure(column: Column) -> str:
    """Why a run without reasons is not stable: it ended, and what is missing says why."""
    found = (item for item in column.run.measurements if isinstance(item, NotMeasured))
    return next((item.reason for item in found), "it gave no reason")
