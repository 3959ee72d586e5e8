"""The four arms on the same test rows: teacher, control, student and the exported file that ships.

Arms that classify come as logits, arms that write come as answers. An arm that is not there is left out, and so is what
would be compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import StageError
from edgedistill.evaluate.stats import Floats, mean_interval, paired, pooled_interval, ratio_of_sums
from edgedistill.tasks.classification import correct, macro_f1, recall_of
from edgedistill.tasks.task import Task
from edgedistill.types import Arm, Contrast, Estimate

if TYPE_CHECKING:
    from edgedistill.evaluate.likelihood import Scored

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
    return tuple(
        _arm(name, logits[name].argmax(axis=1), truth, labels, out_of_scope, seed) for name in TITLES if name in logits
    )


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
    score = {name: correct(found.argmax(axis=1), truth) for name, found in logits.items()}
    if "teacher" in score and not score["teacher"].any():
        raise StageError(
            f"the teacher answers none of the {len(truth)} test rows rightly, so nothing can be compared with it",
            hint="look at the labels of the rows, or train it longer with [teacher] epochs",
        )
    return _contrasts(score, seed)


def row_scores(task: Task, answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Floats]:
    """Every metric of the task that is a mean over rows, row by row: what a paired bootstrap takes. Shapes: [rows]."""
    found = [task.scores(answer, of_row) for answer, of_row in zip(answers, references, strict=True)]
    return {name: np.array([scores[name] for scores in found]) for name in found[0]}


def text_arms(
    task: Task,
    answers: Mapping[Name, Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    scored: Mapping[Name, Scored] | None = None,
    seed: int = 0,
) -> tuple[Arm, ...]:
    """The metrics of arms that write text.

    A metric of single rows has the interval of its mean; one of all rows together, such as BLEU or macro F1, is worked
    out anew for every resample of the rows. `cross_entropy` and `kl` are in nats a token: sums over resampled rows,
    divided by their tokens.

    Args:
        answers: one text a row and arm.
        references: at least one a row.
        scored: what the arms make of the references, token by token, where that was asked.
    """
    made = []
    for name in TITLES:
        if name not in answers:
            continue
        metrics = {
            metric: mean_interval(values, seed=seed)
            for metric, values in row_scores(task, answers[name], references).items()
        }
        for metric, pooled in task.pooled(answers[name], references).items():
            metrics[metric] = pooled_interval(pooled.score, pooled.counts, seed=seed)
        if scored is not None and name in scored:
            metrics |= _a_token(scored[name], seed)
        made.append(Arm(name=name, title=TITLES[name], metrics=metrics))
    return tuple(made)


def _a_token(scored: Scored, seed: int) -> dict[str, Estimate]:
    found = {"cross_entropy": ratio_of_sums(scored.cross_entropy, scored.tokens, seed=seed)}
    if scored.kl is not None:
        found["kl"] = ratio_of_sums(scored.kl, scored.tokens, seed=seed)
    return found


def text_contrasts(
    task: Task,
    answers: Mapping[Name, Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    scored: Mapping[Name, Scored] | None = None,
    seed: int = 0,
) -> tuple[Contrast, ...]:
    """What `contrasts` says, by the task's headline metric, and what distillation did to KL and cross-entropy a token.

    Of a teacher that scores nothing, nothing can be kept: then what is retained is left out.
    """
    scores = {name: row_scores(task, texts, references)[task.headline] for name, texts in answers.items()}
    made = list(_contrasts(scores, seed))
    if scored is None or not {"student", "control"} <= scored.keys():
        return tuple(made)
    student, control = scored["student"], scored["control"]
    compared = [("cross_entropy", "cross-entropy", control.cross_entropy, student.cross_entropy)]
    if student.kl is not None and control.kl is not None:
        compared.append(("kl", "KL to the teacher", control.kl, student.kl))
    for name, title, before, after in compared:
        nearer = paired(
            lambda means: 100 * (means[0] / means[1] - means[2] / means[3]),
            [before, control.tokens, after, student.tokens],
            seed=seed,
        )
        title = f"{title}: control − student, in hundredths of a nat a token"
        made.append(Contrast(name=f"distillation_{name}", title=title, estimate=nearer, unit="points"))
    return tuple(made)


def _contrasts(score: Mapping[Name, Floats], seed: int) -> tuple[Contrast, ...]:
    """The comparisons that the arms allow, by a score of each row. Without an exported file the student stands in."""
    teacher = score.get("teacher")
    made = []

    def kept(name: str, title: str, arm: Name) -> None:
        if teacher is not None and teacher.any() and arm in score:  # of nothing, nothing is kept
            ratio = paired(lambda means: means[0] / means[1], [score[arm], teacher], seed=seed)
            made.append(Contrast(name=name, title=title, estimate=ratio, unit="ratio"))

    def gained(name: str, title: str, arm: Name, over: Name) -> None:
        if arm in score and over in score:
            points = paired(lambda means: 100 * (means[0] - means[1]), [score[arm], score[over]], seed=seed)
            made.append(Contrast(name=name, title=title, estimate=points, unit="points"))

    if "exported" in score:
        kept("retained", "exported file / teacher", "exported")
    else:
        kept("retained", "student / teacher", "student")
    kept("control_retained", "control / teacher", "control")
    gained("distillation", "student − control", "student", "control")
    gained("export", "exported file − student", "exported", "student")
    return tuple(made)
