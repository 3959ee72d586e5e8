"""What a decoder says at the answer tokens of rows, made sparse while it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from edgedistill.distill import longrope
from edgedistill.distill.examples import Example, collate
from edgedistill.distill.head import head_of
from edgedistill.errors import InputError, StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS_AT_ONCE = 2**24
"""Logits in memory at a time, over positions and vocabulary: 64 MiB in float32."""
PROBE_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsity:
    """What is kept of a distribution: its k likeliest tokens, or k draws from it, the same ones for the same seed."""

    mode: Literal["top-k", "sampled"] = "top-k"
    k: int = 50
    seed: int = 0


def logits_of(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The model's logits from its last hidden states: [items, width] to [items, vocabulary]."""
    return head_of(model).logits(hidden)


def hidden_of(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    """The last hidden states, norm included, [rows, length, width]."""
    body: Any = model.base_model
    states: Tensor = body(
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
    ).last_hidden_state
    return states


@torch.inference_mode()
def probe(model: PreTrainedModel, example: Example, pieces: int) -> None:
    """Compares `logits_of` with what the whole model says: some families scale theirs, and none may do so unnoticed.

    Raises:
        InputError: the model computes its logits in a way that is not known, or has fewer of them than its tokenizer
            has pieces.
    """
    whole: Any = model
    ids = torch.tensor([example.ids[:PROBE_TOKENS]])
    theirs = whole(input_ids=ids.to(model.device), logits_to_keep=1).logits[0, -1].float()
    ours = logits_of(model, hidden_of(model, ids, torch.ones_like(ids))[0, -1]).float()
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=0, atol=0.02 * float(theirs.abs().max())):
        raise InputError(
            f"{type(model).__name__} computes its logits in a way that is not known here", hint="use the route sequence"
        )
    if len(theirs) < pieces:
        raise InputError(
            f"the teacher has {len(theirs)} logits, and its tokenizer {pieces} pieces",
            hint="give the tokenizer that belongs to the model",
        )


@torch.inference_mode()
def ask(
    model: PreTrainedModel,
    rows: Sequence[Example],
    pieces: int,
    sparsity: Sparsity,
    *,
    seed: int,
    batch_tokens: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """What a decoder says at every answer token of some rows, in their order.

    The vocabulary is cut to the ids that the tokenizer can write before the softmax: Qwen 2.5 pads its 7B to 152,064
    and its 0.5B to 151,936 with ids that never occur, and their mass belongs to the others.

    Args:
        pieces: ids that the tokenizer can write are below this.
        seed: of these rows' draws.
        batch_tokens: rows times longest row of what the teacher reads at a time.

    Returns:
        Number of entries at each answer token, [tokens]; then the ids of all entries, likeliest first where they are
        not drawn, and their log-probabilities or how often each was drawn, [entries].

    Raises:
        StageError: the teacher's answer is not a number.
    """
    chance = torch.Generator(model.device).manual_seed(seed)
    found: list[Sequence[Tensor]] = [()] * len(rows)
    for chosen in longrope.batches([model], [len(row.ids) for row in rows], batch_tokens):
        batch = collate([rows[row] for row in chosen], pad=0)
        states = hidden_of(model, batch["input_ids"], batch["attention_mask"])[batch["predicts"].to(model.device)]
        parts = []
        # Only these positions meet the head, some at a time: never rows × length × vocabulary.
        for some in torch.split(states, max(LOGITS_AT_ONCE // model.config.vocab_size, 1)):
            logits = logits_of(model, some)[:, :pieces].float()
            parts.append(_sparse(logits.log_softmax(dim=-1), sparsity, chance))
        sizes, ids, values = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        items = torch.split(sizes, [len(rows[row].answer) for row in chosen])
        entries = [int(of_row.sum()) for of_row in items]
        for row, *of_row in zip(chosen, items, torch.split(ids, entries), torch.split(values, entries), strict=True):
            found[row] = of_row
    sizes, ids, values = (torch.cat(part) for part in zip(*found, strict=True))
    return sizes, ids, values


def _sparse(logprobs: Tensor, sparsity: Sparsity, chance: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """What is kept of some distributions.

    Args:
        logprobs: [items, pieces].

    Returns:
        Number of entries of each item, then ids and log-probabilities, or counts of draws, of all entries in order.
    """
    if logprobs.isnan().any():
        raise StageError(
            "the teacher's log-probabilities are not numbers", hint="load it in a wider type, such as bfloat16"
        )
    if sparsity.mode == "top-k":
        best = logprobs.topk(min(sparsity.k, logprobs.shape[1]), dim=1)
        sizes = torch.full((len(logprobs),), best.indices.shape[1], device=logprobs.device)
        return sizes, best.indices.flatten(), best.values.flatten()
    drawn = logprobs.exp().multinomial(sparsity.k, replacement=True, generator=chance).sort(dim=1).values
    first = torch.ones_like(drawn, dtype=torch.bool)
    first[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    # Each row begins a run of equal draws, so a run's length is the way to the next one, across rows as well.
    starts = first.flatten().nonzero().flatten()
    counts = torch.cat((starts, starts.new_tensor([drawn.numel()]))).diff()
    return first.sum(dim=1), drawn[first], counts
