"""Unigram, as in T5, XLM-R and ALBERT, with or without byte fallback.

Unigram takes the path of the highest summed score through all pieces that match (Viterbi; Kudo, 2018, section 3.1). A
character without a piece of its own costs the lowest score of the vocabulary less a penalty, so the piece with the
lowest score stays: that cost must not change.

Why a text whose pieces are all kept has the same pieces: every path through fewer pieces was a path before, with the
same score, or, where it now spells a dropped character by its bytes, with a lower one. Rounded addition is monotone,
so at every position the best score is at most what it was; along the old best path it is exactly what it was. Of equal
candidates the one that starts first wins. One that ties now tied or won before, so the winner is the same one.

A dropped piece falls back to characters. Where single characters stand for all others (no byte fallback) they are all
kept. Then a text is unknown only where it was before, given that each character of the vocabulary is a piece, as
SentencePiece's trainer makes it; of a character found only in longer pieces all these are kept, and a path around
them can still win. Scores are taken as written to a file: one trained in memory moves by a last bit when it is saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedistill.distill.vocab.rules import Rules, alone, fallback


def rules(model: dict[str, Any]) -> Rules:
    """Characters or byte pieces, the unknown piece and the one with the lowest score are needed."""
    scores: dict[str, float] = dict(model["vocab"])
    unknown: str | None = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]

    def cut(ids: Mapping[str, int]) -> dict[str, Any]:
        vocabulary = [[piece, scores[piece]] for piece in sorted(ids, key=ids.__getitem__)]
        return {**model, "vocab": vocabulary, "unk_id": None if unknown is None else ids[unknown]}

    needed = {min(scores, key=scores.__getitem__)}
    if unknown is None:
        # Without an unknown piece the library fails at a character that is no piece, before it looks for bytes.
        needed |= fallback(scores, byte_fallback=False)
    else:
        needed |= fallback(scores, byte_fallback=model["byte_fallback"]) | {unknown}
    return Rules(needed=frozenset(needed), parts=alone, cut=cut)
