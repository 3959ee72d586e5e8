"""From the smallest recipe to safer ones, until the file is as accurate as the student; each step is recorded.

When a recipe loses too much, its most sensitive products are measured and left in float32, one, two, four and so on up
to half of them; when that does not hold either, the next recipe is tried.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgedistill.errors import IntegrityError, NothingHolds
from edgedistill.export.lint import lint
from edgedistill.export.onnx import to_onnx
from edgedistill.export.parity import answers, compare, feed, verdict
from edgedistill.export.quantize import base_of, quantize, set_apart
from edgedistill.export.sensitivity import sensitivity
from edgedistill.store import Output, Store, canonical, digest
from edgedistill.types import Exported, Progress, Recipe, Student, silent

MODEL = "model.onnx"
STEPS = 4
"""What a step of the ladder says has changed so often: an older one is not taken for today's."""
ROUNDING = 1e-6
"""A loss that is none: of the last digits of a mean."""
LIKELIHOOD = "likelihood kept"
"""Of what a checkpoint itself would say, where nobody's rows say what is right: exp(−KL) of its next tokens, which is
the file's likelihood of a token over the checkpoint's, as a geometric mean over tokens that the checkpoint draws."""
LIKELIHOOD_LOST = 0.05
"""A perplexity 5 % higher. Of Llama-3-8B, Q8_0 loses 0.1 %, Q4_K_M 3 % and Q4_0 7 % (tools/perplexity/README.md of
llama.cpp, mean KL divergence). To ask for the same words is too much: a logit that is 0.01 higher turns a close
choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """By what files are judged.

    Attributes:
        metric: what the figure is called.
        reference: the student's own figure.
        outputs: numbers that an answer has: labels, or 2 for a start and an end.
        figure: how good a file's answers are; they come as `answers` gives them.
        parity: how far they are from the student's, as `compare` tells it.
        words: what else people should know of them, for behind the reason of a step.
        told: all that these depend on, for the key of the store.
    """

    metric: str
    reference: float
    outputs: int
    figure: Callable[[NDArray[np.float32]], float]
    parity: Callable[[NDArray[np.float32]], dict[str, float]]
    words: Callable[[NDArray[np.float32]], str] = lambda _: ""
    told: Mapping[str, Any]


def export(
    student: Student,
    recipes: Sequence[Recipe],
    *,
    ids: Sequence[Sequence[int]],
    truth: NDArray[np.int64],
    logits: NDArray[np.float32],
    metric: str = "accuracy",
    tolerance: float | None = None,
    calibration: Sequence[Sequence[int]] = (),
    separator: int | None = None,
    store: Store,
    progress: Progress = silent,
) -> tuple[Exported, Output]:
    """Turns a classifier into one file for one engine, and proves that it answers the same: `export_by`.

    Args:
        truth: the classes of the rows of `ids`. Shape: [rows].
        logits: the student's own answers to them. Shape: [rows, labels].
        metric: what the share of right answers is called: agreement, where the classes are the student's own answers.
    """
    by = Criterion(
        metric=metric,
        reference=_accuracy(logits, truth),
        outputs=logits.shape[1],
        figure=lambda found: _accuracy(found, truth),
        parity=lambda found: compare(found, logits),
        # Other labels may decide for another recipe.
        told={"truth": digest(truth.tolist())},
    )
    return export_by(
        by,
        student,
        recipes,
        ids=ids,
        tolerance=tolerance,
        calibration=calibration,
        separator=separator,
        store=store,
        progress=progress,
    )


def export_by(
    by: Criterion,
    student: Student,
    recipes: Sequence[Recipe],
    *,
    ids: Sequence[Sequence[int]],
    tolerance: float | None = None,
    calibration: Sequence[Sequence[int]] = (),
    separator: int | None = None,
    store: Store,
    progress: Progress = silent,
) -> tuple[Exported, Output]:
    """Turns a student into one file for one engine, and proves that it answers the same.

    Args:
        by: what the file is judged by.
        recipes: what to try, in this order; the last one is float32.
        ids: token ids of the validation rows, on which the file is judged.
        tolerance: what the file may lose of the figure against the student; None takes each recipe's own.
        calibration: token ids of training rows, from which static recipes and the sensitivity take their measure.
            Without any, recipes that need them are passed over and the sensitivity is measured on the rows of `ids`.
        separator: the piece between the texts of a pair; None for rows of one text.

    Raises:
        StageError: the converter failed, or even the float32 file does not answer like the student.
        IntegrityError: the student has weights that are not finite, or the file has a fault that must not ship.
    """
    inputs = {
        "steps": STEPS,
        "student": student.sha256,
        "recipes": [asdict(recipe) for recipe in recipes],
        "metric": by.metric,
        "tolerance": tolerance,
        # Other validation rows may decide for another recipe, and so may another version of the engine.
        "judged_on": digest([[list(row) for row in ids], dict(by.told)]),
        "calibrated_on": digest([list(row) for row in calibration]),
        "separator": separator,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }

    def produce(folder: Path, _: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            _produce(folder, Path(work))

    def _produce(folder: Path, work: Path) -> None:
        climb = _Climb(student.path, work, calibration or ids, separator)
        steps: list[dict[str, Any]] = []
        for recipe, exclude in climb.steps(recipes, calibrated=bool(calibration)):
            climb.write(folder / MODEL, recipe, exclude)
            found = answers(folder / MODEL, ids, separator=separator, progress=progress)
            step = judge(recipe, by.parity(found), by.figure(found), by.reference, tolerance, metric=by.metric)
            step["reason"] += by.words(found)
            size = sum(file.stat().st_size for file in folder.iterdir())
            steps.append(step | {"kept_in_float": sorted(exclude), "size_bytes": size})
            if step["passed"]:
                break
        else:
            raise NothingHolds(steps, hint="the student is kept")
        findings = lint(folder / MODEL, recipe=recipe, labels=by.outputs)
        if stop := next((finding for finding in findings if finding.severity == "stop"), None):
            raise IntegrityError(f"the exported file's {stop.where} {stop.cost}", hint="the student is kept")
        record = {"ladder": steps, "lint": [asdict(finding) for finding in findings], "sensitivity": climb.measured}
        (folder / "export.json").write_bytes(canonical(record))

    output = store.get("export", inputs, produce)
    return told(output, MODEL), output


def told(output: Output, model: str) -> Exported:
    """What a ladder came to, from its record in the store.

    Args:
        model: name of the file, or of the folder of several.
    """
    record = json.loads((output.path / "export.json").read_text(encoding="utf-8"))
    last = record["ladder"][-1]
    return Exported(
        path=output.path / model,
        sha256=output.sha256,
        recipe=last["recipe"],
        parity=last["parity"],
        ladder=tuple(record["ladder"]),
        lint=tuple(record["lint"]),
        sensitivity=tuple(record.get("sensitivity", ())),
    )


class _Climb:
    """The files in between: a float32 file for each form that a recipe starts from, and what was measured on it."""

    def __init__(self, student: Path, work: Path, rows: Sequence[Sequence[int]], separator: int | None) -> None:
        self._student = student
        self._work = work
        self._rows = rows
        self._separator = separator
        self.measured: list[dict[str, Any]] = []

    def steps(self, recipes: Sequence[Recipe], *, calibrated: bool) -> Iterator[tuple[Recipe, Collection[str]]]:
        """What to try next, as long as it is asked: so sensitivity is only measured when a recipe has failed."""
        for recipe in recipes:
            if recipe.calibrated and not calibrated:
                continue
            yield recipe, ()
            # Where 4 bits lose too much, 8 come before float32.
            if recipe.scheme == "dynamic" and recipe.stored_bits is None:
                ranked = self._ranked(recipe)
                count = 1
                while count <= len(ranked) // 2:
                    yield recipe, ranked[:count]
                    count *= 2

    def write(self, path: Path, recipe: Recipe, exclude: Collection[str]) -> None:
        """The recipe's file, with some products left in float32."""
        rows = [feed(row, separator=self._separator) for row in self._rows] if recipe.calibrated else []
        quantize(self._base(recipe), path, recipe, exclude=exclude, rows=rows)
        set_apart(path)

    def _base(self, recipe: Recipe) -> Path:
        form: Mapping[str, Any] = base_of(recipe)
        path = self._work / f"{'packed' if form['packed'] else 'plain'}-{form['embedding_bits'] or 'float'}.onnx"
        if not path.exists():
            to_onnx(self._student, path, pairs=self._separator is not None, **form)
        return path

    def _ranked(self, recipe: Recipe) -> list[str]:
        found = sensitivity(self._base(recipe), recipe, self._rows, separator=self._separator, folder=self._work)
        self.measured += [{"recipe": recipe.name, **asdict(one)} for one in found]
        return [one.node for one in found]


