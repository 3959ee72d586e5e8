"""The files of a checkpoint side by side: size, quality, speed, and which of them no other one beats."""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgedistill.bench.protocol import run_bundle
from edgedistill.errors import NothingHolds, StageError
from edgedistill.pipeline.exporting.source import Kind, Source
from edgedistill.types import Exported, Progress, Recipe, silent

ROUNDS = 3
"""Turns that each file has when they are timed."""
TIMING = ("timing", "latency_ms")
WRITING = ("writing", "tokens_s")
SAMPLES: Mapping[Kind, tuple[str, str]] = {
    "classifier": TIMING,
    "static classifier": TIMING,
    "reader": TIMING,
    "decoder": WRITING,
    "text-to-text": WRITING,
}
"""What the runtime is asked to measure, and which of its samples say how fast a file is."""
FASTER = {TIMING: -1, WRITING: 1}
"""Whether a greater figure is better: milliseconds are not, tokens a second are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One recipe's file, chosen or not.

    Attributes:
        quality: by the metric, on the rows that it was judged on; None where there is no file.
        speed: median on this machine with one thread: milliseconds an answer, or tokens a second of what
            writes; None where it was not timed.
        passed: whether it answers like the checkpoint, for the reason that is given.
        best: no other file that holds is as small, as good and as fast, and better in one of these.
    """

    recipe: str
    size_bytes: int | None
    quality: float | None
    speed: float | None
    passed: bool
    reason: str
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
    """A file of each recipe, timed in turns of random order, each turn in a fresh process of the runtime.

    Args:
        target: name of the board.
        work: a folder for all the files at once.
    """
    made: list[Candidate] = []
    files: dict[int, Exported] = {}
    count = len(source.recipes)
    for number, recipe in enumerate(source.recipes):
        progress(number, count + ROUNDS, recipe.name)
        try:
            files[number], _ = source.write([recipe], silent)
            made.append(_fitting(source, recipe, of_step(files[number].ladder[-1])))
        except NothingHolds as error:
            made.append(of_step(error.steps[-1]))
        except StageError as error:
            failed = Candidate(
                recipe=recipe.name, size_bytes=None, quality=None, speed=None, passed=False, reason=error.message
            )
            made.append(failed)
    samples: dict[int, list[float]] = {number: [] for number in files}
    chance, order = random.Random(seed), list(files)
    what, key = SAMPLES[source.kind]
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for number, exported in files.items():
            source.pack(exported, Path(folder) / str(number), target)
        for turn in range(ROUNDS):
            progress(count + turn, count + ROUNDS, f"timing, turn {turn + 1} of {ROUNDS}")
            chance.shuffle(order)
            for number in order:
                samples[number] += run_bundle(Path(folder) / str(number), source.texts, what)[key]
    progress(count + ROUNDS, count + ROUNDS)
    timed = [
        replace(one, speed=statistics.median(samples[number])) if samples.get(number) else one
        for number, one in enumerate(made)
    ]
    return marked(timed, faster=FASTER[what, key])


def _fitting(source: Source, recipe: Recipe, one: Candidate) -> Candidate:
    """The same; one that does not fit the board does not hold."""
    problem = source.size_up(one.size_bytes or 0, recipe).problem
    return one if problem is None else replace(one, passed=False, reason=f"does not fit: {problem}")


def marked(candidates: Sequence[Candidate], *, faster: int) -> tuple[Candidate, ...]:
    """The same, with those marked that no other one beats: the Pareto front of size, quality and speed.

    Args:
        faster: 1 where a greater figure of speed is better, -1 where a smaller one is.
    """

    def merits(one: Candidate) -> tuple[float, ...]:
        return (-(one.size_bytes or 0), one.quality or 0.0, faster * (one.speed or 0.0))

    held = [merits(one) for one in candidates if one.passed]

    def beaten(mine: tuple[float, ...]) -> bool:
        return any(all(a >= b for a, b in zip(other, mine, strict=True)) and other != mine for other in held)

    return tuple(replace(one, best=one.passed and not beaten(merits(one))) for one in candidates)
