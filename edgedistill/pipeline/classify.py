"""The arms of a classifier: its teacher, the student that learned from it, and the control that did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.config import Request
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
        explanation: where there are several teachers, how good each of them is.
    """

    splits: Mapping[Split, Sequence[Row]]
    teacher: Path
    identity: str
    outputs: Mapping[str, Output]
    curves: Mapping[str, tuple[Mapping[str, float], ...]]
    parameters: Mapping[str, int]
    explanation: tuple[str, ...] = ()

    def logits(self, arm: str, split: Split) -> NDArray[np.float32]:
        """What an arm said to the rows of a split. Shape: [rows, labels]."""
        from edgedistill.distill import encoder

        return encoder.said(self.outputs[arm], split, self.splits[split])


def teach(run: Run, known: Prepared) -> Taught:
    """Trains what has to be trained."""
    from edgedistill.distill import encoder, tables, teach

    request, rows, store, shape = run.request, known.rows, run.store, known.plan.student_shape
    splits = {split: data.read(rows, split) for split in SPLITS}
    found = (known.teacher, *known.others)
    with run.stage("teacher") as stage:
        every = [
            teach.teach(one, rows, splits["train"], request, store=store, progress=stage.progress) for one in found
        ]
        stage.took(*every)
        tuned = every[0]
        stage.note = "has the head already" if tuned is None else "fine-tuned on the labelled rows"
        if known.others:
            stage.note = f"{sum(one is not None for one in every)} of {len(every)} fine-tuned on the labelled rows"
    folders = [
        (one.path, one.sha256) if made is None else (made.path, made.sha256)
        for one, made in zip(found, every, strict=True)
    ]
    teacher, identity = folders[0]
    with run.stage("signals") as stage:
        limit = request.data.max_tokens
        # Hidden states of the first alone, which the student is made of.
        asked = [
            teach.ask(*one, rows, splits, limit, hidden=one is folders[0], store=store, progress=stage.progress)
            for one in folders
        ]
        stage.took(*asked)
        outputs = {"teacher": asked[0]}
    for arm in encoder.ARMS:
        with run.stage(arm) as stage:
            given = (arm, teacher, outputs["teacher"], rows, splits)
            rest: Any = {"others": asked[1:], "store": store, "progress": stage.progress}
            if request.student.kind == "static":
                outputs[arm] = tables.distil(*given, request, **rest)
            else:
                outputs[arm] = encoder.distil(*given, shape, request, **rest)
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
        explanation=_each(request, rows, splits, asked) if known.others else (),
    )


def _each(
    request: Request, rows: Rows, splits: Mapping[Split, Sequence[Row]], asked: Sequence[Output]
) -> tuple[str, ...]:
    """How good each of several teachers is, and what share of the divergence it came to have."""
    from edgedistill.distill import encoder, teach

    truth = classes(rows, splits["validation"])
    shares = teach.panel(asked, rows, splits["train"], request).shares.mean(dim=0).tolist()
    right = [(encoder.said(one, "validation", splits["validation"]).argmax(axis=1) == truth).mean() for one in asked]
    return tuple(
        f"teacher {number}: {found:.1%} of the validation rows right, {share:.0%} of the divergence"
        for number, (found, share) in enumerate(zip(right, shares, strict=True), 1)
    )


def classes(rows: Rows, of_split: Sequence[Row]) -> Any:
    """The class number of each row. Shape: [rows]."""
    import numpy as np

    number = {label: i for i, label in enumerate(rows.labels)}
    return np.array([number[row.label] for row in of_split])
