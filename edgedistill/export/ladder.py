"""From the smallest recipe to safer ones, until the file is as accurate as the student; each step is recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgedistill.errors import StageError
from edgedistill.export.onnx import to_onnx
from edgedistill.export.parity import answers, compare
from edgedistill.export.quantize import quantize
from edgedistill.store import Output, Store, canonical, digest
from edgedistill.types import Exported, Progress, Recipe, Student, silent

MODEL = "model.onnx"
MAX_FP32_ERROR = 1e-3
"""Of a logit. A float32 file that differs by more was converted wrongly, whatever its accuracy."""


def export(
    student: Student,
    recipes: Sequence[Recipe],
    *,
    ids: Sequence[Sequence[int]],
    truth: NDArray[np.int64],
    logits: NDArray[np.float32],
    tolerance: float | None = None,
    store: Store,
    progress: Progress = silent,
) -> tuple[Exported, Output]:
    """Turns a student into one file for one engine, and proves that it answers the same.

    Args:
        recipes: what to try, in this order; the last one is float32.
        ids: token ids of the validation rows, on which the file is judged.
        truth: their classes. Shape: [rows].
        logits: the student's own answers to them. Shape: [rows, labels].
        tolerance: accuracy that the file may lose against the student; None takes each recipe's own.

    Raises:
        StageError: the converter failed, or even the float32 file does not answer like the student.
        IntegrityError: the student has weights that are not finite.
    """
    inputs = {
        "student": student.sha256,
        "recipes": [asdict(recipe) for recipe in recipes],
        "tolerance": tolerance,
        # Other validation rows or labels may decide for another recipe, and so may another version of the engine.
        "judged_on": digest([[list(row) for row in ids], truth.tolist()]),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }

    def produce(folder: Path, _: Path) -> None:
        fused = folder / "fused.onnx"
        to_onnx(student.path, fused)
        ladder: list[dict[str, Any]] = []
        for recipe in recipes:
            quantize(fused, folder / MODEL, recipe)
            found = answers(folder / MODEL, ids, progress=progress)
            step = judge(recipe, compare(found, logits), _accuracy(found, truth), _accuracy(logits, truth), tolerance)
            ladder.append(step)
            if step["passed"]:
                break
        else:
            raise StageError(f"no recipe answers like the student: {ladder[-1]['reason']}", hint="the student is kept")
        fused.unlink()
        (folder / "export.json").write_bytes(canonical({"ladder": ladder}))

    output = store.get("export", inputs, produce)
    ladder = json.loads((output.path / "export.json").read_text())["ladder"]
    exported = Exported(
        path=output.path / MODEL,
        sha256=output.sha256,
        recipe=ladder[-1]["recipe"],
        parity=ladder[-1]["parity"],
        ladder=tuple(ladder),
    )
    return exported, output


def judge(
    recipe: Recipe, parity: dict[str, float], file: float, student: float, tolerance: float | None
) -> dict[str, Any]:
    """One step of the ladder: does this recipe's file hold, and why."""
    allowed = recipe.tolerance if tolerance is None else tolerance
    drop = student - file
    reason = f"accuracy {file:.4f} against the student's {student:.4f}; {allowed:.4f} may be lost"
    passed = drop <= allowed
    if recipe.bits == 32 and not parity["max_error"] <= MAX_FP32_ERROR:  # so that NaN does not pass
        passed, reason = False, f"a float32 logit differs by {parity['max_error']:.2g}; {MAX_FP32_ERROR} is allowed"
    return {
        "recipe": recipe.name,
        "metric": "accuracy",
        "drop": drop,
        "passed": passed,
        "reason": reason,
        "parity": parity,
    }


def _accuracy(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    return float((logits.argmax(axis=1) == truth).mean())
