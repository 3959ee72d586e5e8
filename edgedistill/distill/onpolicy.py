"""What a decoder learns from a teacher's judgement of what the student itself writes: the route `onpolicy`.

    prompt ─► the student's answer ─► student and teacher read it ─► JSD(β) at every token ─► mean over the answer

A student that reads nothing but good texts never learns to go on after a mistake of its own (Agarwal et al., 2024, GKD,
arXiv 2306.13649, section 3). This is one more lesson of `trainer`, and not a library's own trainer, so that every route
has the same steps, checkpoints and normalisation, and a comparison of two routes compares nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgedistill.distill import sharded
from edgedistill.distill.divergence import dense
from edgedistill.distill.examples import Example, collate, targets
from edgedistill.distill.head import Head, head_of
from edgedistill.distill.losses import generalised_jsd
from edgedistill.distill.sparse import hidden_of, probe
from edgedistill.distill.tokens import states
from edgedistill.store import digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How the student writes what it is judged by.

    Attributes:
        share: of the rows, those that the student answers anew at each step; the others are judged by the answers that
            they have. λ in GKD.
        max_tokens: where an answer is cut off that has not ended.
        temperature: above 0; GKD writes at 1.
        seed: what is written follows from it, the row, the step and the student's weights, so it is the same however a
            step is split and wherever a training is resumed.
    """

    share: float = 1.0
    max_tokens: int = 128
    temperature: float = 1.0
    seed: int = 0


