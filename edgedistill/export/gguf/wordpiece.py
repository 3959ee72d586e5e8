"""WordPiece (BERT, MiniLM): "bert" in GGUF, where the start of a word is marked and not its continuation."""

from __future__ import annotations

from typing import Any

from gguf import GGUFWriter, TokenType

from edgedistill.export.gguf.pieces import Kind, refused, steps

PREFIX = "##"
START = "▁"
LOWERCASE = "tokenizer.ggml.normalizer.lowercase"
STRIP_ACCENTS = "tokenizer.ggml.normalizer.strip_accents"


def wordpiece(spec: dict[str, Any]) -> Kind:
    """The kind of a WordPiece tokenizer.json.

    Raises:
        StageError: its normalizer or splitting is not BERT's.
    """
    model = spec["model"]
    if model["continuing_subword_prefix"] != PREFIX:
        raise refused(f"the continuing_subword_prefix {model['continuing_subword_prefix']!r}")
    normalizers, splits = steps(spec["normalizer"]), steps(spec["pre_tokenizer"])
    if [step["type"] for step in normalizers] != ["BertNormalizer"]:
        raise refused(f"the normalizer {[step['type'] for step in normalizers]} and WordPiece")
    if [step["type"] for step in splits] != ["BertPreTokenizer"]:
        raise refused(f"the pre-tokenizer {[step['type'] for step in splits]} and WordPiece")
    normalizer = normalizers[0]
    if not (normalizer["clean_text"] and normalizer["handle_chinese_chars"]):
        raise refused("a BertNormalizer that keeps control characters or joins Chinese characters")
    lowercase = bool(normalizer["lowercase"])
    strips = normalizer["strip_accents"]

    def rest(writer: GGUFWriter) -> None:
        # llama.cpp does both unless it is told otherwise.
        writer.add_bool(LOWERCASE, lowercase)
        writer.add_bool(STRIP_ACCENTS, lowercase if strips is None else bool(strips))

    def text(piece: str) -> str:
        return piece[len(PREFIX) :] if piece.startswith(PREFIX) and piece != PREFIX else START + piece

    unknown = model["unk_token"]
    return Kind(
        model="bert",
        pre="default",
        text=text,
        type_of=lambda piece: TokenType.UNKNOWN if piece == unknown else TokenType.NORMAL,
        add_rest=rest,
    )
