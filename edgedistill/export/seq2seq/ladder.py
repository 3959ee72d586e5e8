"""The smallest recipe whose two graphs still write what the checkpoint writes; each step is recorded."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgedistill.errors import IntegrityError, NothingHolds
from edgedistill.export.ladder import STEPS, judge_writing, told
from edgedistill.export.lint import lint
from edgedistill.export.seq2seq.parity import NEW_TOKENS, Reference, compare, reference
from edgedistill.export.seq2seq.write import MODEL, to_seq2seq
from edgedistill.store import Output, Store, canonical, digest
from edgedistill.types import Exported, Progress, Recipe, silent


class Original:
    """A checkpoint that graphs are made of; it is asked once, however many recipes there are.

    Args:
        sha256: of the checkpoint.
        texts: to be answered by it and by every file.
    """

    def __init__(self, checkpoint: Path, sha256: str, texts: Sequence[str]) -> None:
        self.checkpoint = checkpoint
        self.sha256 = sha256
        self.texts = tuple(texts)
        self.progress: Progress = silent

    @functools.cached_property
    def reference(self) -> Reference:
        """What it answers."""
        return reference(self.checkpoint, self.texts, progress=self.progress)


def export(
    original: Original,
    recipes: Sequence[Recipe],
    *,
    tolerance: float | None = None,
    store: Store,
    progress: Progress = silent,
) -> tuple[Exported, Output]:
    """Turns an encoder–decoder into two graphs, and proves that they write the same.

    Args:
        recipes: what to try, in this order; of the schemes that `to_seq2seq` takes.
        tolerance: share of the likelihood of the checkpoint's own answers that may be lost.

    Returns:
        The folder of the graphs, with tokenizer.json beside it.

    Raises:
        InputError: no texts, or no checkpoint.
        StageError: another family, or no recipe holds (`NothingHolds`).
        IntegrityError: weights that are not finite, or a graph has a fault that must not ship.
    """
    inputs = {
        "steps": STEPS,
        "checkpoint": original.sha256,
        "recipes": [asdict(recipe) for recipe in recipes],
        "tolerance": tolerance,
        "judged_on": digest(list(original.texts)),
        "new_tokens": NEW_TOKENS,
        **{package: version(package) for package in ("onnx", "onnxruntime", "transformers")},
    }

    def produce(folder: Path, _: Path) -> None:
        original.progress = progress
        steps: list[dict[str, Any]] = []
        for recipe in recipes:
            shutil.rmtree(folder / MODEL, ignore_errors=True)
            to_seq2seq(original.checkpoint, folder, recipe)
            found = compare(original.reference, folder, progress=progress)
            parity = {key: value for key, value in asdict(found).items() if key != "diverges_at"}
            step = judge_writing(recipe, parity, tolerance)
            diverges = [place for place in found.diverges_at if place is not None]
            size = sum(file.stat().st_size for file in (folder / MODEL).iterdir())
            steps.append(step | {"size_bytes": size, "first_divergence": min(diverges, default=None)})
            if step["passed"]:
                break
        else:
            tried = ", ".join(recipe.name for recipe in recipes)
            raise NothingHolds(steps, hint=f"tried: {tried}")
        findings = [finding for file in (folder / MODEL).glob("*.onnx") for finding in lint(file, recipe=recipe)]
        if stop := next((finding for finding in findings if finding.severity == "stop"), None):
            raise IntegrityError(f"the exported file's {stop.where} {stop.cost}")
        record = {"ladder": steps, "lint": [asdict(finding) for finding in findings]}
        (folder / "export.json").write_bytes(canonical(record))

    output = store.get("export", inputs, produce)
    return told(output, MODEL), output
