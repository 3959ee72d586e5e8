"""Intervals: paired bootstrap over rows for accuracy, bootstrap over rounds and samples for times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import StageError
from edgedistill.types import Estimate

DRAWS = 10_000
SAMPLE_DRAWS = 1000
AT_ONCE = 2000
"""Samples of which all resamples fit into the cache; more are drawn one resample after the other."""
LEVEL = 0.95
CHUNK = 200
FEWEST = 0.5
"""Share of the draws that must give a figure; an interval of less would speak of lucky draws only."""

Floats = NDArray[np.float64]
Samples = Floats | Sequence[Sequence[float]]


def mean_interval(values: Floats, *, seed: int = 0) -> Estimate:
    """The mean of a per-row score with its bootstrap interval. Shape: [rows]."""
    return paired(lambda means: means[0], [values], seed=seed)


def ratio_of_sums(sums: Floats, weights: Floats, *, seed: int = 0) -> Estimate:
    """A mean over tokens from what each row adds up to, with the interval that comes from drawing rows, not tokens.

    The tokens of a row depend on each other, so rows are what is resampled (Davison and Hinkley, 1997, section 3.8).

    Args:
        sums: of the figure over each row's tokens. Shape: [rows].
        weights: tokens of each row. Shape: [rows].
    """
    return paired(lambda means: means[0] / means[1], [sums, weights], seed=seed)


def pooled_interval(score: Callable[[Floats], Floats], counts: Floats, *, seed: int = 0) -> Estimate:
    """A metric that is made of counts over all rows, such as BLEU or macro F1, with its bootstrap interval.

    Args:
        score: takes sums over rows, [counts] or [counts, draws], and returns one number or one a draw.
        counts: [counts, rows].
    """
    rows = counts.shape[1]
    return paired(lambda means: score(np.round(means * rows)), list(counts), seed=seed)


def paired(statistic: Callable[[Floats], Floats], scores: Sequence[Floats], *, seed: int = 0) -> Estimate:
    """A statistic of the mean scores of several contestants, all resampled over the same rows.

    Percentile bootstrap (Efron and Tibshirani, 1993, chapter 13); pairing the rows keeps what is hard for every
    contestant from widening the interval of their difference.

    Args:
        statistic: takes means, [contestants] or [contestants, draws], and returns one number or one a draw.
        scores: one [rows] array a contestant.

    Raises:
        StageError: the statistic is no number, or is one in too few of the draws: something is divided by nothing.
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
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = statistic(np.concatenate(means, axis=1))
        value = float(statistic(table.mean(axis=1)))
    finite = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(finite) < FEWEST * DRAWS:
        raise StageError(
            f"a figure cannot be compared: only {len(finite)} of {DRAWS} resamples of the {rows} test rows give one, "
            "because an arm has hardly any right answer",
            hint="look at the labels of the rows, give more test rows, or train the teacher longer",
        )
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high))


def quantile_interval(samples: Samples, share: float, *, seed: int = 0) -> Estimate:
    """A quantile of measured samples with its bootstrap interval.

    Args:
        samples: in any unit. Shape: [samples], or [rounds, samples] when they were taken in rounds, or a list of rounds
            that need not be equally long.
        share: 0.5 is the median.
    """
    drawn = _resampled(samples, share, np.random.default_rng(seed))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=float(np.quantile(np.concatenate(_rounds(samples)), share)), low=float(low), high=float(high))


def plain_ratio(above: float, below: float) -> Estimate:
    """A ratio of two figures that do not scatter, such as sizes of files."""
    value = above / below
    return Estimate(value=value, low=value, high=value)


def ratio_interval(above: Samples, below: Samples, *, seed: int = 0) -> Estimate:
    """Median of one set of samples over the median of another, with its bootstrap interval; the sets are unpaired.

    Shapes: as for `quantile_interval`.
    """
    chance = np.random.default_rng(seed)
    drawn = _resampled(above, 0.5, chance) / _resampled(below, 0.5, chance)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = np.median(np.concatenate(_rounds(above))) / np.median(np.concatenate(_rounds(below)))
    return Estimate(value=float(value), low=float(low), high=float(high))


def _resampled(samples: Samples, share: float, chance: np.random.Generator) -> Floats:
    """A quantile of each resample: rounds are drawn first, then samples inside each. Shape: [draws].

    Samples of one round share its process and its moment, so they are no independent witnesses of the next round
    (Davison and Hinkley, 1997, section 3.8). Of one round this is the ordinary bootstrap.
    """
    rounds = _rounds(samples)
    sizes = {len(one) for one in rounds}
    if len(sizes) == 1 and len(rounds) * max(sizes) <= AT_ONCE:
        table = np.stack(rounds)
        which = chance.integers(len(rounds), size=(SAMPLE_DRAWS, len(rounds), 1))
        inside = chance.integers(len(table[0]), size=(SAMPLE_DRAWS, *table.shape))
        return np.asarray(np.quantile(table[which, inside].reshape(SAMPLE_DRAWS, -1), share, axis=1))
    drawn = np.empty(SAMPLE_DRAWS)
    for draw in range(SAMPLE_DRAWS):
        chosen = [rounds[number] for number in chance.integers(len(rounds), size=len(rounds))]
        values = np.concatenate([one[chance.integers(len(one), size=len(one))] for one in chosen])
        drawn[draw] = _quantile(values, share)
    return drawn


def _quantile(values: Floats, share: float) -> float:
    """As numpy's own, which takes ten times as long where it is asked a thousand times."""
    at = share * (len(values) - 1)
    below = int(at)
    above = min(below + 1, len(values) - 1)
    parted = np.partition(values, (below, above))
    return float(parted[below] + (at - below) * (parted[above] - parted[below]))


def _rounds(samples: Samples) -> list[Floats]:
    if isinstance(samples, np.ndarray):
        return list(np.atleast_2d(samples).astype(np.float64))
    return [np.asarray(one, dtype=np.float64) for one in samples]
