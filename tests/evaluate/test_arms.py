"""The four arms on the same rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from edgedistill.errors import StageError
from edgedistill.evaluate.arms import Name, arms, contrasts
from edgedistill.tasks.classification import correct, macro_f1, recall_of
from edgedistill.types import Estimate

LABELS = ("door", "light", "music", "out_of_scope")
ROWS = 200


def answers(truth: NDArray[np.int64], right: float, seed: int) -> NDArray[np.float32]:
    """Logits that name the class of about this share of the rows."""
    chance = np.random.default_rng(seed)
    named = np.where(chance.random(len(truth)) < right, truth, (truth + 1) % len(LABELS))
    return (5 * np.eye(len(LABELS))[named] + chance.random((len(truth), len(LABELS)))).astype(np.float32)


@pytest.fixture
def truth() -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.arange(ROWS) % len(LABELS)
    return found


@pytest.fixture
def logits(truth: NDArray[np.int64]) -> Mapping[Name, NDArray[np.float32]]:
    return {
        "teacher": answers(truth, 0.95, 0),
        "control": answers(truth, 0.7, 1),
        "student": answers(truth, 0.9, 2),
        "exported": answers(truth, 0.88, 3),
    }


def test_every_arm_is_judged_on_the_same_rows_in_a_fixed_order(
    logits: Mapping[Name, NDArray[np.float32]], truth: NDArray[np.int64]
) -> None:
    found = arms(logits, truth, LABELS, out_of_scope="out_of_scope")
    assert [arm.name for arm in found] == ["teacher", "control", "student", "exported"]
    for arm in found:
        predicted = logits[arm.name].argmax(axis=1)
        assert arm.metrics["accuracy"].value == pytest.approx((predicted == truth).mean())
        assert arm.metrics["macro_f1"].value == macro_f1(predicted, truth)
        assert arm.metrics["out_of_scope_recall"].value == pytest.approx((predicted[truth == 3] == 3).mean())
        for estimate in arm.metrics.values():
            assert estimate.low <= estimate.value <= estimate.high


def test_without_out_of_scope_rows_there_is_no_recall_of_them(
    logits: Mapping[Name, NDArray[np.float32]], truth: NDArray[np.int64]
) -> None:
    inside = truth != 3
    of_inside = {name: found[inside] for name, found in logits.items()}
    for labels, out_of_scope in ((LABELS, "out_of_scope"), (LABELS, "unheard of")):
        for arm in arms(of_inside, truth[inside], labels, out_of_scope=out_of_scope):
            assert arm.metrics.keys() == {"accuracy", "macro_f1"}


def test_an_arm_that_answers_like_the_teacher_keeps_exactly_all_of_it(
    logits: Mapping[Name, NDArray[np.float32]], truth: NDArray[np.int64]
) -> None:
    same = dict.fromkeys(logits, logits["teacher"])
    found = {contrast.name: contrast for contrast in contrasts(same, truth)}
    for name in ("retained", "control_retained"):
        assert found[name].estimate == Estimate(value=1.0, low=1.0, high=1.0)
    for name in ("distillation", "export"):
        assert found[name].estimate == Estimate(value=0.0, low=0.0, high=0.0)


def test_contrasts_are_ratios_to_the_teacher_and_differences_in_points(
    logits: Mapping[Name, NDArray[np.float32]], truth: NDArray[np.int64]
) -> None:
    right = {name: (found.argmax(axis=1) == truth).mean() for name, found in logits.items()}
    found = {contrast.name: contrast for contrast in contrasts(logits, truth)}
    assert found["retained"].estimate.value == pytest.approx(right["exported"] / right["teacher"])
    assert found["control_retained"].estimate.value == pytest.approx(right["control"] / right["teacher"])
    assert found["distillation"].estimate.value == pytest.approx(100 * (right["student"] - right["control"]))
    assert found["export"].estimate.value == pytest.approx(100 * (right["exported"] - right["student"]))
    assert {name: contrast.unit for name, contrast in found.items()} == {
        "retained": "ratio",
        "control_retained": "ratio",
        "distillation": "points",
        "export": "points",
    }
    assert found["distillation"].estimate.low > 0


def test_a_teacher_that_is_right_nowhere_is_named_and_one_that_is_rarely_right_costs_no_report(
    truth: NDArray[np.int64], logits: Mapping[Name, NDArray[np.float32]]
) -> None:
    wrong = np.eye(len(LABELS), dtype=np.float32)[(truth + 1) % len(LABELS)]
    with pytest.raises(StageError, match=r"the teacher answers none of the 200 test rows rightly"):
        contrasts({**logits, "teacher": wrong}, truth)
    rarely = wrong.copy()
    rarely[0] = np.eye(len(LABELS), dtype=np.float32)[truth[0]]  # a third of the resamples miss this row
    kept = contrasts({**logits, "teacher": rarely}, truth)[0].estimate
    assert np.isfinite([kept.value, kept.low, kept.high]).all()
    assert kept.low <= kept.high


def test_arms_and_contrasts_follow_from_their_seed(
    logits: Mapping[Name, NDArray[np.float32]], truth: NDArray[np.int64]
) -> None:
    assert contrasts(logits, truth, seed=1) == contrasts(logits, truth, seed=1)
    assert contrasts(logits, truth, seed=1) != contrasts(logits, truth, seed=2)
    assert arms(logits, truth, LABELS, out_of_scope="x") == arms(logits, truth, LABELS, out_of_scope="x")


def f1_by_hand(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    scores = []
    for label in sorted(set(truth.tolist())):
        hits = sum(p == t == label for p, t in zip(predicted, truth, strict=True))
        said, there = (predicted == label).sum(), (truth == label).sum()
        precision, recall = (hits / said if said else 0.0), hits / there
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return float(np.mean(scores))


@pytest.mark.parametrize("seed", range(10))
def test_macro_f1_is_its_definition(seed: int) -> None:
    chance = np.random.default_rng(seed)
    truth, predicted = chance.integers(5, size=(2, 40))
    predicted[predicted == seed % 5] = 6  # a class that is never predicted, and one that is never true
    truth = truth[truth != (seed + 1) % 5]
    predicted = predicted[: len(truth)]
    assert macro_f1(predicted, truth) == pytest.approx(f1_by_hand(predicted, truth))


def test_macro_f1_is_1_for_right_answers_and_0_for_wrong_ones() -> None:
    truth = np.array([0, 1, 2, 2])
    assert macro_f1(truth, truth) == 1
    assert macro_f1((truth + 1) % 3, truth) == 0


def test_correct_is_1_where_the_label_is_right() -> None:
    assert correct(np.array([0, 1, 2]), np.array([0, 2, 2])).tolist() == [1.0, 0.0, 1.0]


def test_the_recall_of_a_label_is_the_share_of_its_rows_that_are_found() -> None:
    predicted, truth = np.array([0, 1, 1, 0]), np.array([1, 1, 1, 0])
    assert recall_of("b", ("a", "b", "c"), predicted, truth) == pytest.approx(2 / 3)
    assert recall_of("c", ("a", "b", "c"), predicted, truth) is None
    assert recall_of("d", ("a", "b", "c"), predicted, truth) is None
