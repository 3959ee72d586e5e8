"""The files of a checkpoint side by side: size, quality, speed, and which of them no other one beats."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgedistill.bench.protocol import run_bundle
from edgedistill.errors import MissingExtra, NothingHolds, StageError
from edgedistill.evaluate.stats import quantile_interval
from edgedistill.pipeline.exporting.source import Kind, Source
from edgedistill.types import Exported, Progress, Recipe, silent

ROUNDS = 3
"""Turns that each file has when they are timed."""
What = Literal["timing", "writing"]
WHAT: Mapping[Kind, What] = {
    "classifier": "timing",
    "static classifier": "timing",
    "reader": "timing",
    "decoder": "writing",
    "text-to-text": "writing",
}
"""What the runtime is asked to measure."""
FASTER: Mapping[What, int] = {"timing": -1, "writing": 1}
"""Whether a greater figure is better: milliseconds are not, tokens a second are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One recipe's file, chosen or not.

    Attributes:
        quality: by the metric, on the rows that it was judged on; None where there is no file.
        speed: median on this machine with one thread: milliseconds an answer, or tokens a second of what
            writes; None where it was not timed. `speed_interval` is its 95 % bootstrap interval over turns and samples.
        passed: whether it answers like the checkpoint, for the reason that is given.
        best: no other file that holds is as small, as good and as fast, and better in one of these. Speeds whose
            intervals overlap are taken for equal.
    """

    recipe: str
    size_bytes: int | None
    quality: float | None
    speed: float | None
    passed: bool
    reason: str
    speed_interval: tuple[float, float] | None = None
    best: bool = False


def of_step(step: Mapping[str, Any]) -> Candidate:
    """A step of the ladder."""
    kept = len(step.get("kept_in_float", ()))
    return Candidate(
        recipe=step["recipe"] + (f", {kept} in float32" if kept else ""),
        size_bytes=step["size_bytes"],
        quality=step["value"],
        speed=None,
        passed=step["passed"],
        reason=step["reason"],
    )


def every(source: Source, target: str, work: Path, *, seed: int, progress: Progress) -> tuple[Candidate, ...]:
    """A file of each recipe, of all engines of the board, timed in turns of random order, each in a fresh process.

    Args:
        target: name of the board.
        work: a folder for all the files at once.
    """
    made: list[Candidate] = []
    files: dict[int, Exported] = {}
    recipes = (*source.recipes, *source.others)
    count = len(recipes)
    for number, recipe in enumerate(recipes):
        progress(number, count + ROUNDS, recipe.name)
        try:
            files[number], _ = source.write([recipe], silent)
            made.append(_fitting(source, recipe, of_step(files[number].ladder[-1])))
        except NothingHolds as error:
            made.append(of_step(error.steps[-1]))
        except (StageError, MissingExtra) as error:
            reason = f"{error.message}; {error.hint}" if isinstance(error, MissingExtra) else error.message
            failed = Candidate(
                recipe=recipe.name, size_bytes=None, quality=None, speed=None, passed=False, reason=reason
            )
            made.append(failed)
    samples: dict[int, list[list[float]]] = {number: [] for number in files}
    chance, order = random.Random(seed), list(files)
    what = WHAT[source.kind]
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for number, exported in files.items():
            source.pack(exported, Path(folder) / str(number), target)
        for turn in range(ROUNDS):
            progress(count + turn, count + ROUNDS, f"timing, turn {turn + 1} of {ROUNDS}")
            chance.shuffle(order)
            for number in order:
                samples[number].append(_speeds(run_bundle(Path(folder) / str(number), source.texts, what)))
    progress(count + ROUNDS, count + ROUNDS)
    timed = [_timed(one, samples.get(number, ())) for number, one in enumerate(made)]
    return marked(timed, faster=FASTER[what])


def _speeds(samples: Mapping[str, Any]) -> list[float]:
    """Milliseconds of each answer, or tokens a second of each answer of what writes."""
    found: list[float] = samples["prompts"][0]["decode_tokens_s"] if "prompts" in samples else samples["latency_ms"]
    return found


def _timed(one: Candidate, turns: Sequence[Sequence[float]]) -> Candidate:
    """The same with its speed, where it was timed."""
    if not any(turns):
        return one
    found = quantile_interval(np.array(turns), 0.5)
    return replace(one, speed=found.value, speed_interval=(found.low, found.high))


def _fitting(source: Source, recipe: Recipe, one: Candidate) -> Candidate:
    """The same; one that does not fit the board does not hold."""
    problem = source.size_up(one.size_bytes or 0, recipe).problem
    return one if problem is None else replace(one, passed=False, reason=f"does not fit: {problem}")


def marked(candidates: Sequence[Candidate], *, faster: int) -> tuple[Candidate, ...]:
    """The same, with those marked that no other one beats: the Pareto front of size, quality and speed.

    Args:
        faster: 1 where a greater figure of speed is better, -1 where a smaller one is.
    """
    held = [one for one in candidates if one.passed]

    def beats(other: Candidate, mine: Candidate) -> bool:
        # Figures that are missing are equal: where one file is not timed, none is.
        bytes_less = (mine.size_bytes or 0) - (other.size_bytes or 0)
        better = (other.quality or 0.0) - (mine.quality or 0.0)
        leads = (bytes_less, better, faster * _apart(other.speed_interval, mine.speed_interval))
        return min(leads) >= 0 and max(leads) > 0

    return tuple(replace(one, best=one.passed and not any(beats(other, one) for other in held)) for one in candidates)


def _apart(one: tuple[float, float] | None, other: tuple[float, float] | None) -> int:
    """1 where one interval lies above the other, -1 where below, 0 where they share a value or one is missing."""
    if one is None or other is None:
        return 0
    return (one[0] > other[1]) - (one[1] < other[0])
