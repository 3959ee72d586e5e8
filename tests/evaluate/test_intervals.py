"""Intervals cover what they should, pairing narrows them, and equal arms are shown as equal."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill.evaluate.arms import arms, contrasts
from edgedistill.evaluate.stats import mean_interval, paired, quantile_interval, ratio_interval
from edgedistill.tasks.classification import macro_f1, recall_of


def test_the_interval_of_a_mean_covers_it_about_95_times_in_100() -> None:
    chance = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        found = mean_interval((chance.random(200) < 0.7).astype(float))
        covered += found.low <= 0.7 <= found.high
    assert 0.90 <= covered / 300 <= 0.985


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    chance = np.random.default_rng(2)
    hard = chance.random(400) < 0.2
    first, second = (~hard).astype(float), (~hard & (chance.random(400) > 0.02)).astype(float)
    together = paired(lambda means: means[0] - means[1], [first, second])
    apart = paired(lambda means: means[0] - means[1], [first, chance.permutation(second)])
    assert together.high - together.low < 0.5 * (apart.high - apart.low)
    assert together.low <= together.value <= together.high


def test_drawing_combinations_is_drawing_rows() -> None:
    scores = np.random.default_rng(3).random(60) < 0.5
    found = mean_interval(scores.astype(float))
    chance = np.random.default_rng(4)
    drawn = scores[chance.integers(60, size=(20000, 60))].mean(axis=1)
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.02)


def test_quantiles_and_ratios_of_samples() -> None:
    samples = np.random.default_rng(5).lognormal(size=500)
    found = quantile_interval(samples, 0.9)
    assert found.low <= np.quantile(samples, 0.9) <= found.high
    ratio = ratio_interval(samples * 10, samples)
    assert ratio.value == pytest.approx(10)
    assert ratio.low < 10 < ratio.high


def test_equal_arms_keep_exactly_everything() -> None:
    truth = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    logits = np.eye(3, dtype=np.float32)[np.array([0, 1, 2, 0, 1, 0, 0, 1])]
    found = {
        c.name: c.estimate
        for c in contrasts(dict.fromkeys(("teacher", "control", "student", "exported"), logits), truth)
    }
    assert (found["retained"].value, found["retained"].low, found["retained"].high) == (1.0, 1.0, 1.0)
    assert (found["distillation"].low, found["distillation"].high) == (0.0, 0.0)


def test_the_arms_say_accuracy_macro_f1_and_out_of_scope_recall() -> None:
    truth = np.array([0, 0, 1, 1, 2, 2])
    answers = np.eye(3, dtype=np.float32)[np.array([0, 1, 1, 1, 2, 0])]
    logits = dict.fromkeys(("teacher", "control", "student", "exported"), answers)
    teacher = arms(logits, truth, ["a", "b", "oos"], out_of_scope="oos")[0]
    assert teacher.metrics["accuracy"].value == pytest.approx(4 / 6)
    assert teacher.metrics["out_of_scope_recall"].value == pytest.approx(0.5)
    # F1 by hand: a 2·1/(2+2), b 2·2/(2+3), oos 2·1/(2+1)
    assert teacher.metrics["macro_f1"].value == pytest.approx((0.5 + 0.8 + 2 / 3) / 3)
    assert "out_of_scope_recall" not in arms(logits, truth, ["a", "b", "c"], out_of_scope="oos")[0].metrics


def test_a_class_that_is_never_predicted_counts_as_nothing_found() -> None:
    assert macro_f1(np.array([0, 0]), np.array([0, 1])) == pytest.approx((2 / 3 + 0) / 2)
    assert recall_of("x", ["a"], np.array([0]), np.array([0])) is None
