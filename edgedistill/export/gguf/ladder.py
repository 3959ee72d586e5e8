"""A decoder in the smallest GGUF recipe that still answers like its checkpoint; each step is recorded.

Every file is held against the checkpoint along answers that are given: how often the next token of the answer is the
likeliest one. With the rows' own answers that is an accuracy as a classifier has one. A decoder that has no rows is
asked for its own greedy answers, of which it finds each token itself.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import IntegrityError, MissingExtra, NothingHolds, StageError
from edgedistill.export.gguf.imatrix import importance
from edgedistill.export.gguf.lint import lint
from edgedistill.export.gguf.parity import NEW_TOKENS, Reference, compare, reference
from edgedistill.export.gguf.quantize import quantize
from edgedistill.export.gguf.writer import to_gguf
from edgedistill.export.ladder import STEPS, judge, told
from edgedistill.export.silence import no_advice
from edgedistill.store import Output, Store, canonical, digest
from edgedistill.teachers.causal import tokenizer_of
from edgedistill.teachers.local import quiet
from edgedistill.types import Exported, Progress, Recipe, silent

MODEL = "model.gguf"
PACKAGE = "llama-cpp-python"
TEMPLATE = "tokenizer.chat_template"
UNTOUCHED = "f16"
"""The scheme that the checkpoint is written in, before any quantization."""


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
        """How much each column of its matrices matters on the calibration rows."""
        if not self.on.calibration:
            return None
        return importance(self.checkpoint, self.on.calibration, progress=self._told("importance of its weights"))

    def _told(self, what: str) -> Progress:
        return lambda done, total, note="": self.progress(done, total, note or what)


def export(
    original: Original,
    recipes: Sequence[Recipe],
    *,
    tolerance: float | None = None,
    store: Store,
    progress: Progress = silent,
) -> tuple[Exported, Output]:
    """Turns a decoder into one GGUF file, and proves that it answers the same.

    Args:
        recipes: what to try, in this order.
        tolerance: token accuracy that the file may lose against the checkpoint; None takes each recipe's own.

    Raises:
        InputError: nothing to judge by, or no checkpoint.
        StageError: llama.cpp does not compute this family, or no recipe holds.
        IntegrityError: weights that are not finite, or the file has a fault that must not ship.
        MissingExtra: llama-cpp-python is not installed.
        EngineCrashed: llama.cpp could not run the file.
    """
    inputs = {
        "steps": STEPS,
        "checkpoint": original.sha256,
        "recipes": [asdict(recipe) for recipe in recipes],
        "tolerance": tolerance,
        "judged_on": digest(asdict(original.on)),
        "new_tokens": NEW_TOKENS,
        **{package: version(package) for package in ("gguf", "transformers")},
        PACKAGE: engine_version(),
    }

    def produce(folder: Path, work: Path) -> None:
        original.progress = progress
        with no_advice(), quiet():
            _produce(folder, work / f"{original.checkpoint.resolve().name}.gguf")

    def _produce(folder: Path, whole: Path) -> None:
        threads = os.cpu_count() or 1
        to_gguf(original.checkpoint, whole, precision="f16", progress=progress)
        expected = original.reference
        steps: list[dict[str, Any]] = []
        for recipe in recipes:
            try:
                if recipe.scheme == UNTOUCHED:
                    shutil.copyfile(whole, folder / MODEL)
                else:
                    quantize(whole, folder / MODEL, recipe, importance=original.importance, threads=threads)
            except StageError as error:  # widths that its blocks do not divide
                steps.append(_refused(recipe, error.message))
                continue
            found = compare(expected, folder / MODEL, threads=threads)
            parity = {key: value for key, value in asdict(found).items() if key != "diverges_at"}
            step = judge(
                recipe, parity, found.token_accuracy, expected.token_accuracy, tolerance, metric="token accuracy"
            )
            size = (folder / MODEL).stat().st_size
            diverges = [place for place in found.diverges_at if place is not None]
            steps.append(step | {"size_bytes": size, "first_divergence": min(diverges, default=None)})
            if step["passed"]:
                break
        else:
            raise NothingHolds(steps, hint=_hint(steps))
        whole.unlink()
        findings = lint(folder / MODEL)
        untemplated = tokenizer_of(original.checkpoint).chat_template is None  # which is no fault of the file
        errors = (one for one in findings if one.severity == "error" and not (untemplated and one.where == TEMPLATE))
        if wrong := next(errors, None):
            raise IntegrityError(f"the exported file's {wrong.where}: {wrong.what}; {wrong.cost}")
        record = {"ladder": steps, "lint": [asdict(finding) for finding in findings]}
        (folder / "export.json").write_bytes(canonical(record))

    output = store.get("export", inputs, produce)
    return told(output, MODEL), output


def engine_version() -> str:
    """Of llama-cpp-python. Raises MissingExtra where it is not installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError as error:
        raise MissingExtra(PACKAGE, extra="gguf") from error


def _refused(recipe: Recipe, reason: str) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "metric": "token accuracy",
        "value": None,
        "passed": False,
        "reason": reason,
        "parity": {},
        "size_bytes": None,
    }


def _hint(steps: Sequence[dict[str, Any]]) -> str:
    tried = ", ".join(step["recipe"] for step in steps)
    return f"tried: {tried}; allow more with [export] tolerance, or give rows of the task with --data"
