"""How likely a decoder finds the answers of the test rows, and how far its distributions are from the teacher's.

Only positions that predict a token of an answer are looked at, and the output layer is applied to a few hundred of them
at a time: the logits of a whole batch would take batch × length × vocabulary numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedistill.distill import longrope
from edgedistill.distill.examples import Example, collate, targets
from edgedistill.distill.sparse import hidden_of, logits_of
from edgedistill.types import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS = 2**24
"""Numbers that one piece of the logits has at most: 64 MiB in float32."""
BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Sums over the answer's tokens, the end token among them, in nats. Shapes: [rows].

    Attributes:
        kl: KL(teacher ‖ model); None when no teacher was given.
    """

    cross_entropy: NDArray[np.float64]
    kl: NDArray[np.float64] | None
    tokens: NDArray[np.float64]


@torch.inference_mode()
def scored(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    teacher: PreTrainedModel | None = None,
    kept: Sequence[int] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> Scored:
    """Cross-entropy, and KL to the teacher at temperature 1, of each row's answer.

    Args:
        examples: rows in the model's own pieces.
        teacher: a decoder that reads the same pieces.
        kept: the teacher's ids of the model's vocabulary, where that was trimmed. The teacher's probabilities are then
            those of the kept pieces alone, made to sum to 1. None: the ids are the same, and what one of the two has
            beyond the other's vocabulary is padding.
        batch_tokens: rows of a batch times its longest row, at most.
    """
    cross_entropy, kl, tokens = torch.zeros(3, len(examples), dtype=torch.float64)
    translation = None if kept is None else torch.tensor(kept, device=model.device)
    done = 0
    readers = [model] if teacher is None else [model, teacher]
    for rows in longrope.batches(readers, [len(example.ids) for example in examples], batch_tokens):
        batch = collate([examples[row] for row in rows], pad=0)
        ids, mask, predicts = (batch[name].to(model.device) for name in ("input_ids", "attention_mask", "predicts"))
        mine = hidden_of(model, ids, mask)[predicts]
        theirs = None
        if teacher is not None:
            theirs = hidden_of(teacher, ids if translation is None else translation[ids], mask)[predicts]
        wanted = targets(batch).to(model.device)
        owner = torch.tensor(rows).repeat_interleave(batch["predicts"].sum(dim=1))
        step = max(1, LOGITS // model.config.vocab_size)
        for start in range(0, len(wanted), step):
            piece = slice(start, start + step)
            logits = logits_of(model, mine[piece]).float()
            if teacher is not None and theirs is not None:
                said = logits_of(teacher, theirs[piece]).float()
                said = said[:, : logits.shape[1]] if translation is None else said[:, translation]
                found = _kl(logits[:, : said.shape[1]], said)
                kl.index_add_(0, owner[piece], found.double().cpu())
            found = torch.nn.functional.cross_entropy(logits, wanted[piece], reduction="none")
            cross_entropy.index_add_(0, owner[piece], found.double().cpu())
        tokens[rows] = batch["predicts"].sum(dim=1).double()
        done += len(rows)
        progress(done, len(examples))
    return Scored(
        cross_entropy=cross_entropy.numpy(), kl=None if teacher is None else kl.numpy(), tokens=tokens.numpy()
    )


def _kl(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ model) of each position. Shapes: [positions, vocabulary], to [positions]."""
    theirs = teacher.log_softmax(dim=-1)
    return (theirs.exp() * (theirs - logits.log_softmax(dim=-1))).sum(dim=-1)
