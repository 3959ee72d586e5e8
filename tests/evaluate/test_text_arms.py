"""Arms that write text: metrics with intervals, and figures a token."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill.evaluate.arms import Name, contrasts, row_scores, text_arms, text_contrasts
from edgedistill.evaluate.likelihood import Scored
from edgedistill.evaluate.stats import ratio_of_sums
from edgedistill.tasks import find

ROWS = 60
REFERENCES = [[f"the {n} trains leave at {n + 1} from platform {n % 7} today"] for n in range(ROWS)]


def written(share: float, seed: int) -> list[str]:
    """Answers in which about this share of the words is right."""
    chance = np.random.default_rng(seed)
    return [
        " ".join(word if chance.random() < share else "perhaps" for word in of_row[0].split()) for of_row in REFERENCES
    ]


ANSWERS: dict[Name, list[str]] = {
    "teacher": written(0.95, 0),
    "control": written(0.6, 1),
    "student": written(0.8, 2),
}


def tokens(kl: float, seed: int) -> Scored:
    chance = np.random.default_rng(seed)
    counts = np.arange(3.0, 3 + ROWS)
    return Scored(
        cross_entropy=counts * (1 + kl + 0.1 * chance.random(ROWS)), kl=counts * kl * chance.random(ROWS), tokens=counts
    )


SCORED: dict[Name, Scored] = {"control": tokens(0.9, 3), "student": tokens(0.3, 4)}


def test_metrics_of_rows_are_means_and_bleu_is_that_of_the_corpus() -> None:
    task = find("conversation")
    found = {arm.name: arm.metrics for arm in text_arms(task, ANSWERS, REFERENCES)}
    assert list(found) == ["teacher", "control", "student"]
    for name, metrics in found.items():
        assert metrics.keys() == {"chrf", "rougeL", "bleu"}
        assert metrics["chrf"].value == pytest.approx(row_scores(task, ANSWERS[name], REFERENCES)["chrf"].mean())
        pooled = task.pooled(ANSWERS[name], REFERENCES)["bleu"]
        assert metrics["bleu"].value == pytest.approx(float(pooled.score(pooled.counts.sum(axis=1))))
        assert all(0 < e.low < e.value < e.high < 1 for e in metrics.values())


def test_labels_that_were_written_have_accuracy_and_macro_f1() -> None:
    truth = [["yes"], ["no"]] * 20
    said: dict[Name, list[str]] = {"student": ["yes", "no"] * 15 + ["yes", "perhaps"] * 5}
    (arm,) = text_arms(find("classification"), said, truth)
    assert arm.metrics["accuracy"].value == pytest.approx(35 / 40)
    assert arm.metrics["macro_f1"].value == pytest.approx((1 + 2 * 15 / (15 + 20)) / 2)


def test_figures_a_token_weigh_rows_by_their_tokens() -> None:
    arms = {arm.name: arm.metrics for arm in text_arms(find("conversation"), ANSWERS, REFERENCES, scored=SCORED)}
    student = SCORED["student"]
    assert student.kl is not None
    assert arms["student"]["kl"].value == pytest.approx(student.kl.sum() / student.tokens.sum())
    assert arms["student"]["cross_entropy"].value == pytest.approx(student.cross_entropy.sum() / student.tokens.sum())
    assert "kl" not in arms["teacher"]


def test_contrasts_say_what_is_kept_and_what_distillation_added() -> None:
    task = find("conversation")
    found = {c.name: c for c in text_contrasts(task, ANSWERS, REFERENCES, scored=SCORED)}
    mean = {name: row_scores(task, texts, REFERENCES)["chrf"].mean() for name, texts in ANSWERS.items()}
    assert found["retained"].title == "student / teacher"
    assert found["retained"].estimate.value == pytest.approx(mean["student"] / mean["teacher"])
    assert found["distillation"].estimate.value == pytest.approx(100 * (mean["student"] - mean["control"]))
    control, student = SCORED["control"], SCORED["student"]
    assert control.kl is not None
    assert student.kl is not None
    nearer = 100 * (control.kl.sum() - student.kl.sum()) / control.tokens.sum()
    assert found["distillation_kl"].estimate.value == pytest.approx(nearer)
    assert found["distillation_kl"].estimate.low > 0
    assert found["distillation_cross_entropy"].unit == "points"
    assert "export" not in found


def test_an_exported_file_is_what_is_held_against_the_teacher() -> None:
    found = text_contrasts(find("conversation"), {**ANSWERS, "exported": ANSWERS["student"]}, REFERENCES)
    assert found[0].title == "exported file / teacher"
    assert {contrast.name for contrast in found} == {"retained", "control_retained", "distillation", "export"}


def test_classifiers_without_some_arms_leave_out_what_needs_them() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    truth = np.array([0, 1, 2, 1])
    found = contrasts({"student": logits, "control": logits}, truth)
    assert [contrast.name for contrast in found] == ["distillation"]


def test_of_a_teacher_that_scores_nothing_nothing_is_kept() -> None:
    answers = {"teacher": ["x"] * 2, "student": ["a"] * 2, "control": ["a", "x"]}
    found = text_contrasts(find("qa"), answers, [["a"], ["a"]])
    assert [contrast.name for contrast in found] == ["distillation"]


def test_the_interval_of_a_ratio_of_sums_covers_it() -> None:
    covered = 0
    for seed in range(60):
        chance = np.random.default_rng(seed)
        lengths = chance.integers(1, 50, size=80).astype(float)
        of_row = chance.gamma(4, 0.25, size=80)  # its mean is 1, and a row's tokens share it
        found = ratio_of_sums(lengths * of_row, lengths, seed=seed)
        covered += found.low <= 1 <= found.high
    assert 49 <= covered <= 60
