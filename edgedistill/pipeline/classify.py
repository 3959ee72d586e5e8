"""The arms of a classifier: its teacher, the student that learned from it, and the control that did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.data import rows as data
from edgedistill.data.splits import Row
from edgedistill.pipeline.prepare import Prepared
from edgedistill.stages import Run
from edgedistill.store import Output
from edgedistill.types import SPLITS, Rows, Split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """What training came to.

    Attributes:
        teacher: the checkpoint that taught, fine-tuned where it had to be, and its hash.
        outputs: what the store keeps of "teacher", "student" and "control": their answers to validation and test rows.
        curves: of every arm that was trained.
        parameters: of the teacher and of the student.
    """

    splits: Mapping[Split, Sequence[Row]]
    teacher: Path
    identity: str
    outputs: Mapping[str, Output]
    curves: Mapping[str, tuple[Mapping[str, float], ...]]
    parameters: Mapping[str, int]

    def logits(self, arm: str, split: Split) -> NDArray[np.float32]:
        """What an arm said to the rows of a split. Shape: [rows, labels]."""
        from edgedistill.distill import encoder

        return encoder.said(self.outputs[arm], split, self.splits[split])


def teach(run: Run, known: Prepared) -> Taught:
    """Trains what has to be trained."""
    from edgedistill.distill import encoder, tables, teach

    request, rows, store, shape = run.request, known.rows, run.store, known.plan.student_shape
    splits = {split: data.read(rows, split) for split in SPLITS}
    with run.stage("teacher") as stage:
        tuned = teach.teach(known.teacher, rows, splits["train"], request, store=store, progress=stage.progress)
        stage.took(tuned)
        stage.note = "has the head already" if tuned is None else "fine-tuned on the labelled rows"
    teacher, identity = (known.teacher.path, known.teacher.sha256) if tuned is None else (tuned.path, tuned.sha256)
    with run.stage("signals") as stage:
        limit = request.data.max_tokens
        outputs = {"teacher": teach.ask(teacher, identity, rows, splits, limit, store=store, progress=stage.progress)}
        stage.took(outputs["teacher"])
    for arm in encoder.ARMS:
        with run.stage(arm) as stage:
            given = (arm, teacher, outputs["teacher"], rows, splits)
            if request.student.kind == "static":
                outputs[arm] = tables.distil(*given, request, store=store, progress=stage.progress)
            else:
                outputs[arm] = encoder.distil(*given, shape, request, store=store, progress=stage.progress)
            stage.took(outputs[arm])
    curves: dict[str, Any] = {arm: teach.curve(outputs[arm]) for arm in encoder.ARMS}
    if tuned is not None:
        curves["teacher"] = teach.curve(tuned)
    static = request.student.kind == "static"
    return Taught(
        splits=splits,
        teacher=teacher,
        identity=identity,
        outputs=outputs,
        curves=curves,
        parameters={
            "teacher": known.teacher.shape.parameters,
            "student": tables.parameters(outputs["student"]) if static else shape.parameters,
        },
    )


def classes(rows: Rows, of_split: Sequence[Row]) -> Any:
    """The class number of each row. Shape: [rows]."""
    import numpy as np

    number = {label: i for i, label in enumerate(rows.labels)}
    return np.array([number[row.label] for row in of_split])
