"""What a kind of tokenizer demands of a smaller vocabulary, and the fallback that BPE and Unigram share."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
# SentencePiece's mark for a space: a decoder turns the piece back into a space, but not the three bytes of the mark.
SPACE = "▁"
# A teacher that has a piece for a letter was hardly ever trained on the letter's byte: names and digits need these.
ASCII = frozenset(string.ascii_letters + string.digits + string.punctuation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The laws of one tokenizer's model.

    `needed` are the pieces without which a text could become unknown. `parts` names everything that a piece is built
    from, smallest first and the piece itself last. `cut` gives the model's description over the new ids 0..n-1.
    """

    needed: frozenset[str]
    parts: Callable[[str], Sequence[str]]
    cut: Callable[[Mapping[str, int]], dict[str, Any]]


def alone(piece: str) -> Sequence[str]:
    """For tokenizers that find a piece without building it."""
    return [piece]


def fallback(vocabulary: Iterable[str], *, byte_fallback: bool) -> set[str]:
    """The pieces that spell every text that the whole vocabulary can spell.

    With all 256 byte pieces these are enough. Otherwise it is every single character (for a byte-level BPE that is its
    alphabet, one character a byte), and every piece with a character that is no piece by itself.
    """
    pieces = set(vocabulary)
    spelled = pieces & BYTES if byte_fallback else set()
    if spelled == BYTES:
        return spelled | (pieces & (ASCII | {SPACE}))
    single = {piece for piece in pieces if len(piece) == 1}
    return spelled | single | {piece for piece in pieces if not single.issuperset(piece)}
