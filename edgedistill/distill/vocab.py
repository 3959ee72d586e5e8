"""A smaller vocabulary for a student, cut together with its tokenizer.

WordPiece matches the longest piece first. So if every piece of a text is kept, the text keeps its pieces: a smaller
vocabulary offers no longer match. And if every single character that any word can contain is kept, in both its forms
(at the start of a word, and as `##` inside one), then a word whose pieces were dropped falls back to smaller kept
pieces and, at worst, to characters; never to the unknown piece.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from edgedistill.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """A tokenizer with fewer pieces; `kept[i]` is the teacher's id of the student's piece i."""

    tokenizer: Tokenizer
    kept: tuple[int, ...]


def trim(tokenizer: Tokenizer, texts: Iterable[str], *, size: int | None = None) -> Trimmed:
    """Cuts a WordPiece vocabulary to what the texts need plus the pieces that everything can fall back to.

    Args:
        tokenizer: the teacher's; it is not changed.
        texts: the training texts. Every piece they use is kept when `size` allows it, frequent ones first.
        size: number of pieces to end with. None: no more than the texts and the fallback need. A larger one is filled
            with the teacher's own first pieces, which are the most common ones of its language.

    Raises:
        InputError: the tokenizer is not WordPiece, or the size leaves no room for the fallback.
    """
    model = _model(tokenizer)
    # Tokens may have been added beside the model's own pieces; they have ids and embeddings too.
    ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    prefix: str = model["continuing_subword_prefix"]
    needed = _special(tokenizer, model) | _fallback(tokenizer, model["vocab"], prefix)
    if size is not None and size < len(needed):
        raise InputError(
            f"a vocabulary of {size} pieces is too small: {len(needed)} are needed so that no text becomes unknown",
            hint="raise [student] vocabulary, or leave it out",
        )
    chosen = set(needed)
    limit = len(ids) if size is None else size
    for piece in _by_use(tokenizer, texts) + ([] if size is None else sorted(ids, key=ids.__getitem__)):
        if len(chosen) >= limit:
            break
        if not piece.startswith("[unused"):
            chosen.add(piece)
    kept = sorted(ids[piece] for piece in chosen)
    pieces = {number: piece for piece, number in ids.items()}
    return Trimmed(
        tokenizer=_with_vocabulary(tokenizer, {pieces[old]: new for new, old in enumerate(kept)}), kept=tuple(kept)
    )


def _model(tokenizer: Tokenizer) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    if model["type"] != "WordPiece":
        raise InputError(
            f"the teacher's tokenizer is {model['type']}; only WordPiece vocabularies can be trimmed so far",
            hint="use a teacher of the BERT family, such as MiniLM",
        )
    return model


def _special(tokenizer: Tokenizer, model: dict[str, Any]) -> set[str]:
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    return added | {model["unk_token"]}


def _fallback(tokenizer: Tokenizer, ids: dict[str, int], prefix: str) -> set[str]:
    """Single characters that can really occur, and longer pieces that no such characters could replace."""
    reachable = {piece: _reachable(tokenizer, piece, prefix) for piece in ids if len(piece.removeprefix(prefix)) == 1}
    single = {piece for piece, can_occur in reachable.items() if can_occur}
    start = {piece for piece in single if not _continues(piece, prefix)}
    inside = {piece.removeprefix(prefix) for piece in single if _continues(piece, prefix)}
    irreplaceable = set()
    for piece in ids:
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


def _by_use(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    counts: Counter[int] = Counter()
    for ids in pieces_of(tokenizer, texts):
        counts.update(ids)
    pieces = {number: piece for piece, number in tokenizer.get_vocab().items()}
    return [pieces[i] for i in sorted(counts, key=lambda i: (-counts[i], i))]


def _with_vocabulary(tokenizer: Tokenizer, vocabulary: dict[str, int]) -> Tokenizer:
    """The same normalizer, splitting and template over other ids."""
    spec = json.loads(tokenizer.to_str())
    spec["model"]["vocab"] = vocabulary
    spec["padding"] = spec["truncation"] = None
    for token in spec["added_tokens"]:
        token["id"] = vocabulary[token["content"]]
    processor = spec.get("post_processor") or {}
    for side in ("sep", "cls"):  # BertProcessing holds (token, id)
        if side in processor:
            processor[side] = [processor[side][0], vocabulary[processor[side][0]]]
    for token in processor.get("special_tokens", {}).values():  # TemplateProcessing
        token["ids"] = [vocabulary[name] for name in token["tokens"]]
    return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))


def pieces_of(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """The ids of each text without special tokens, padding or truncation."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    return [encoding.ids for encoding in plain.encode_batch_fast(list(texts), add_special_tokens=False)]
