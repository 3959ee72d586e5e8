"""What a kind of tokenizer is in GGUF, shared by byte-level BPE, SentencePiece and WordPiece."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType

from edgedistill.errors import StageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One of llama.cpp's tokenizers with its settings.

    Attributes:
        model: tokenizer.ggml.model: "gpt2", "llama", "t5" or "bert".
        pre: tokenizer.ggml.pre; only byte-level BPE reads it.
        text: from a piece of tokenizer.json to its text in the file.
        type_of: the type of a piece that is not an added token.
        scores: of each id; None where the kind has none.
        merges: "left right" in order of their rank; None where the kind has none.
        add_rest: writes the settings that only this kind has.
    """

    model: str
    pre: str
    text: Callable[[str], str] = str
    type_of: Callable[[str], TokenType] = lambda _: TokenType.NORMAL
    scores: Mapping[int, float] | None = None
    merges: Sequence[str] | None = None
    add_rest: Callable[[GGUFWriter], None] = lambda _: None


def steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as a flat list of its steps."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        inner = part.get("normalizers") or part.get("pretokenizers") or []
        return [step for one in inner for step in steps(one)]
    return [part]


def refused(what: str) -> StageError:
    """llama.cpp would cut texts differently."""
    return StageError(
        f"llama.cpp has no tokenizer with {what}", hint="export this student to ONNX, which takes any tokenizer"
    )
