"""The tables of a benchmark's page: devices, baselines, lengths of prompt, threads, and ratios."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgedistill.bench import sweep as sweeping
from edgedistill.report.blocks import MISSING, Cell, Section, label, table
from edgedistill.report.figures import SPACE, interval, is_exact, number, shown
from edgedistill.report.runs import (
    WHO,
    Column,
    Find,
    by_length,
    capital,
    device,
    estimate_cell,
    grid,
    of_median,
    of_quantile,
    tokens,
)
from edgedistill.types import Estimate, Measurement, NotMeasured, Ratio, Result

ORDER = (
    "latency",
    "throughput",
    "cold_start",
    "load",
    "first_answer",
    "memory_model",
    "memory_model_anonymous",
    "memory_model_file",
    "memory_model_swap",
    "memory_process",
    "memory_peak",
    "energy",
)
OF_RATIOS = {
    "latency": ("Latency", "faster", "slower"),
    "throughput": ("Throughput", "more", "less"),
    "prefill": ("Reading a prompt", "faster", "slower"),
    "decode": ("Writing", "faster", "slower"),
    "size": ("Size of the file", "smaller", "larger"),
    "memory": ("Memory for the model", "less", "more"),
}
"""What a ratio is of, and the word for one above 1 and for one below."""
WRITTEN = (("first_token", "p50"), ("prefill", ""), ("decode", ""), ("inter_token", "p50"), ("inter_token", "p99"))
CERTAIN = f"Under a figure stands its 95{SPACE}% interval, or how many samples it is the median of."
PERCENT = f"95{SPACE}%"


def devices(of: Sequence[Column], remarks: Sequence[str]) -> Section:
    """What ships on every device."""
    bundles = [column for column in of if column.run.contender == "bundle"]
    tables = [grid("The bundle, one column a run", bundles, _rows(bundles), note=CERTAIN)] if bundles else []
    lines = tuple(remarks) if bundles else (f"{label(MISSING)}: the bundle ran nowhere.", *remarks)
    return Section(id="devices", title="Devices side by side", lines=lines, tables=tuple(tables))


def baselines(of: Sequence[Column]) -> Section | None:
    """The teacher under the same protocol; None where it was not measured."""
    found = [column for column in of if column.run.contender != "bundle"]
    if not found:
        return None
    made = grid("One column a run", found, _rows(found), who=True, note=CERTAIN)
    return Section(id="baselines", title="The baselines under the same protocol", tables=(made,))


def writing(of: Sequence[Column]) -> Section | None:
    """What a model that writes does with prompts of several lengths; None where none writes."""
    found = by_length(of)
    if not found:
        return None
    rows = [
        (f"{label(metric)}{', ' + which if which else ''}, {tokens(length)}", _of_length(metric, length, which))
        for metric, which in (*WRITTEN, *((metric, "") for metric in found if metric not in dict(WRITTEN)))
        for length in found.get(metric, ())
    ]
    made = grid("By length of the prompt, one column a run", of, rows, who=_mixed(of), note=CERTAIN)
    return Section(id="writing", title="Reading and writing", tables=(made,))


def sweep(of: Sequence[Column]) -> Section | None:
    """How fast each number of threads is; None where no run tried several."""
    swept = [column for column in of if column.own and column.run.sweep]
    if not swept:
        return None
    counts = sorted({round(step["threads"]) for column in swept for step in column.run.sweep})
    rows = [(f"{count} thread{'s' if count > 1 else ''}", _of_threads(count)) for count in counts]
    title = "Time or tokens a second by number of threads, one column a run"
    made = grid(title, swept, rows, who=_mixed(swept), note=f"{capital(sweeping.FEWEST)}.")
    return Section(id="threads", title="Threads", tables=(made,))


def against(result: Result) -> Section:
    """How many times better the bundle is than its teacher, and what its answers cost."""
    heads = list(dict.fromkeys((ratio.against, ratio.link, ratio.kind) for ratio in result.ratios))
    found = {(ratio.name, ratio.against, ratio.link, ratio.kind): ratio for ratio in result.ratios}
    rows: list[tuple[str | Cell, ...]] = []
    for name, title in (("accuracy", "Accuracy kept"), *((name, words[0]) for name, words in OF_RATIOS.items())):
        there = [found.get((name, *head)) for head in heads]  # type: ignore[arg-type]
        if any(there):
            rows.append((title, *(_ratio(ratio) for ratio in there)))
    tables = []
    if rows:
        columns = tuple(
            Cell(text=f"Against {WHO[who]}", note=f"on {titled(result, link)}", tone="figure", marks=(kind,))
            for who, link, kind in heads
        )
        title = f"How many times better the bundle is, with {PERCENT} intervals"
        tables.append(table(title, "What", *rows, heads=columns))
    lines = [] if rows else [f"Ratios against the teacher: {MISSING}: no teacher went through this benchmark."]
    lines.append(cost(result))
    return Section(id="teacher", title="Against the teacher", lines=tuple(lines), tables=tuple(tables))


def cost(result: Result) -> str:
    """What 1,000 answers cost of the teacher in money and of the bundle in energy."""
    if result.teacher_cost is None:
        said = f"Cost of 1,000 of the teacher's answers: {MISSING}: it is no endpoint with prices."
    else:
        said = f"1,000 of the teacher's answers cost ${result.teacher_cost:,.4g}; the bundle's have no price."
    for run in result.runs:
        for found in run.measurements:
            if run.contender == "bundle" and isinstance(found, Measurement) and found.name == "energy":
                # 1,000 answers at one J are 1,000 J, and a watt-hour is 3,600 J.
                said += f" On {device(run)} they take {number(found.median / 3.6, 'Wh')} ({found.kind})."
    return said


def turned(found: Estimate) -> Estimate:
    """A ratio the other way round where it is below 1, so that a reader never sees "0.5 times faster"."""
    if found.value >= 1 or found.low <= 0:
        return found
    return Estimate(value=1 / found.value, low=1 / found.high, high=1 / found.low)


def _rows(of: Sequence[Column]) -> Iterator[tuple[str, Find]]:
    """The rows of a table of devices: every figure that any of its runs speaks of, energy always."""
    spoken = {item.name for column in of for item in column.run.measurements}
    yield "Size of the file", _size
    yield label(of[0].metric if of else "accuracy"), _accuracy
    if "answers_equal" in spoken:
        yield label("answers_equal"), of_median("answers_equal")
    writes = bool(by_length(of))
    others = sorted(name for name in spoken if "@" not in name and name not in (*ORDER, "answers_equal", "accuracy"))
    for name in (*ORDER, *others):
        if name == "latency" and (name in spoken or not writes):
            for which in ("p50", "p90", "p99"):
                yield f"{label(name)}, {which}", of_quantile(name, which)
            yield f"{label(name)}, samples", _count
        elif name in spoken or name == "energy":
            yield label(name), of_median(name)


def _size(column: Column) -> Cell | NotMeasured:
    if not column.own:
        return NotMeasured(name="size", reason=f"on {column.place} it was counted: see that column")
    return Cell(text=number(column.run.file_bytes, "bytes"), note="exact")


def _accuracy(column: Column) -> Cell | NotMeasured:
    if column.run.accuracy is not None and column.own:
        return estimate_cell(column.run.accuracy, "share")
    told = (one for one in column.run.measurements if one.name == "accuracy" and isinstance(one, NotMeasured))
    return next(told, NotMeasured(name="accuracy", reason="no answers were judged in this run"))


def _count(column: Column) -> Cell | NotMeasured:
    found = column.find("latency")
    return found if isinstance(found, NotMeasured) else Cell(text=f"{len(found.values):,}")


def _of_length(metric: str, length: int, which: str) -> Find:
    name = f"{metric}@{length}"
    return of_quantile(name, which) if which else of_median(name)


def _of_threads(count: int) -> Find:
    def find(column: Column) -> Cell | NotMeasured:
        for step in column.run.sweep:
            if round(step["threads"]) == count:
                name, unit = ("latency_ms", "ms") if "latency_ms" in step else ("decode_tokens_s", "tokens/s")
                found = Estimate(value=step[name], low=step.get("low", step[name]), high=step.get("high", step[name]))
                used = ("in use",) if column.run.in_effect.get("threads") == count else ()
                return Cell(text=shown(found, unit), note="" if is_exact(found) else interval(found, unit), marks=used)
        return NotMeasured(name="sweep", reason="this run did not try so many threads")

    return find


def _ratio(ratio: Ratio | None) -> Cell:
    if ratio is None:
        return Cell(text=f"{MISSING}: one of the two sides is missing", tone="missing")
    found = ratio.estimate
    if ratio.name == "accuracy":
        return estimate_cell(found, "share")
    _, better, worse = OF_RATIOS[ratio.name]
    if found.low <= 1 <= found.high:
        sure = "exact" if is_exact(found) else interval(found, "times")
        return Cell(text=f"{shown(found, 'times')}, no difference shown", note=sure, tone="missing")
    sure = "exact" if is_exact(found) else interval(turned(found), "times")
    return Cell(text=f"{shown(turned(found), 'times')} {better if found.value > 1 else worse}", note=sure)


def titled(result: Result, link: str) -> str:
    """A device of the result by its title and address."""
    return next((device(run) for run in result.runs if run.link == link and run.contender == "bundle"), link)


def _mixed(of: Sequence[Column]) -> bool:
    return any(column.run.contender != "bundle" for column in of)


def facts(found: Mapping[str, Any]) -> list[tuple[str | Cell, ...]]:
    """Names and values, as they are."""
    return [(label(str(name)), value(item, str(name))) for name, item in found.items()]


def value(found: object, name: str = "") -> str:
    """A value of an environment or of settings in words; None is said, never left blank."""
    if found is None:
        return "not set"
    if isinstance(found, Mapping):
        return ", ".join(f"{key} {value(item, str(key))}" for key, item in found.items()) or "none"
    if isinstance(found, list | tuple):
        return ", ".join(value(item) for item in found) or "none"
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, int | float):
        unit = "bytes" if name.endswith("bytes") else ""
        return number(found, unit) if unit or isinstance(found, float) else f"{found:,}"
    return str(found)
