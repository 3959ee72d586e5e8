"""A smaller vocabulary for a student, cut together with its tokenizer.

Three laws hold for every kind of tokenizer; why they hold is said in the module of each kind.

1. A text whose pieces are all kept has the same pieces as before, under their new ids.
2. A piece that was dropped falls back to smaller kept ones. No text gains an unknown piece.
3. Everything around the pieces stays: added and special tokens, normalizer, splitting, template and decoder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from edgedistill.distill.vocab import bpe, unigram, wordpiece
from edgedistill.distill.vocab.rules import Rules
from edgedistill.errors import InputError

__all__ = ["Trimmed", "pieces_of", "trim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """A tokenizer with fewer pieces; `kept[i]` is the teacher's id of the student's piece i."""

    tokenizer: Tokenizer
    kept: tuple[int, ...]


def trim(tokenizer: Tokenizer, texts: Iterable[str], *, size: int | None = None) -> Trimmed:
    """Cuts a vocabulary to what the texts need plus the pieces that everything can fall back to.

    Args:
        tokenizer: the teacher's (WordPiece, BPE or Unigram); it is not changed.
        texts: the training texts as the student will read them, for a conversation with its template applied. Every
            piece they use is kept when `size` allows it, frequent ones first.
        size: number of pieces to end with. None: no more than the texts and the fallback need. A larger one is filled
            with the teacher's own first pieces, which are the most common ones of its language.

    Raises:
        InputError: a tokenizer of another kind, or the size leaves no room for the fallback.
    """
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    rules = _rules(tokenizer, spec["model"])
    # Tokens may have been added beside the model's own pieces; they have ids and embeddings too.
    ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    chosen = {part for piece in rules.needed | _around(spec) for part in rules.parts(piece)}
    if size is not None and size < len(chosen):
        raise InputError(
            f"a vocabulary of {size} pieces is too small: {len(chosen)} are needed so that no text becomes unknown",
            hint="raise [student] vocabulary, or leave it out",
        )
    limit = len(ids) if size is None else size
    for piece in _by_use(tokenizer, texts, ids) + ([] if size is None else sorted(ids, key=ids.__getitem__)):
        if len(chosen) >= limit:
            break
        if not piece.startswith("[unused"):
            # Parts come smallest first: wherever the limit cuts, what was chosen has its own parts.
            missing = [part for part in rules.parts(piece) if part not in chosen]
            chosen.update(missing[: limit - len(chosen)])
    # A loaded tokenizer numbers tokens beside the model after all of the model's own pieces.
    own = tokenizer.get_vocab(with_added_tokens=False).keys()
    order = sorted(chosen, key=lambda piece: (piece not in own, ids[piece]))
    renumbered = {piece: new for new, piece in enumerate(order)}
    spec["model"] = rules.cut({piece: new for piece, new in renumbered.items() if piece in own})
    _renumber(spec, renumbered)
    return Trimmed(
        tokenizer=Tokenizer.from_str(json.dumps(spec, ensure_ascii=False)), kept=tuple(ids[piece] for piece in order)
    )


def pieces_of(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """The ids of each text without special tokens, padding or truncation."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    return [encoding.ids for encoding in plain.encode_batch_fast(list(texts), add_special_tokens=False)]


def _rules(tokenizer: Tokenizer, model: dict[str, Any]) -> Rules:
    if model["type"] == "WordPiece":
        return wordpiece.rules(tokenizer, model)
    if model["type"] == "BPE":
        return bpe.rules(model)
    if model["type"] == "Unigram":
        return unigram.rules(model)
    raise InputError(
        f"the teacher's tokenizer is {model['type']}; WordPiece, BPE and Unigram vocabularies can be trimmed",
        hint="leave [student] vocabulary out, or use a teacher with one of these tokenizers",
    )


def _by_use(tokenizer: Tokenizer, texts: Iterable[str], ids: Mapping[str, int]) -> list[str]:
    counts: Counter[int] = Counter()
    for found in pieces_of(tokenizer, texts):
        counts.update(found)
    pieces = {number: piece for piece, number in ids.items()}
    return [pieces[i] for i in sorted(counts, key=lambda i: (-counts[i], i))]


def _around(spec: dict[str, Any]) -> set[str]:
    """The tokens that the tokenizer itself puts into or finds in a text, outside its model."""
    names = {token["content"] for token in spec["added_tokens"]}
    for processor in _processors(spec["post_processor"]):
        names |= {processor[side][0] for side in ("sep", "cls") if side in processor}
        names |= {name for token in processor.get("special_tokens", {}).values() for name in token["tokens"]}
    return names


def _renumber(spec: dict[str, Any], ids: Mapping[str, int]) -> None:
    """Writes the new ids wherever the old ones stood, outside the model."""
    spec["padding"] = spec["truncation"] = None
    for token in spec["added_tokens"]:
        token["id"] = ids[token["content"]]
    spec["added_tokens"].sort(key=lambda token: token["id"])
    for processor in _processors(spec["post_processor"]):
        for side in ("sep", "cls"):  # BertProcessing and RobertaProcessing hold (token, id)
            if side in processor:
                processor[side] = [processor[side][0], ids[processor[side][0]]]
        for token in processor.get("special_tokens", {}).values():  # TemplateProcessing
            token["ids"] = [ids[name] for name in token["tokens"]]


def _processors(processor: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A post-processor, or those inside a sequence of them."""
    if processor is not None:
        yield processor
        for inner in processor.get("processors", []):
            yield from _processors(inner)
