"""A decoder in the smallest recipe of an engine that still answers like its checkpoint; each step is recorded.

Every file is held against the checkpoint along answers that are given: how often the next token of the answer is the
likeliest one. With the rows' own answers that is an accuracy as a classifier has one. A decoder that has no rows is
asked for its own greedy answers, and a file for how much of their likelihood it keeps.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import MissingExtra, NothingHolds, StageError
from edgedistill.export.decoder.parity import NEW_TOKENS, Parity, Reference, reference
from edgedistill.export.ladder import LIKELIHOOD, STEPS, judge, judge_writing, told
from edgedistill.export.silence import no_advice
from edgedistill.store import Output, Store, canonical, digest
from edgedistill.teachers.local import quiet
from edgedistill.types import Exported, Progress, Recipe, silent

METRIC = "token accuracy"
Write = Callable[[Recipe, Path], None]
"""Writes a recipe's file into a folder, over an earlier one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What files are judged on.

    Attributes:
        prompts: whole texts, chat template applied, in which the tokenizer adds nothing of its own.
        answers: what follows each of them; None takes what the checkpoint says.
        calibration: token ids of other rows, from which the importance of each weight is measured; without any the
            recipes do without it.
    """

    prompts: tuple[str, ...]
    answers: tuple[str, ...] | None = None
    calibration: tuple[tuple[int, ...], ...] = ()


class Original:
    """A checkpoint that files are made of; what is measured on it is measured once, however many files there are.

    Args:
        sha256: of the checkpoint.
    """

    def __init__(self, checkpoint: Path, sha256: str, on: Judged) -> None:
        self.checkpoint = checkpoint
        self.sha256 = sha256
        self.on = on
        self.progress: Progress = silent

    @functools.cached_property
    def reference(self) -> Reference:
        """What it says along the answers."""
        return reference(
            self.checkpoint, self.on.prompts, self.on.answers, special=False, progress=self._told("asking it")
        )

    @functools.cached_property
    def importance(self) -> dict[str, NDArray[np.float32]] | None:
        """How much each column of its matrices matters on the calibration rows, by the tensor's name in GGUF."""
        from edgedistill.export.gguf.imatrix import importance  # its package is not there for every engine

        if not self.on.calibration:
            return None
        return importance(self.checkpoint, self.on.calibration, progress=self._told("importance of its weights"))

    def _told(self, what: str) -> Progress:
        return lambda done, total, note="": self.progress(done, total, note or what)


class Engine(Protocol):
    """How a decoder's files are made and asked for one engine: the modules `llama` and `genai` beside this one."""

    MODEL: str
    """The file, or the folder of several, inside the folder that is written."""

    def refuse(self, checkpoint: Path) -> None:
        """Raises StageError where the engine does not compute what the checkpoint asks for, whatever the recipe."""

    def versions(self) -> Mapping[str, str]:
        """Of the packages that decide over a file. Raises MissingExtra where one is not installed."""

    def writer(self, original: Original, work: Path) -> Write:
        """What writes each recipe; it raises StageError where a recipe does not fit the checkpoint.

        Args:
            work: for what all recipes start from.

        Raises:
            IntegrityError: the checkpoint has weights that are not finite.
        """

    def compare(self, expected: Reference, file: Path, *, threads: int, progress: Progress) -> Parity:
        """Asks a file for what the checkpoint has said."""

    def lint(self, original: Original, file: Path, recipe: Recipe) -> Sequence[Mapping[str, Any]]:
        """What throws size and speed away. Raises IntegrityError where the file has a fault that must not ship."""


def export(
    engine: Engine,
    original: Original,
    recipes: Sequence[Recipe],
    *,
    tolerance: float | None = None,
    store: Store,
    progress: Progress = silent,
) -> tuple[Exported, Output]:
    """Turns a decoder into one file for one engine, and proves that it answers the same.

    Args:
        recipes: of that engine: what to try, in this order.
        tolerance: token accuracy that the file may lose against the checkpoint, or without answers the share of the
            likelihood; None takes each recipe's own, or `LIKELIHOOD_LOST`.

    Raises:
        InputError: nothing to judge by, or no checkpoint.
        StageError: the engine does not compute this family, or no recipe holds.
        IntegrityError: weights that are not finite, or the file has a fault that must not ship.
        MissingExtra: the engine is not installed.
        EngineCrashed: it could not run the file.
    """
    engine.refuse(original.checkpoint)
    inputs = {
        "steps": STEPS,
        "checkpoint": original.sha256,
        "recipes": [asdict(recipe) for recipe in recipes],
        "tolerance": tolerance,
        "judged_on": digest(asdict(original.on)),
        "new_tokens": NEW_TOKENS,
        "transformers": version("transformers"),
        **engine.versions(),
    }

    def produce(folder: Path, work: Path) -> None:
        original.progress = progress
        with no_advice(), quiet():
            _produce(folder, engine.writer(original, work))

    def _produce(folder: Path, write: Write) -> None:
        file, threads = folder / engine.MODEL, os.cpu_count() or 1
        steps: list[dict[str, Any]] = []
        for recipe in recipes:
            try:
                write(recipe, folder)
            except StageError as error:  # widths that its blocks do not divide
                steps.append(_refused(recipe, error.message, metric_of(original.on)))
                continue
            expected = original.reference
            found = engine.compare(expected, file, threads=threads, progress=_noted(progress, recipe.name))
            parity = {key: value for key, value in asdict(found).items() if key != "diverges_at"}
            if original.on.answers is None:
                step = judge_writing(recipe, parity, tolerance)
            else:
                step = judge(recipe, parity, found.token_accuracy, expected.token_accuracy, tolerance, metric=METRIC)
            diverges = [place for place in found.diverges_at if place is not None]
            steps.append(step | {"size_bytes": size_of(file), "first_divergence": min(diverges, default=None)})
            if step["passed"]:
                break
        else:
            raise NothingHolds(steps, hint=_hint(steps))
        record = {"ladder": steps, "lint": list(engine.lint(original, file, recipe))}
        (folder / "export.json").write_bytes(canonical(record))

    output = store.get("export", inputs, produce)
    return told(output, engine.MODEL), output


def size_of(file: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(one.stat().st_size for one in (file.iterdir() if file.is_dir() else [file]))


def installed(package: str, *, extra: str) -> str:
    """The version of a package that runs files. Raises MissingExtra where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise MissingExtra(package, extra=extra) from error


def _noted(progress: Progress, what: str) -> Progress:
    return lambda done, total, note="": progress(done, total, note or what)


def metric_of(on: Judged) -> str:
    """What files are judged by."""
    return LIKELIHOOD if on.answers is None else METRIC


def _refused(recipe: Recipe, reason: str, metric: str) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "metric": metric,
        "value": None,
        "passed": False,
        "reason": reason,
        "parity": {},
        "size_bytes": None,
    }


def _hint(steps: Sequence[dict[str, Any]]) -> str:
    tried = ", ".join(step["recipe"] for step in steps)
    return f"tried: {tried}; allow more with [export] tolerance, or give rows of the task with --data"
