"""When two texts are the same to their reader."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_MARKS = re.compile(
    r"FULL STOP|COMMA|COLON|EXCLAMATION|QUESTION|INTERROBANG|ELLIPSIS|DOT LEADER|DANDA|\bKHAN\b|\bSHAD\b"
    r"|MYANMAR SIGN (?:LITTLE )?SECTION|QUOTATION MARK|APOSTROPHE"
)
"""Names of the characters that end a sentence or a part of it, or quote one, in any script."""
_FACE = re.compile(r"[:;]['-]?[()\[\]]|(?<!\w)[()\[\]]['-]?[:;]")


def normal(text: str) -> str:
    """What makes two texts the same: neither case, nor spaces, nor the punctuation around words counts.

    Symbols, emoji and combining marks stay, and so does punctuation that is part of a word ("c#", ".5", "e-mail"): with
    them gone, texts of other scripts and meanings would fall together. A text of nothing else stands for itself.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    words = folded.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split()
    return " ".join(bare for word in words if (bare := _bare(word))) or " ".join(words)


def _bare(word: str) -> str:
    """A word without the punctuation around it; faces like ":)" are left whole."""
    if _FACE.search(word):
        return word
    start, end = 0, len(word)
    while end and _is_mark(word[end - 1]):
        end -= 1
    while start < end and _is_mark(word[start]):
        start += 1
    before = word[:start]
    # One stop in front of a word belongs to it: ".5" is not 5, and ".net" no net.
    if before.endswith(".") and not before.endswith(".."):
        start -= 1
    return word[start:end]


@cache
def _is_mark(character: str) -> bool:
    """Whether a character is a bracket, a quote, or a mark that ends a sentence or a part of one."""
    category = unicodedata.category(character)
    if category == "Po":
        return _MARKS.search(unicodedata.name(character, "")) is not None
    return category in ("Ps", "Pe", "Pi", "Pf")
