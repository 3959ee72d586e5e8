"""The charts of a benchmark, with the same content in words; a chart never has figures of two kinds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from edgedistill.report import plots
from edgedistill.report.blocks import KINDS, NAMES, Panel, label
from edgedistill.report.figures import number
from edgedistill.report.memory import split, stack
from edgedistill.report.runs import Column, by_length, sure, tokens
from edgedistill.types import Estimate, Kind, Measurement

OF_LENGTH = ("first_token", "prefill", "decode")
PERCENT = "95\N{NO-BREAK SPACE}%"


def panels(of: Sequence[Column]) -> tuple[Panel, ...]:
    """Times, lengths of prompt, memory and threads, as far as the runs have them."""
    found = [*_times(of), *_lengths(of), *_memory(of), *_threads(of)]
    return tuple(found)


def _times(of: Sequence[Column]) -> Iterator[Panel]:
    """How the times of one text are spread; of a model that writes, those between two tokens."""
    lengths = by_length(of).get("inter_token", [])
    chosen = f"inter_token@{lengths[len(lengths) // 2]}" if lengths else "latency"
    title = (
        f"Time between two tokens, prompts of {tokens(int(chosen.split('@')[1]))}" if lengths else "Time for one text"
    )
    for kind in KINDS:
        shapes = [
            plots.Shape(
                title=column.name,
                color=column.color,
                values=found.values,
                unit=found.unit,
                percentiles=column.quantiles(chosen),
            )
            for column, found in _found(of, chosen, kind)
            if min(found.values) > 0 and len(found.values) > 1
        ]
        if shapes:
            note = f"{label(kind)}. The bars under each shape, long to short, are p50, p90, p99."
            yield Panel(
                title=title,
                drawings=(partial(plots.histograms, shapes),),
                words=tuple(f"{shape.title}: {plots.percentiles_of(shape)}" for shape in shapes),
                note=note,
                plain=plots.plain_histograms(shapes),
            )


def _lengths(of: Sequence[Column]) -> Iterator[Panel]:
    """Time to the first token, and tokens a second, over the length of the prompt."""
    lengths = by_length(of)
    for kind in KINDS:
        drawings, words, legend = [], [], {}
        for metric in OF_LENGTH:
            drawn = []
            for column in of:
                points = [
                    (float(length), sure(found))
                    for length in lengths.get(metric, ())
                    if isinstance(found := column.find(f"{metric}@{length}"), Measurement) and found.kind == kind
                ]
                if points:
                    drawn.append(plots.Line(color=column.color, points=points))
                    legend[column.color] = column.name
                    unit = "ms" if metric == "first_token" else "tokens/s"
                    words.append(f"{column.name}, {label(metric).lower()}: {_over(points, unit, 'tokens')}")
            if drawn:
                name = "Time to the first token, ms" if metric == "first_token" else label(metric)
                drawings.append(partial(plots.lines, drawn, "tokens of the prompt, logarithmic", name))
        if drawings:
            yield Panel(
                title="By length of the prompt",
                drawings=tuple(drawings),
                words=tuple(words),
                note=f"{label(kind)}. Medians with {PERCENT} intervals.",
                legend=tuple(legend.items()),
            )


def _memory(of: Sequence[Column]) -> Iterator[Panel]:
    """What the memory of each process is made of."""
    groups = {}
    for kind in KINDS:
        found = [(column.name, split(_medians(column, kind))) for column in of]
        groups[label(kind)] = [(name, parts) for name, parts in found if parts]
    if made := stack(groups):
        yield made


def _threads(of: Sequence[Column]) -> Iterator[Panel]:
    """How fast each number of threads is, one drawing a run: the marked one is in use."""
    for kind in KINDS:
        drawings, words = [], []
        for column in of:
            if not (column.own and column.kind == kind and len(column.run.sweep) > 1):
                continue
            name, unit = (
                ("latency_ms", "ms") if "latency_ms" in column.run.sweep[0] else ("decode_tokens_s", "tokens/s")
            )
            points = [
                (float(step["threads"]), Estimate(value=step[name], low=step["low"], high=step["high"]))
                for step in column.run.sweep
            ]
            chosen = column.run.in_effect.get("threads")
            line = plots.Line(color=column.color, points=points, chosen=None if chosen is None else float(chosen))
            drawings.append(partial(plots.lines, [line], "threads", f"{column.name}, {unit}"))
            words.append(f"{column.name}: {_over(points, unit, 'threads')}; in use: {chosen}")
        if drawings:
            yield Panel(
                title="Threads",
                drawings=tuple(drawings),
                words=tuple(words),
                note=f"{label(kind)}. Medians with {PERCENT} intervals; the ringed number of threads is in use.",
            )


def _found(of: Sequence[Column], name: str, kind: Kind) -> list[tuple[Column, Measurement]]:
    found = ((column, column.find(name)) for column in of)
    return [(column, item) for column, item in found if isinstance(item, Measurement) and item.kind == kind]


def _medians(column: Column, kind: Kind) -> dict[str, float]:
    found = (column.find(name) for name in NAMES if name.startswith("memory"))
    return {item.name: item.median for item in found if isinstance(item, Measurement) and item.kind == kind}


def _over(points: Sequence[tuple[float, Estimate]], unit: str, of: str) -> str:
    return ", ".join(f"{number(found.value, unit)} with {setting:,.0f} {of}" for setting, found in points)