def judge(
    recipe: Recipe,
    parity: dict[str, float],
    file: float,
    student: float,
    tolerance: float | None,
    *,
    metric: str = "accuracy",
) -> dict[str, Any]:
    """One step of the ladder: does this recipe's file hold, and why.

    Args:
        file: how good the file is, by the metric.
        student: how good what it was made from is.
    """
    allowed = recipe.tolerance if tolerance is None else tolerance
    drop = student - file
    same = verdict(parity, exact=recipe.bits == 32)
    reason = f"{metric} {file:.4f}, before {student:.4f}; {allowed:.4f} may be lost"
    passed = drop <= allowed + ROUNDING
    # A file that loses too much fails for that; one that is another model fails however accurate it is.
    if not same["passed"] and (passed or recipe.bits == 32):
        passed, reason = False, same["reason"]
    return {
        "recipe": recipe.name,
        "metric": metric,
        "value": file,
        "reference": student,
        "drop": drop,
        "passed": passed,
        "reason": reason,
        # A figure that is not finite has failed the step, and cannot be written down.
        "parity": {name: value if math.isfinite(value) else None for name, value in parity.items()},
        "verdict": same,
    }


def judge_writing(recipe: Recipe, parity: dict[str, float], tolerance: float | None) -> dict[str, Any]:
    """The same for what writes, held against the checkpoint along its own answers.

    Args:
        parity: with kl, checkpoint ‖ file in nats, mean over the places of the answers. One that is not finite keeps
            nothing.
        tolerance: share of the likelihood that may be lost; None is `LIKELIHOOD_LOST`.
    """
    kept = math.exp(-parity["kl"]) if math.isfinite(parity["kl"]) else 0.0
    return judge(recipe, parity, kept, 1.0, LIKELIHOOD_LOST if tolerance is None else tolerance, metric=LIKELIHOOD)


def _accuracy(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    return float((logits.argmax(axis=1) == truth).mean())
