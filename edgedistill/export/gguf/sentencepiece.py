"""SentencePiece: BPE with byte fallback ("llama" in GGUF: Llama 2, Phi-3, Gemma) and Unigram ("t5").

llama.cpp's "llama" tokenizer has no merges: again and again it joins the two neighbours that make the piece with the
highest score. tokenizer.json has merges in order of rank instead, made from SentencePiece's pieces in the order of
their scores, so the rank of the first merge that makes a piece, negated, orders the pieces as their scores did.

Of a text that begins with a space transformers leaves out the space that it else puts in front where the tokenizer.json
says Metaspace, and llama.cpp does not; chat templates make no such text. `same_pieces` of the parity report shows it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

from gguf import GGUFWriter, TokenType

from edgedistill.export.gguf.pieces import Kind, refused, steps

SPACE = "▁"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def bpe(spec: dict[str, Any]) -> Kind:
    """The kind of a BPE tokenizer.json with byte fallback.

    Raises:
        StageError: it normalizes or splits texts in a way that llama.cpp does not.
    """
    model = spec["model"]
    prefix = _space_prefix(spec)
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    ids: dict[str, int] = model["vocab"]
    scores = {number: -float(ranks.get(piece, len(model["merges"]))) for piece, number in ids.items()}
    unknown = model["unk_token"]

    def rest(writer: GGUFWriter) -> None:
        writer.add_add_space_prefix(prefix)

    return Kind(model="llama", pre="default", type_of=_types(unknown), scores=scores, add_rest=rest)


def unigram(spec: dict[str, Any]) -> Kind:
    """The kind of a Unigram tokenizer.json.

    Raises:
        StageError: it normalizes or splits texts in a way that llama.cpp does not, or falls back to bytes.
    """
    model = spec["model"]
    if model.get("byte_fallback"):
        raise refused("Unigram pieces and a fallback to bytes")
    if model["unk_id"] is None:
        raise refused("Unigram pieces and no unknown piece")
    charsmap, squeezes = _normalizer(spec)
    found = steps(spec["pre_tokenizer"])
    split = [step for step in found if step["type"] == "WhitespaceSplit"]
    marks = [step for step in found if step["type"] == "Metaspace"]
    if len(marks) != 1 or len(split) + len(marks) != len(found) or marks[0]["replacement"] != SPACE:
        raise refused("the pre-tokenizer " + " then ".join(step["type"] for step in found) + " and Unigram pieces")
    prefix = marks[0]["prepend_scheme"] != "never"
    if split and not charsmap:
        raise refused("Unigram pieces and lines that are split but not made spaces")
    if prefix and not (squeezes or split):
        raise refused("Unigram pieces and a leading space that stands for the one put in front")

    def rest(writer: GGUFWriter) -> None:
        writer.add_add_space_prefix(prefix)
        writer.add_remove_extra_whitespaces(squeezes or bool(split))
        if charsmap:
            writer.add_precompiled_charsmap(charsmap)

    pieces = [piece for piece, _ in model["vocab"]]
    scores = {number: float(score) for number, (_, score) in enumerate(model["vocab"])}
    return Kind(model="t5", pre="default", type_of=_types(pieces[model["unk_id"]]), scores=scores, add_rest=rest)


def _types(unknown: str | None) -> Callable[[str], TokenType]:
    def type_of(piece: str) -> TokenType:
        if piece == unknown:
            return TokenType.UNKNOWN
        return TokenType.BYTE if BYTE.fullmatch(piece) else TokenType.NORMAL

    return type_of


def _space_prefix(spec: dict[str, Any]) -> bool:
    """Whether a text gets a space in front, from the one of several ways in which this is written down."""
    prefix = False
    replaced = False
    for step in steps(spec["normalizer"]):
        if step["type"] == "Prepend" and step["prepend"] == SPACE:
            prefix = True
        elif step["type"] == "Replace" and step["pattern"].get("String") == " " and step["content"] == SPACE:
            replaced = True
        else:
            raise refused(f"the normalizer {step['type']} and SentencePiece BPE")
    for step in steps(spec["pre_tokenizer"]):
        if step["type"] == "Metaspace" and step["replacement"] == SPACE and not step.get("split", True):
            prefix, replaced = step["prepend_scheme"] != "never", True
        # Gemma's: after the normalizer there is no space left to split at.
        elif not (step["type"] == "Split" and step["pattern"].get("String") == " " and replaced):
            raise refused(f"the pre-tokenizer {step['type']} and SentencePiece BPE")
    if not replaced:
        raise refused("SentencePiece BPE and spaces left as they are")
    return prefix


def _normalizer(spec: dict[str, Any]) -> tuple[bytes, bool]:
    """SentencePiece's table of replaced characters, and whether several spaces count as one."""
    charsmap, squeezes = b"", False
    found = steps(spec["normalizer"])
    for step in found:
        if step["type"] == "Precompiled":
            charsmap = base64.b64decode(step["precompiled_charsmap"] or "")
        elif step["type"] == "Replace" and step["pattern"].get("Regex") == " {2,}" and step["content"] in {" ", SPACE}:
            squeezes = True
        elif step["type"] != "Strip":
            raise refused(f"the normalizer {step['type']} and Unigram pieces")
    if not squeezes and any(step["type"] == "Strip" for step in found):
        raise refused("the normalizer Strip and several spaces in a row")
    return charsmap, squeezes
