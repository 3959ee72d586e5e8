"""With how many threads a bundle is fastest on a device, and which number to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgedistill.bench.rows import spread
from edgedistill.evaluate.stats import quantile_interval
from edgedistill.types import Cell

ROWS, PROMPTS = 50, 3
"""Texts and prompts of a short run, each answered once."""
ROUNDS = 2
"""Up the numbers and down again, so that a device that grows warm does not speak for the small ones."""
NEW_TOKENS = 16

Point = Mapping[str, int | float]
Measure = Callable[[Sequence[Any], Cell], Mapping[str, Any]]
FEWEST = (
    "taken are the fewest threads whose interval overlaps that of the fastest: more would heat a device for nothing"
)


def counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4 … and all cores of the device."""
    return (*(2**power for power in range(cores.bit_length()) if 2**power < cores), max(1, cores))


def sweep(measure: Measure, texts: Sequence[Any], cell: Cell, cores: int) -> tuple[Point, ...]:
    """Short runs with each number of threads.

    Args:
        measure: runs a cell on the device.
        cell: of the long run; the short ones take each text once, and the first length of prompts.

    Returns:
        For each number `threads`, `latency_ms` or `decode_tokens_s` (the median), `low` and `high` (its interval).
    """
    numbers = counts(cores)
    if len(numbers) == 1:
        return ()
    writes = cell.what == "writing"
    chosen = spread(texts, PROMPTS if writes else ROWS)
    new_tokens = min(NEW_TOKENS, cell.new_tokens)
    short = replace(cell, within=None, prompt_tokens=cell.prompt_tokens[:1], new_tokens=new_tokens)
    found: dict[int, list[list[float]]] = {number: [] for number in numbers}
    for turn in range(ROUNDS):
        for number in numbers if turn % 2 == 0 else reversed(numbers):
            samples = measure(chosen, replace(short, threads=number))
            found[number].append(samples["prompts"][0]["decode_tokens_s"] if writes else samples["latency_ms"])
    name = "decode_tokens_s" if writes else "latency_ms"
    return tuple(_point(name, number, rounds) for number, rounds in found.items() if all(rounds))


def choose(points: Sequence[Point]) -> int:
    """The fewest threads whose interval overlaps that of the best: more would heat the device for nothing."""
    if "latency_ms" in points[0]:
        best = min(points, key=lambda point: point["latency_ms"])
    else:
        best = max(points, key=lambda point: point["decode_tokens_s"])
    as_good = [point for point in points if point["low"] <= best["high"] and point["high"] >= best["low"]]
    return int(min(point["threads"] for point in as_good))


def _point(name: str, threads: int, rounds: Sequence[Sequence[float]]) -> Point:
    found = quantile_interval(rounds, 0.5)
    return {"threads": threads, name: found.value, "low": found.low, "high": found.high}
