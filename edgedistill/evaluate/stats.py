"""Intervals: paired bootstrap over rows for accuracy, bootstrap over samples for times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgedistill.types import Estimate

DRAWS = 10_000
LEVEL = 0.95
CHUNK = 200

Floats = NDArray[np.float64]


def mean_interval(values: Floats, *, seed: int = 0) -> Estimate:
    """The mean of a per-row score with its bootstrap interval. Shape: [rows]."""
    return paired(lambda means: means[0], [values], seed=seed)


def paired(statistic: Callable[[Floats], Floats], scores: Sequence[Floats], *, seed: int = 0) -> Estimate:
    """A statistic of the mean scores of several contestants, all resampled over the same rows.

    Percentile bootstrap (Efron and Tibshirani, 1993, chapter 13); pairing the rows keeps what is hard for every
    contestant from widening the interval of their difference.

    Args:
        statistic: takes means, [contestants] or [contestants, draws], and returns one number or one a draw.
        scores: one [rows] array a contestant.
    """
    table = np.stack([np.asarray(score, dtype=np.float64) for score in scores])
    rows = table.shape[1]
    # Rows with the same scores are exchangeable, so it is enough to draw how often each combination occurs: four
    # numbers instead of thousands for two contestants that are right or wrong.
    combinations, counts = np.unique(table, axis=1, return_counts=True)
    chance = np.random.default_rng(seed)
    means = []
    for start in range(0, DRAWS, CHUNK):
        drawn_counts = chance.multinomial(rows, counts / rows, size=min(CHUNK, DRAWS - start))
        means.append(combinations @ drawn_counts.T / rows)
    drawn = statistic(np.concatenate(means, axis=1))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=float(statistic(table.mean(axis=1))), low=float(low), high=float(high))


def quantile_interval(samples: Floats, share: float, *, seed: int = 0) -> Estimate:
    """A quantile of measured samples with its bootstrap interval.

    Args:
        samples: in any unit. Shape: [samples].
        share: 0.5 is the median.
    """
    chance = np.random.default_rng(seed)
    drawn = np.quantile(chance.choice(samples, size=(1000, len(samples))), share, axis=1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=float(np.quantile(samples, share)), low=float(low), high=float(high))


def ratio_interval(above: Floats, below: Floats, *, seed: int = 0) -> Estimate:
    """Median of one set of samples over the median of another, with its bootstrap interval; the sets are unpaired."""
    chance = np.random.default_rng(seed)
    drawn = np.median(chance.choice(above, size=(1000, len(above))), axis=1)
    drawn = drawn / np.median(chance.choice(below, size=(1000, len(below))), axis=1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=float(np.median(above) / np.median(below)), low=float(low), high=float(high))
