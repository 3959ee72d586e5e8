"""What a decoder learns from its rows: the answers' tokens and, where a teacher was asked, what it would have said.

The loss covers the answer and the token that ends it, never the prompt. With a teacher's cached log-probabilities this
is the route `tokens`; without them it is plain fine-tuning, which on a teacher's own texts is the route `sequence` (Kim
and Rush, 2016, sequence-level distillation) and on the rows' own answers the control arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgedistill.distill import panel
from edgedistill.distill.divergence import sparse
from edgedistill.distill.examples import Example, collate, targets
from edgedistill.distill.head import head_of
from edgedistill.distill.losses import log_missing
from edgedistill.distill.signals import ABSENT

if TYPE_CHECKING:
    from edgedistill.distill.signals import Signals, Sparse


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one teacher said about the answers' tokens, and how much it counts beside others.

    Attributes:
        signals: of the same rows.
        sampled: whether the signals are draws; they know no temperature.
        weight: against those of the other teachers; one for all rows, or one a row. With 1 and 0 a column of the rows
            says which teacher each of them has.
    """

    signals: Signals
    sampled: bool = False
    weight: float | Sequence[float] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """What is learned from teachers.

    Attributes:
        judgements: one a teacher. At each token their shares of the divergence sum to 1, over those who judged it.
        kd_weight: share of the divergence in the loss; the cross-entropy on the answers has the rest.
        temperature: of the divergence, at the first step and at the last.
        by_confidence: whether a teacher's weight falls, token by token, where the answer surprises it; see `shares`.
    """

    judgements: Sequence[Judgement]
    kd_weight: float
    temperature: tuple[float, float] = (1.0, 1.0)
    by_confidence: bool = False


class Answers:
    """The lesson of a decoder. Its items are the answers' tokens.

    Args:
        pad: any id; what is padded is masked.
        teaching: None learns from the answers alone.
    """

    def __init__(self, examples: Sequence[Example], pad: int, teaching: Teaching | None = None) -> None:
        self._examples = examples
        self._pad = pad
        self._teaching = teaching
        self.lengths: Sequence[int] = [len(example.ids) for example in examples]
        self.weights: Mapping[str, float] = {"loss": 1.0}
        self.projection: nn.Module | None = None

    def items(self, rows: Sequence[int]) -> int:
        """Number of tokens to learn."""
        return sum(len(self._examples[row].answer) for row in rows)

    def batch(self, rows: Sequence[int]) -> Mapping[str, Tensor]:
        """The rows' tokens, and which of them predict one to learn."""
        numbers = torch.tensor(rows, dtype=torch.long)
        return {"rows": numbers, **collate([self._examples[row] for row in rows], self._pad)}  # type: ignore[dict-item]

    def terms(self, model: nn.Module, batch: Mapping[str, Tensor], done: float) -> Mapping[str, Tensor]:
        """The loss, and for the curve cross-entropy and divergence apart; each summed over the answers' tokens."""
        return self.terms_of(model, states(model, batch), batch, done)

    def terms_of(
        self, model: nn.Module, read: Tensor, batch: Mapping[str, Tensor], done: float
    ) -> Mapping[str, Tensor]:
        """`terms` of a model that has read the batch already.

        Args:
            read: the last hidden states, [rows, longest, width].
        """
        hidden = read[batch["predicts"]]
        wanted = targets(batch)  # type: ignore[arg-type]
        teaching = self._teaching
        if teaching is None:
            nothing = torch.zeros(len(wanted), 1, dtype=torch.long, device=hidden.device)
            found = sparse(hidden, head_of(model), wanted, nothing, nothing - torch.inf, ce_weight=1.0, kd_weight=0.0)
            return {"loss": found.loss, "ce": found.ce}
        rows = batch["rows"].tolist()
        said = [one.signals.lookup([self._examples[row].key for row in rows]) for one in teaching.judgements]
        weights = torch.stack([self._weights(one, rows) for one in teaching.judgements], dim=1)
        parts = shares(
            said,
            weights,
            wanted.cpu(),
            sampled=[one.sampled for one in teaching.judgements],
            by_confidence=teaching.by_confidence,
        ).to(hidden.device)
        first, last = teaching.temperature
        objectives = [
            sparse(
                hidden,
                head_of(model),
                wanted,
                of_one.ids.to(hidden.device),
                of_one.logprobs.to(hidden.device),
                ce_weight=0.0 if number else 1 - teaching.kd_weight,  # once, however many teachers there are
                kd_weight=teaching.kd_weight,
                temperature=first + (last - first) * done,
                sampled=one.sampled,
                shares=parts[:, number],
            )
            for number, (one, of_one) in enumerate(zip(teaching.judgements, said, strict=True))
        ]
        loss, kd = (torch.stack(part).sum() for part in zip(*((one.loss, one.kd) for one in objectives), strict=True))
        return {"loss": loss, "ce": objectives[0].ce, "kd": kd}

    def _weights(self, judgement: Judgement, rows: Sequence[int]) -> Tensor:
        """What a teacher counts for at each answer token of the rows, [items]."""
        weight = judgement.weight
        of_rows = torch.tensor([weight if isinstance(weight, float | int) else weight[row] for row in rows]).float()
        return of_rows.repeat_interleave(torch.tensor([len(self._examples[row].answer) for row in rows]).long())


