"""Intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill.errors import StageError
from edgedistill.evaluate import stats
from edgedistill.evaluate.stats import mean_interval, paired, quantile_interval, ratio_interval
from edgedistill.types import Estimate

REPEATS = 200


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough to see the coverage, and quick enough for two hundred intervals."""
    monkeypatch.setattr(stats, "DRAWS", 600)


def share_that_holds(intervals: list[Estimate], truth: float) -> float:
    return sum(found.low <= truth <= found.high for found in intervals) / len(intervals)


@pytest.mark.usefixtures("few_draws")
def test_an_interval_of_a_mean_holds_the_mean_19_times_of_20() -> None:
    chance = np.random.default_rng(0)
    intervals = [mean_interval((chance.random(120) < 0.8).astype(float), seed=number) for number in range(REPEATS)]
    assert 0.90 <= share_that_holds(intervals, 0.8) <= 0.99


@pytest.mark.usefixtures("few_draws")
def test_a_paired_interval_of_a_difference_holds_it_19_times_of_20() -> None:
    chance, intervals = np.random.default_rng(1), []
    for number in range(REPEATS):
        hard = chance.random(120)
        a, b = ((hard + 0.2 * chance.random(120) < bound).astype(float) for bound in (0.9, 0.8))
        intervals.append(paired(lambda means: means[0] - means[1], [a, b], seed=number))
    assert 0.90 <= share_that_holds(intervals, 0.1) <= 0.99


def test_an_interval_of_a_median_holds_it_19_times_of_20() -> None:
    chance = np.random.default_rng(2)
    intervals = [quantile_interval(chance.lognormal(size=60), 0.5, seed=number) for number in range(REPEATS)]
    assert 0.90 <= share_that_holds(intervals, 1.0) <= 0.99


def test_an_interval_of_a_ratio_of_medians_holds_it_19_times_of_20() -> None:
    chance, intervals = np.random.default_rng(3), []
    for number in range(REPEATS):
        slow, fast = 20 * chance.lognormal(sigma=0.3, size=60), 4 * chance.lognormal(sigma=0.3, size=60)
        intervals.append(ratio_interval(slow, fast, seed=number))
    assert 0.90 <= share_that_holds(intervals, 5.0) <= 0.99


def test_rounds_that_disagree_widen_an_interval_and_rounds_that_agree_do_not() -> None:
    chance = np.random.default_rng(7)
    samples = chance.normal(10, 0.1, size=(3, 200))
    drifted = samples + np.array([[0.0], [1.0], [2.0]])

    def width(found: Estimate) -> float:
        return found.high - found.low

    assert width(quantile_interval(samples, 0.5)) < 2 * width(quantile_interval(samples.ravel(), 0.5))
    assert width(quantile_interval(drifted, 0.5)) > 3 * width(quantile_interval(drifted.ravel(), 0.5))
    assert width(ratio_interval(10 * drifted, samples)) > 3 * width(ratio_interval(10 * drifted.ravel(), samples))


def test_an_interval_over_rounds_holds_what_one_over_pooled_samples_misses() -> None:
    chance, truth = np.random.default_rng(8), 10.0
    rounds = [truth + chance.normal(0, 1, size=(12, 1)) + chance.normal(0, 0.3, size=(12, 30)) for _ in range(100)]
    by_round = [quantile_interval(samples, 0.5, seed=number) for number, samples in enumerate(rounds)]
    pooled = [quantile_interval(samples.ravel(), 0.5, seed=number) for number, samples in enumerate(rounds)]
    assert share_that_holds(by_round, truth) >= 0.88
    assert share_that_holds(pooled, truth) <= 0.75


def test_draws_that_give_no_figure_are_left_out_and_too_few_of_the_others_are_an_error() -> None:
    def ratio(means: np.ndarray) -> np.ndarray:
        found: np.ndarray = means[0] / means[1]
        return found

    ones = np.ones(60)
    found = paired(ratio, [ones, (np.arange(60) == 0).astype(float)])
    assert np.isfinite([found.value, found.low, found.high]).all()
    with pytest.raises(StageError, match="resamples of the 60 test rows"):
        paired(ratio, [ones, np.zeros(60)])


def test_pairing_makes_the_interval_of_a_difference_narrower() -> None:
    chance = np.random.default_rng(4)
    hard = chance.random(400)
    a, b = ((hard + 0.1 * chance.random(400) < bound).astype(float) for bound in (0.9, 0.8))

    def width(first: np.ndarray, second: np.ndarray) -> float:
        found = paired(lambda means: means[0] - means[1], [first, second])
        return found.high - found.low

    assert width(a, b) < 0.7 * width(a, chance.permutation(b))


def test_a_contestant_against_itself_is_exactly_1_with_no_doubt() -> None:
    score = (np.random.default_rng(5).random(300) < 0.9).astype(float)
    assert paired(lambda means: means[0] / means[1], [score, score]) == Estimate(value=1.0, low=1.0, high=1.0)


def test_a_score_without_spread_has_no_doubt() -> None:
    assert mean_interval(np.ones(50)) == Estimate(value=1.0, low=1.0, high=1.0)
    assert quantile_interval(np.full(50, 2.5), 0.5) == Estimate(value=2.5, low=2.5, high=2.5)
    assert ratio_interval(np.full(50, 5.0), np.full(20, 2.0)) == Estimate(value=2.5, low=2.5, high=2.5)


def test_the_value_is_the_statistic_of_the_samples_themselves() -> None:
    samples = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    assert mean_interval(samples).value == samples.mean()
    assert quantile_interval(samples, 0.5).value == 3.0
    assert ratio_interval(samples, 2 * samples).value == 0.5


def test_intervals_follow_from_their_seed() -> None:
    score = np.random.default_rng(6).random(100)
    assert mean_interval(score, seed=1) == mean_interval(score, seed=1)
    assert mean_interval(score, seed=1) != mean_interval(score, seed=2)
    assert quantile_interval(score, 0.5, seed=1) == quantile_interval(score, 0.5, seed=1)
    assert ratio_interval(score, score + 1, seed=1) == ratio_interval(score, score + 1, seed=1)


def test_more_rows_make_the_interval_narrower() -> None:
    few, many = (mean_interval((np.arange(rows) % 2).astype(np.float64)) for rows in (50, 5000))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(10, rel=0.15)
