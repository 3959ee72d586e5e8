"""How near a text comes to a reference: ROUGE, chrF and BLEU, by the packages that papers use.

Of several references the best one counts for ROUGE and chrF; BLEU takes an n-gram from any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import MissingExtra

ORDERS = 4
"""Longest n-gram of BLEU."""


def rouge(answer: str, reference: str) -> dict[str, float]:
    """F measures of ROUGE-1, ROUGE-2 and ROUGE-L with stemming (Lin, 2004)."""
    return {name: float(found.fmeasure) for name, found in _rouge().score(reference, answer).items()}


def chrf(answer: str, reference: str) -> float:
    """chrF2 of one text, 0 to 1 (Popović, 2015)."""
    return float(_chrf().sentence_score(answer, [reference]).score) / 100


def bleu_counts(answer: str, references: Sequence[str]) -> tuple[float, ...]:
    """What one row adds to the counts that BLEU is made of.

    Returns:
        ORDERS numbers of n-grams that a reference has too, ORDERS numbers of all n-grams, the length of the answer and
        that of the nearest reference, in words of sacrebleu's tokenizer 13a.
    """
    found = _bleu().sentence_score(answer, list(references))
    return (*found.counts, *found.totals, found.sys_len, found.ref_len)


def bleu(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU of a corpus, 0 to 1, from its summed counts (Papineni et al., 2002).

    An order without any match is smoothed as sacrebleu does it: the k-th of them counts as 1 / 2^k matches.

    Args:
        sums: the rows of `bleu_counts`, summed. Shape: [2 × ORDERS + 2, ...].
    """
    matched, there, (written, wanted) = sums[:ORDERS], sums[ORDERS : 2 * ORDERS], sums[2 * ORDERS :]
    halvings = np.cumsum(matched == 0, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = np.where(matched == 0, 0.5**halvings, matched) / there
        brevity = np.exp(np.minimum(0.0, 1 - wanted / written))
        score: NDArray[np.float64] = brevity * np.exp(np.log(precisions).mean(axis=0))
    return np.where((matched.max(axis=0) > 0) & (there.min(axis=0) > 0), score, 0.0)


@cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtra("rouge-score", extra="label") from error
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


@cache
def _chrf() -> Any:
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise MissingExtra("sacrebleu", extra="label") from error
    return CHRF()


@cache
def _bleu() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtra("sacrebleu", extra="label") from error
    return BLEU(effective_order=True)  # which it wants for single rows; their counts are all that is used
