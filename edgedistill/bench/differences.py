"""How much more one result's rounds cost than another's, where most of what disturbs them only adds to their costs.

Costs come as logarithms, so that differences are ratios. A figure has a list of them a round, and rounds are fresh
processes. Each round may have a clock: what a reference cost in it that no result changes. Of 30 results of one bundle
on a host with other guests, taken within 20 minutes, every two differed by 2.5 % in what the calls took, and by 1.1 %
over the reference of their round (benchmarks/LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedistill.evaluate.stats import LEVEL, SAMPLE_DRAWS
from edgedistill.types import Estimate

QUARTILE = 0.25
MOST_INSIDE = 500
"""Samples of a round that a resample takes: more would only narrow what is far narrower than the rounds' spread."""

Floats = NDArray[np.float64]
Rounds = Sequence[Floats]
Clocks = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much more B costs than A, in logarithms.

    Attributes:
        interval: by the cheaper rounds over their clocks, with its 95 % interval.
        raw: the same without clocks.
        floor: by the cheapest of all rounds.
        usual: as `interval`, by the cheaper quarter of the calls instead of the cheapest ones.
        middle: between the medians of all samples, p50 against p50.
    """

    interval: Estimate
    raw: float
    floor: float
    usual: float
    middle: float


def by_round(sides: Sequence[Rounds], clocks: Clocks | None = None) -> Difference:
    """Of a figure whose samples are one population.

    Args:
        clocks: of every round of both sides, in logarithms; None where none is known or to be counted out.
    """
    over = _over(sides, clocks)
    interval = quartiles(*over)
    a, b = (min(map(np.median, rounds)) for rounds in over)
    raw = _quartile(sides[1]) - _quartile(sides[0])
    return Difference(interval=interval, raw=raw, floor=float(b - a), usual=interval.value, middle=interval.value)


def by_text(sides: Sequence[Rounds], texts: int, clocks: Clocks | None = None) -> Difference:
    """Of the times of single answers: every text is compared with itself.

    A text costs in a round what its fastest call does, of as many passes in every round, as more of them would find a
    faster one. What other programs do, and other guests of the same host, whom no counter tells, adds to calls: there
    the medians of results of one bundle spread by 2.7 %, and these by 0.7 % (benchmarks/LOG.md). What code adds to some
    calls alone, they do not see; `usual` and `middle` do.
    """
    raw = relative(sides, texts, 0.0)
    fastest, usual = (_over(relative(sides, texts, share), clocks) for share in (0.0, QUARTILE))
    count = min(map(len, sides))
    a, b = (np.stack(rounds[:count]).min(axis=0) for rounds in fastest)
    whole = [float(np.median(np.concatenate(rounds))) for rounds in _over(sides, clocks)]
    return Difference(
        interval=quartiles(*fastest),
        raw=_quartile(raw[1]) - _quartile(raw[0]),
        floor=float(np.median(b - a)),
        usual=_quartile(usual[1]) - _quartile(usual[0]),
        middle=whole[1] - whole[0],
    )


def _over(sides: Sequence[Rounds], clocks: Clocks | None) -> Sequence[Rounds]:
    if clocks is None:
        return sides
    return [[one - clock for one, clock in zip(*side, strict=True)] for side in zip(sides, clocks, strict=True)]


def relative(sides: Sequence[Rounds], texts: int, share: float) -> list[list[Floats]]:
    """Each round's cost of each text, over all rounds' cost of it: long texts and short ones become one population.

    Args:
        share: of the passes, below which the cost lies: 0 is the cheapest.
    """
    passes = min(len(samples) // texts for rounds in sides for samples in rounds)
    each = [
        [np.quantile(samples[: passes * texts].reshape(-1, texts), share, axis=0) for samples in rounds]
        for rounds in sides
    ]
    all_rounds = np.median(np.stack([one for rounds in each for one in rounds]), axis=0)
    return [[one - all_rounds for one in rounds] for rounds in each]


def known(rounds: Rounds, texts: int, clocks: Sequence[float] | None = None) -> float:
    """How closely one result knows what `by_text` compares: half its 95 % interval, in logarithms."""
    (fastest,) = _over(relative([rounds], texts, 0.0), None if clocks is None else [clocks])
    drawn = _drawn(fastest, np.random.default_rng(0))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(high - low) / 2 * _stretch(len(fastest))


def quartiles(a: Rounds, b: Rounds, *, seed: int = 0) -> Estimate:
    """How much more B costs than A: the lower quartile over rounds of each round's median.

    What disturbs a process only adds to its costs, so the lower rounds know more than the upper ones. Of 5 % more and
    rounds that differ by 1 %, every fifth of which is held up by 3 to 12 %, ten rounds of each find 93 % by the lower
    quartile and 59 % by the median; neither calls a thing worse that is not.

    The interval resamples rounds, then what is inside them (Davison and Hinkley, 1997, section 3.8). Of n rounds the
    bootstrap sees a spread that is √((n − 1) / n) of the true one (ibid., section 2.5.1), so it is stretched by that.
    """
    chance = np.random.default_rng(seed)
    value = _quartile(b) - _quartile(a)
    drawn = _drawn(b, chance) - _drawn(a, chance)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    stretch = _stretch(min(len(a), len(b)))
    return Estimate(value=value, low=value + stretch * (low - value), high=value + stretch * (high - value))


def _stretch(rounds: int) -> float:
    return math.sqrt(rounds / (rounds - 1))


def _quartile(rounds: Rounds) -> float:
    return float(np.quantile([np.median(samples) for samples in rounds], QUARTILE))


def _drawn(rounds: Rounds, chance: np.random.Generator) -> Floats:
    """The lower quartile over rounds of each resample. Shape: [draws]."""
    inside = np.empty((len(rounds), SAMPLE_DRAWS))
    for number, samples in enumerate(rounds):
        picked = chance.integers(len(samples), size=(SAMPLE_DRAWS, min(len(samples), MOST_INSIDE)))
        inside[number] = np.median(samples[picked], axis=1)
    which = chance.integers(len(rounds), size=(SAMPLE_DRAWS, len(rounds)))
    return np.asarray(np.quantile(inside[which, np.arange(SAMPLE_DRAWS)[:, None]], QUARTILE, axis=1))
