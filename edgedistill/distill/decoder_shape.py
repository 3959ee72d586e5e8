"""The sizes of a decoder student: what it has, what it costs, and which widths its file will like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgedistill.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Format = Literal["k-quants", "4-bit blocks"]
BLOCKS: Mapping[Format, int] = {"k-quants": 256, "4-bit blocks": 32}
"""How many weights of a row share a scale in each format; see `snap`."""


FAMILIES: Mapping[str, str] = {
    "llama": "Llama 2 and 3, SmolLM and SmolLM2",
    "mistral": "Mistral 7B",
    "qwen2": "Qwen 2 and 2.5",
    "qwen3": "Qwen 3",
    "phi3": "Phi-3, Phi-3.5 and Phi-4-mini",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 without images: 270M and 1B",
    "smollm3": "SmolLM3",
}
"""The `model_type` of a checkpoint's config, and what is sold under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """The sizes of a decoder. `layers` are teacher layers that the student copies, counted from 0.

    Attributes:
        head_size: width of one head; heads × head_size need not be `hidden`.
        tied: whether the output reads the table of embeddings, or has one of its own.
        norms: norms of width `hidden` in a layer.
        head_norms: whether queries and keys are normalised head by head.
        biases: the projections that have one, by the names of transformers.
    """

    layers: tuple[int, ...]
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    positions: int
    tied: bool
    norms: int = 2
    head_norms: bool = False
    biases: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of weights; a tied output counts once. Rotary positions have none."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        widths = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "qkv_proj": queries + 2 * keys}
        widths |= {"gate_proj": self.ffn, "up_proj": self.ffn, "gate_up_proj": 2 * self.ffn}
        biases = sum(widths.get(name, self.hidden) for name in self.biases)
        norms = self.norms * self.hidden + 2 * self.head_size * self.head_norms
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return tables + len(self.layers) * (self._projections + biases + norms) + self.hidden

    @property
    def _projections(self) -> int:
        """Weights of the matrices of one layer, which is also what they multiply for one token."""
        return self.hidden * (2 * (self.heads + self.kv_heads) * self.head_size + 3 * self.ffn)

    def macs(self, tokens: int) -> int:
        """Multiply-accumulates of reading a prompt, with the vocabulary's logits for the last token only.

        A token attends to itself and those before it: tokens × (tokens + 1) / 2 pairs, each of which costs a head one
        product with a key and one with a value. Writing the n-th token costs macs(n) − macs(n − 1) plus the logits.

        Args:
            tokens: length of the prompt in pieces.
        """
        pairs = tokens * (tokens + 1) // 2
        attention = 2 * self.heads * self.head_size * pairs
        return len(self.layers) * (self._projections * tokens + attention) + self.vocabulary * self.hidden


def shape_of(model: PreTrainedModel) -> DecoderShape:
    """The sizes of a decoder, all its layers included.

    Raises:
        InputError: it is of no family that students are made of.
    """
    config: Any = model.config
    known(config.model_type, type(model).__name__)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    first = [name.split(".", 3)[3] for name in model.state_dict() if name.startswith("model.layers.0.")]
    return DecoderShape(
        layers=tuple(range(config.num_hidden_layers)),
        hidden=config.hidden_size,
        ffn=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=head_size,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        tied=config.tie_word_embeddings,
        norms=sum(name.endswith("layernorm.weight") for name in first),
        head_norms="self_attn.q_norm.weight" in first,
        biases=tuple(name.split(".")[-2] for name in first if name.endswith(".bias")),
    )


def known(family: str, where: str) -> None:
    """Raises InputError unless students are made of this `model_type`."""
    if family not in FAMILIES:
        known = "; ".join(f"{name} ({sold})" for name, sold in FAMILIES.items())
        raise InputError(
            f"{where} is a {family!r}, and students are made of these families only: {known}",
            hint="name another checkpoint in [student] model",
        )


def spread(count: int, total: int) -> tuple[int, ...]:
    """`count` of `total` layers, evenly, the first and the last among them."""
    if count == 1:
        return (total - 1,)
    return tuple(math.floor(i * (total - 1) / (count - 1) + 0.5) for i in range(count))


def snap(width: int, limit: int, target: Format) -> tuple[int, str]:
    """The nearest width that a file format packs without loss of speed, and why that one.

    llama.cpp packs k-quants in blocks of 256 weights of a row and falls back to slower, larger types for rows that do
    not divide (`llama-quant.cpp`); Q4_0, Q8_0 and MatMulNBits share a scale among 32.

    Args:
        width: wanted.
        limit: the teacher's width, which a student copied from it cannot exceed.
        target: what the student will be written as.
    """
    block = BLOCKS[target]
    if width >= limit:
        fits = "a" if limit % block == 0 else "not a"
        return limit, f"{limit} is the teacher's own width, {fits} multiple of {block} for {target}"
    if limit < block:
        return limit, f"{limit} is the teacher's own width: {target} come in blocks of {block}, and none fits into it"
    nearest = math.floor(width / block + 0.5) * block
    snapped = min(max(nearest, block), limit // block * block)
    if snapped == width:
        return width, f"{width} is a multiple of {block}, as {target} need"
    return snapped, f"{snapped} instead of {width}: a multiple of {block}, the block of {target}"
