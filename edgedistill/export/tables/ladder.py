"""The first recipe whose file answers as the static student does; each step is recorded."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import IntegrityError, NothingHolds
from edgedistill.export.ladder import MODEL as ONNX
from edgedistill.export.ladder import STEPS, judge, told
from edgedistill.export.lint import lint
from edgedistill.export.parity import compare
from edgedistill.export.quantize import quantize
from edgedistill.export.tables.checkpoint import MANIFEST, MODEL, TOKENIZER, Tables
from edgedistill.export.tables.graph import to_onnx
from edgedistill.runtime import engine_onnx, engine_static
from edgedistill.store import Output, Store, canonical, digest
from edgedistill.types import Exported, Progress, Recipe, silent

Text = str | tuple[str, str]
Logits = NDArray[np.float32]
AT_ONCE = 256
FILES = {"safetensors": MODEL, "onnx": ONNX}


def export(
    student: Tables,
    recipes: Sequence[Recipe],
    *,
    texts: Sequence[Text],
    truth: NDArray[np.int64],
    logits: Logits,
    metric: str,
    tolerance: float | None = None,
    store: Store,
    progress: Progress = silent,
) -> tuple[Exported, Output]:
    """Turns a static student into one file for one engine, and proves that it answers the same.

    Args:
        recipes: what to try, in this order: of the scheme "tables", or of none.
        texts: of the validation rows, on which the file is judged.
        truth: their classes. Shape: [rows].
        logits: the student's own answers to them. Shape: [rows, labels].
        metric: what the share of right answers is called.
        tolerance: what the file may lose of it; None takes each recipe's own.

    Raises:
        StageError: no recipe holds (`NothingHolds`).
        IntegrityError: the file has a fault that must not ship.
    """
    inputs = {
        "steps": STEPS,
        "student": student.sha256,
        "recipes": [asdict(recipe) for recipe in recipes],
        "metric": metric,
        "tolerance": tolerance,
        "judged_on": digest([list(texts), truth.tolist()]),
        **{package: version(package) for package in ("numpy", "onnx", "onnxruntime")},
    }
    reference = _share(logits, truth)

    def produce(folder: Path, _: Path) -> None:
        steps: list[dict[str, Any]] = []
        for number, recipe in enumerate(recipes):
            progress(number, len(recipes), recipe.name)
            with tempfile.TemporaryDirectory() as work:
                file = write(student, Path(work), recipe)
                found = answers(student, file, texts)
                step = judge(recipe, compare(found, logits), _share(found, truth), reference, tolerance, metric=metric)
                steps.append(step | {"size_bytes": file.stat().st_size})
                if step["passed"]:
                    shutil.copyfile(file, folder / file.name)
                    break
        else:
            raise NothingHolds(steps, hint="the student is kept")
        findings = lint(folder / ONNX, recipe=recipe, labels=len(student.labels)) if recipe.format == "onnx" else ()
        if stop := next((finding for finding in findings if finding.severity == "stop"), None):
            raise IntegrityError(f"the exported file's {stop.where} {stop.cost}", hint="the student is kept")
        record = {"ladder": steps, "lint": [asdict(finding) for finding in findings]}
        (folder / "export.json").write_bytes(canonical(record))

    output = store.get("export", inputs, produce)
    passed = json.loads((output.path / "export.json").read_text(encoding="utf-8"))["ladder"][-1]["recipe"]
    recipe = next(recipe for recipe in recipes if recipe.name == passed)
    return told(output, FILES[recipe.format]), output


def write(student: Tables, folder: Path, recipe: Recipe) -> Path:
    """The file of a recipe, in a folder."""
    path = folder / FILES[recipe.format]
    if recipe.format == "safetensors":
        shutil.copyfile(student.path / MODEL, path)
    elif recipe.scheme == "tables":
        to_onnx(student.weights, path, in_8_bits=True)
    else:
        to_onnx(student.weights, folder / "float.onnx", in_8_bits=False)
        quantize(folder / "float.onnx", path, recipe)
    return path


def described(student: Tables) -> dict[str, Any]:
    """What the manifest of a bundle says of the model."""
    return {
        "labels": list(student.labels),
        "max_tokens": student.max_tokens,
        "pad_id": 0,
        "pairs": student.pairs,
        "apart": student.pairs,
    }


def answers(student: Tables, file: Path, texts: Sequence[Text]) -> Logits:
    """Logits of a file in its own engine, from text to answer as on the device. Shape: [rows, labels]."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        shutil.copyfile(student.path / TOKENIZER, folder / TOKENIZER)
        model: Mapping[str, Any] = {"file": str(file.absolute()), **described(student)}
        (folder / MANIFEST).write_bytes(canonical({"engine": {"threads": 1}, "model": model}))
        engine = engine_onnx if file.name == ONNX else engine_static
        classifier = engine.Classifier(folder)
        return np.concatenate([classifier(texts[at : at + AT_ONCE]) for at in range(0, len(texts), AT_ONCE)])


def _share(logits: Logits, truth: NDArray[np.int64]) -> float:
    return float((logits.argmax(axis=1) == truth).mean())
