"""WordPiece, as in BERT and MiniLM.

WordPiece matches the longest piece first. So if every piece of a text is kept, the text keeps its pieces: a smaller
vocabulary offers no longer match. And if every single character that any word can contain is kept, in both its forms
(at the start of a word, and as `##` inside one), then a word whose pieces were dropped falls back to smaller kept
pieces and, at worst, to characters; never to the unknown piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer

from edgedistill.distill.vocab.rules import Rules, alone


def rules(tokenizer: Tokenizer, model: dict[str, Any]) -> Rules:
    """Characters and the unknown piece are needed; a piece stands alone."""

    def cut(ids: Mapping[str, int]) -> dict[str, Any]:
        return {**model, "vocab": dict(ids)}

    needed = _fallback(tokenizer, model["vocab"], model["continuing_subword_prefix"]) | {model["unk_token"]}
    return Rules(needed=frozenset(needed), parts=alone, cut=cut)


def _fallback(tokenizer: Tokenizer, pieces: Iterable[str], prefix: str) -> set[str]:
    """Single characters that can really occur, and longer pieces that no such characters could replace."""
    reachable = {
        piece: _reachable(tokenizer, piece, prefix) for piece in pieces if len(piece.removeprefix(prefix)) == 1
    }
    single = {piece for piece, can_occur in reachable.items() if can_occur}
    start = {piece for piece in single if not _continues(piece, prefix)}
    inside = {piece.removeprefix(prefix) for piece in single if _continues(piece, prefix)}
    irreplaceable = set()
    for piece in pieces:
        letters = piece.removeprefix(prefix) if _continues(piece, prefix) else piece[1:]
        covered = all(letter in inside for letter in letters) and (_continues(piece, prefix) or piece[0] in start)
        if not covered and _reachable(tokenizer, piece, prefix):
            irreplaceable.add(piece)
    return single | irreplaceable


def _continues(piece: str, prefix: str) -> bool:
    return piece.startswith(prefix) and len(piece) > len(prefix)


def _reachable(tokenizer: Tokenizer, piece: str, prefix: str) -> bool:
    """Whether a text can contain the piece: Chinese characters and punctuation, say, never stand inside a word."""
    word = "a" + piece.removeprefix(prefix) if _continues(piece, prefix) else piece
    text = word if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(word)
    if tokenizer.pre_tokenizer is None:
        return text == word
    return [part for part, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] == [word]
