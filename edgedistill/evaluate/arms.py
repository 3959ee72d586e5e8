"""The four arms on the same test rows: teacher, control, student and the exported file that ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import StageError
from edgedistill.evaluate.stats import mean_interval, paired
from edgedistill.tasks.classification import correct, macro_f1, recall_of
from edgedistill.types import Arm, Contrast, Estimate

Name = Literal["teacher", "control", "student", "exported"]
TITLES: Mapping[Name, str] = {
    "teacher": "teacher, fine-tuned",
    "control": "control: same student, labels alone",
    "student": "student, distilled",
    "exported": "exported file, as it ships",
}


def arms(
    logits: Mapping[Name, NDArray[np.float32]],
    truth: NDArray[np.int64],
    labels: Sequence[str],
    *,
    out_of_scope: str,
    seed: int = 0,
) -> tuple[Arm, ...]:
    """The metrics of each arm.

    Args:
        logits: one [rows, labels] array an arm.
        truth: the classes. Shape: [rows].
        out_of_scope: the label whose recall is reported on its own, where it occurs.
    """
    return tuple(_arm(name, logits[name].argmax(axis=1), truth, labels, out_of_scope, seed) for name in TITLES)


def _arm(
    name: Name, predicted: NDArray[np.int64], truth: NDArray[np.int64], labels: Sequence[str], oos: str, seed: int
) -> Arm:
    metrics = {"accuracy": mean_interval(correct(predicted, truth), seed=seed), "macro_f1": _f1(predicted, truth, seed)}
    if recall_of(oos, labels, predicted, truth) is not None:
        of_class = truth == labels.index(oos)
        metrics["out_of_scope_recall"] = mean_interval(correct(predicted, truth)[of_class], seed=seed)
    return Arm(name=name, title=TITLES[name], metrics=metrics)


def _f1(predicted: NDArray[np.int64], truth: NDArray[np.int64], seed: int) -> Estimate:
    chance = np.random.default_rng(seed)
    rows = chance.integers(len(truth), size=(1000, len(truth)))
    drawn = [macro_f1(predicted[draw], truth[draw]) for draw in rows]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value=macro_f1(predicted, truth), low=float(low), high=float(high))


def contrasts(
    logits: Mapping[Name, NDArray[np.float32]], truth: NDArray[np.int64], *, seed: int = 0
) -> tuple[Contrast, ...]:
    """What a user wants to know of the arms: what is kept of the teacher, and what distillation added.

    Accuracies, by paired bootstrap over the test rows.

    Raises:
        StageError: the teacher has hardly any right answer, so there is nothing to keep.
    """
    score = {name: correct(answers.argmax(axis=1), truth) for name, answers in logits.items()}
    teacher = score["teacher"]
    if not teacher.any():
        raise StageError(
            f"the teacher answers none of the {len(truth)} test rows rightly, so nothing can be compared with it",
            hint="look at the labels of the rows, or train it longer with [teacher] epochs",
        )

    def kept(arm: Name) -> Estimate:
        return paired(lambda means: means[0] / means[1], [score[arm], teacher], seed=seed)

    def gained(arm: Name, over: Name) -> Estimate:
        return paired(lambda means: 100 * (means[0] - means[1]), [score[arm], score[over]], seed=seed)

    return (
        Contrast(name="retained", title="exported file / teacher", estimate=kept("exported"), unit="ratio"),
        Contrast(name="control_retained", title="control / teacher", estimate=kept("control"), unit="ratio"),
        Contrast(name="distillation", title="student − control", estimate=gained("student", "control"), unit="points"),
        Contrast(name="export", title="exported file − student", estimate=gained("exported", "student"), unit="points"),
    )