def shares(
    said: Sequence[Sparse], weights: Tensor, wanted: Tensor, *, sampled: Sequence[bool], by_confidence: bool
) -> Tensor:
    """Each teacher's share of the divergence: its weight over the weights of those who judged the token (`panel`).

    Args:
        said: what each teacher said at the same items.
        weights: [items, teachers], not below 0.
        wanted: [items], the answer's tokens.
        sampled: of each teacher, whether its signals are draws.
        by_confidence: whether a teacher counts less where the answer's token surprises it more than the others.

    Returns:
        [items, teachers]. Each item's sum to 1, or to 0 where no teacher judged it.
    """
    weights = weights * torch.stack([one.present.any(dim=1) for one in said], dim=1)
    surprise = None
    if by_confidence:
        surprise = torch.stack([_surprise(one, wanted, drawn) for one, drawn in zip(said, sampled, strict=True)], dim=1)
    return panel.shares(weights, surprise)


def _surprise(said: Sparse, wanted: Tensor, sampled: bool) -> Tensor:
    """−log p(wanted), [items]; for a token that was not kept, of the most that its probability can be.

    That is the least of those kept, and of likeliest tokens also not more than what they leave of 1.
    """
    there = said.present
    kept = said.logprobs.masked_fill(~there | (said.ids != wanted[:, None]), -torch.inf).amax(dim=1)
    most = said.logprobs.masked_fill(~there, 0.0).amin(dim=1)
    if not sampled:
        most = torch.minimum(most, log_missing(said.logprobs)[:, 0].clamp(min=ABSENT))
    return -torch.where(kept > -torch.inf, kept, most)


def states(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The last hidden states, norm included, [rows, longest, width]."""
    return states_of_layers(model, batch)[-1]


def states_of_layers(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What enters the first layer, then what leaves each, behind the last the norm; all [rows, longest, width].

    The whole model is called, because several processes only average gradients of what went through it; its head is
    applied to one position, and not used.
    """
    untyped: Any = model
    ids, mask = batch["input_ids"], batch["attention_mask"]
    rows = len(ids)
    if rows == 0:  # decoders cannot split the heads of no rows, yet each process must call the model
        ids = mask = ids.new_ones(1, 1)
    out = untyped(
        input_ids=ids,
        attention_mask=mask,
        use_cache=False,
        logits_to_keep=1,
        output_hidden_states=True,
    )
    return tuple(found[:rows] for found in out.hidden_states)
