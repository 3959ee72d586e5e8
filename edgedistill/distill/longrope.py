"""LongRoPE: decoders such as Phi-3 read texts beyond their original context with other rotary factors than short ones.

The longest row of a batch decides the factors of all its rows (Ding et al., 2024, "LongRoPE", arXiv 2402.13753, section
3.4, has two sets of them; which one applies is transformers' choice). What a model says to a row must not depend on the
row's neighbours, so rows on both sides of the border never meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgedistill.distill.batches import ByTokens
from edgedistill.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def border(model: PreTrainedModel) -> int | None:
    """Tokens of the longest text that is read with the short factors, 4096 for Phi-3; None without LongRoPE."""
    config: Any = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    original = rope.get("original_max_position_embeddings") or config.original_max_position_embeddings
    return int(original)


def batches(models: Sequence[PreTrainedModel], lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Which rows each of the models may read together; see `ByTokens`.

    Args:
        lengths: number of tokens of each row.
    """
    borders = {border(model) for model in models} - {None}
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(sum(length > last for last in borders if last is not None), []).append(row)
    for _, group in sorted(groups.items()):
        for places in ByTokens([lengths[row] for row in group], batch_tokens):
            yield [group[place] for place in places]


def check(model: PreTrainedModel, lengths: Sequence[int]) -> None:
    """Refuses rows to train on that lie on both sides of the border.

    Raises:
        InputError: some rows are longer than the original context, and others are not.
    """
    last = border(model)
    if last is not None and len({length > last for length in lengths}) > 1:
        raise InputError(
            f"some rows have more than {last} tokens, and others fewer: this model reads the two in different ways",
            hint=f"set [data] max_tokens to {last}",
        )