class OnPolicy:
    """The lesson of a decoder whose teacher listens. Its items are rows, and a row's loss is the mean over its tokens.

    That mean is GKD's (section 2), and how many tokens a step will have is not known before they are written.

    Args:
        examples: in the student's tokens.
        teacher: a decoder. It is frozen and moved to where the student is; it is no part of the student, so neither the
            optimizer nor a checkpoint holds it.
        kept: the teacher's id of each of the student's pieces; `range(pieces)` where they have one tokenizer. Ids
            beyond it, with which some models are padded, are never written.
        beta: of the divergence; 0 is the forward KL and 1 the reverse KL.

    Raises:
        InputError: the teacher computes its logits in a way that is not known.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        teacher: PreTrainedModel,
        kept: Sequence[int],
        writing: Writing,
        *,
        beta: float = 0.5,
    ) -> None:
        self._examples = examples
        self._teacher = teacher.requires_grad_(False).train(False)
        self._kept = torch.tensor(kept)
        self._writing = writing
        self._loss = partial(generalised_jsd, temperature=1.0, beta=beta)
        self._ends = frozenset(example.ids[-1] for example in examples)
        probe(teacher, _renumbered(examples[0], kept), max(kept) + 1)
        whole = head_of(teacher)
        self._head = Head(
            weight=whole.weight[self._kept.to(whole.weight.device)],
            bias=None if whole.bias is None else whole.bias[self._kept.to(whole.bias.device)],
            softcap=whole.softcap,
        )
        self.lengths: Sequence[int] = [
            max(len(example.ids), example.answer_start + writing.max_tokens) for example in examples
        ]
        self.weights: Mapping[str, float] = {"kd": 1.0}
        self.projection: nn.Module | None = None

    def items(self, rows: Sequence[int]) -> int:
        """Number of rows."""
        return len(rows)

    def batch(self, rows: Sequence[int]) -> Mapping[str, Tensor]:
        """The rows' numbers: what is read is written first."""
        return {"rows": torch.tensor(rows, dtype=torch.long)}

    def terms(self, model: nn.Module, batch: Mapping[str, Tensor], done: float) -> Mapping[str, Tensor]:
        """The divergence, and for the curve the number of tokens that the student wrote; each summed over the rows."""
        device = batch["rows"].device
        read, written = self._read(model, batch["rows"].tolist(), done)
        inputs: dict[str, Tensor] = {name: tensor.to(device) for name, tensor in collate(read, pad=0).items()}  # type: ignore[attr-defined]
        predicts = inputs["predicts"]
        lengths = predicts.sum(dim=1)
        found = dense(
            states(model, inputs)[predicts],
            head_of(model),
            targets(inputs),  # type: ignore[arg-type]
            self._judgement(inputs),
            self._head_on(device),
            self._loss,
            ce_weight=0.0,
            kd_weight=1.0,
            shares=(1 / lengths).repeat_interleave(lengths),
        )
        return {"kd": found.loss, "written": torch.tensor(float(written), device=device)}

    def _read(self, model: nn.Module, rows: Sequence[int], done: float) -> tuple[list[Example], int]:
        """The rows, some of them with the student's answers, and the number of tokens in those."""
        sharded.gather(model)
        writing = self._writing
        read = [self._examples[row] for row in rows]
        chances = [_chances(writing.seed, row, done, 1 + writing.max_tokens) for row in rows]
        own = [place for place, chance in enumerate(chances) if chance[0] < writing.share]
        if not own:
            return read, 0
        prompts = [read[place].ids[: read[place].answer_start] for place in own]
        answers = write(
            getattr(model, "module", model),
            prompts,
            torch.stack([chances[place][1:] for place in own]),
            pieces=len(self._kept),
            ends=self._ends,
            temperature=writing.temperature,
        )
        for place, prompt, answer in zip(own, prompts, answers, strict=True):
            read[place] = replace(read[place], ids=(*prompt, *answer))
        return read, sum(map(len, answers))

    def _judgement(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The teacher's last hidden states where the student's predict, [items, width of the teacher]."""
        ids = inputs["input_ids"]
        if len(ids) == 0:
            return torch.zeros(0, self._head.weight.shape[1], device=ids.device)
        self._teacher.to(ids.device)
        self._kept = self._kept.to(ids.device)
        with torch.no_grad():
            found = hidden_of(self._teacher, self._kept[ids], inputs["attention_mask"])
        return found[inputs["predicts"]]

    def _head_on(self, device: torch.device) -> Head:
        """The teacher's head, cut to the student's pieces."""
        if self._head.weight.device != device:
            bias = self._head.bias
            self._head = replace(
                self._head, weight=self._head.weight.to(device), bias=None if bias is None else bias.to(device)
            )
        return self._head


@torch.no_grad()
def write(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    chances: Tensor,
    *,
    pieces: int,
    ends: Collection[int],
    temperature: float,
) -> list[tuple[int, ...]]:
    """Answers of a decoder, each token drawn from its whole distribution; the model's mode stays as it was.

    `generate` of transformers would mix in what a model's generation_config says, such as top-k or a penalty on
    repetition, and then it is not the student that writes. It also draws for a whole batch at once, so that an answer
    would depend on a row's neighbours.

    Args:
        chances: [prompts, tokens of an answer at most], uniform in [0, 1); the token is where the cumulated
            probabilities pass it.
        pieces: only ids below this are written.
        ends: ids that end an answer.
        temperature: T > 0.

    Returns:
        The ids of each answer, the one that ends it included.
    """
    untyped: Any = model
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    first = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    mask = (torch.arange(longest, device=device) >= first[:, None]).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    stops = torch.tensor(sorted(ends), device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    drawn: list[Tensor] = []
    cache = None
    training = model.training
    model.train(False)
    try:
        for chance in chances.to(device).unbind(dim=1):
            out = untyped(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            # In double precision: over 150,000 pieces, sums in single precision miss the rarest.
            reached = (out.logits[:, -1, :pieces].double() / temperature).softmax(dim=1).cumsum(dim=1)
            ids = torch.searchsorted(reached, chance[:, None] * reached[:, -1:], right=True).clamp(max=pieces - 1)
            drawn.append(ids[:, 0])
            ended |= torch.isin(ids[:, 0], stops)
            if ended.all():
                break
            mask = torch.cat((mask, torch.ones_like(ids)), dim=1)
            positions = positions[:, -1:] + 1
    finally:
        model.train(training)
    return [_ended(row, ends) for row in torch.stack(drawn, dim=1).tolist()]


def _ended(tokens: Sequence[int], ends: Collection[int]) -> tuple[int, ...]:
    """The tokens up to the first that ends an answer."""
    last = next((place for place, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tuple(tokens[: last + 1])


def _chances(seed: int, row: int, done: float, count: int) -> Tensor:
    """Uniform in [0, 1), [count]; float64."""
    chance = torch.Generator().manual_seed(int(digest([seed, row, done])[:15], 16))
    return torch.rand(count, generator=chance, dtype=torch.float64)


def _renumbered(example: Example, kept: Sequence[int]) -> Example:
    """A row of the student's in the teacher's ids."""
    return replace(example, ids=tuple(kept[number] for number in example.ids))
