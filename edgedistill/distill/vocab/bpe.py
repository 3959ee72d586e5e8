"""Byte-level BPE, as in GPT-2, Llama 3, Qwen and SmolLM, and BPE with byte fallback, as in Llama 2, Phi-3 and Gemma.

BPE starts from single characters and, again and again, applies the merge of the lowest rank among all neighbours, the
leftmost first (Sennrich et al., 2016, section 3.2). A piece p is kept with its parts: all pieces that this makes on
its way from the characters of p to p. Of the merges all those stay whose two sides and result are kept, in their order.

Why a text whose pieces are all kept has the same pieces:

- No merge crosses the border of a final piece, so the merges inside it never depend on its neighbours: of those
  within the border the lowest rank comes first, in a text as in p alone. So p is made by the merges that make p alone.
- Hence all merges that happened in the text are kept. By induction over the steps, both tokenizers stand before the
  same pieces; the smaller one has some of the same merges to choose from, in the same order, and the one that the
  larger one chose is among them: it chooses the same. At the end no merge was left, so none is left of fewer.
- A merge that was blocked by another one is set free only where that other one is dropped, and then the text had a
  dropped piece.

With `ignore_merges` a whole word that is a piece is taken without merging. The same word is taken if it is kept; a
word that was no piece before is none now. A piece that only this can reach has no parts. No merge starts from the
byte pieces of a byte fallback (SentencePiece makes none), so a text's characters are all that pieces are built from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from edgedistill.distill.vocab.rules import Rules, fallback
from edgedistill.errors import InputError


def rules(model: dict[str, Any]) -> Rules:
    """The alphabet or the byte pieces are needed; a piece comes with those it is merged from.

    Raises:
        InputError: pieces are marked by where they stand in a word, as in GPT-1 and CLIP.
    """
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model[affix]:
            raise InputError(
                f"the teacher's BPE tokenizer marks pieces with {model[affix]!r} ({affix}); it cannot be trimmed",
                hint="leave [student] vocabulary out, or use a teacher with a byte-level or SentencePiece tokenizer",
            )
    ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}

    def cut(ids: Mapping[str, int]) -> dict[str, Any]:
        merges = [pair for pair in model["merges"] if pair[0] in ids and pair[1] in ids and "".join(pair) in ids]
        return {**model, "vocab": dict(ids), "merges": merges}

    needed = fallback(model["vocab"], byte_fallback=model["byte_fallback"])
    if model["unk_token"] in model["vocab"]:
        needed.add(model["unk_token"])
    return Rules(needed=frozenset(needed), parts=lambda piece: _parts(piece, ranks), cut=cut)


def _parts(piece: str, ranks: Mapping[tuple[str, str], int]) -> Sequence[str]:
    """The piece's characters and all that is merged from them, in that order; only the piece where that misses it."""
    symbols = list(piece)
    made = list(symbols)
    while len(symbols) > 1:
        rank, at = min((ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(symbols)))
        if rank == len(ranks):
            return [piece]
        symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
        made.append(symbols[at])
    return list(dict.fromkeys(made))
