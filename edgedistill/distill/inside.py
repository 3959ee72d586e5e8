"""What a decoder learns from its teacher's inside beside what it says: hidden states, and how the tokens relate.

    pieces ─┬► student ─► hidden states of its layers ─► · projection ─┐
            │         └► queries, keys, values of its last layer ──────┼─► distances, one value an answer token
            └► teacher, in the same step ─► the same of its own ───────┘

The teacher reads along: what it has inside at one token is kilobytes, where its likeliest tokens are 300 bytes, so no
cache would hold it. It reads the student's own pieces, by the numbers that they have in its own vocabulary, so every
position of the one stands for the same piece in the other, also where the teacher's own tokenizer would cut a row
otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgedistill.distill.decoder import strongest
from edgedistill.distill.decoder_shape import DecoderShape, shape_of
from edgedistill.distill.losses import attention_relation, hidden_mse
from edgedistill.distill.tokens import states_of_layers
from edgedistill.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgedistill.distill.decoder import Importance
    from edgedistill.distill.tokens import Answers

SEPARATE = ("q_proj", "k_proj", "v_proj")
FUSED = "qkv_proj"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """What of the inside is compared, and how much it counts beside the rest of the loss.

    Attributes:
        hidden_weight: of the hidden states, layer by layer; 0 leaves them out.
        relation_weight: of the relations in the last layer; 0 leaves them out.
    """

    hidden_weight: float = 0.0
    relation_weight: float = 0.0


class Inside:
    """The lesson of a decoder whose teacher reads along. Its items are those of the lesson within.

    Hidden states are compared where answer tokens are predicted, after every layer of the student and after the layer
    of the teacher that it was copied from; after the last one they are the normed ones that the head reads. Relations
    are those of a whole row (Wang et al., 2021, MiniLMv2, section 3.1), prompt included: a row has one value, and each
    of its answer tokens counts with it. So neither depends on how a step is split.

    Args:
        answers: what is learned besides.
        student: what it is asked about is its shape; the model that is trained may be wrapped.
        teacher: a decoder. It is frozen and moved to where the student is; it is no part of the student, so neither the
            optimizer nor a checkpoint holds it.
        kept: the teacher's id of each of the student's pieces.
        layers: teacher layers that the student's were copied from; None for a student that is no piece of its teacher.
        importance: what a narrower student was cut by. Its projection starts by putting the dimensions that it kept
            where they were, so it draws no random numbers.

    Raises:
        InputError: the student's layers are not known to belong to layers of the teacher.
    """

    def __init__(
        self,
        answers: Answers,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        kept: Sequence[int],
        matching: Matching,
        *,
        layers: Sequence[int] | None = None,
        importance: Importance | None = None,
    ) -> None:
        self._answers = answers
        self._teacher = teacher.requires_grad_(False).train(False)
        self._kept = torch.tensor(kept)
        self._matching = matching
        self._shapes = ours, theirs = shape_of(student), shape_of(teacher)
        self._layers = [layer + 1 for layer in layers or ()]  # behind what enters the first one
        self.lengths: Sequence[int] = answers.lengths
        self.weights: Mapping[str, float] = answers.weights
        self.projection: nn.Module | None = None
        if matching.hidden_weight:
            if len(self._layers) != len(ours.layers) or self._layers[-1] != len(theirs.layers):
                raise InputError(
                    "hidden states are compared with those of the teacher's layers that the student's were copied "
                    "from, the last among them, and this student is no such piece",
                    hint="set [distill] hidden_weight to 0, or make the student of its teacher's layers",
                )
            if ours.hidden != theirs.hidden:
                self.projection = _projection(ours.hidden, theirs.hidden, importance)

    def items(self, rows: Sequence[int]) -> int:
        """Number of tokens to learn."""
        return self._answers.items(rows)

    def batch(self, rows: Sequence[int]) -> Mapping[str, Tensor]:
        """The inputs of the lesson within."""
        return self._answers.batch(rows)

    def terms(self, model: nn.Module, batch: Mapping[str, Tensor], done: float) -> Mapping[str, Tensor]:
        """Those of the lesson within, the distances in its loss and apart; each summed over the answers' tokens."""
        device = batch["input_ids"].device
        self._teacher.to(device)
        self._kept = self._kept.to(device)
        # Tensors of inference_mode could not be kept for the backward pass of the student.
        with torch.no_grad(), listened(self._teacher) as their_projections:
            theirs = states_of_layers(self._teacher, {**batch, "input_ids": self._kept[batch["input_ids"]]})
        with listened(model) as our_projections:
            ours = states_of_layers(model, batch)
        predicts = batch["predicts"]
        terms = dict(self._answers.terms_of(model, ours[-1], batch, done))
        if self._matching.hidden_weight:
            copied = torch.stack([theirs[layer][predicts] for layer in self._layers], dim=1)
            own = torch.stack([found[predicts] for found in ours[1:]], dim=1)
            terms["hidden"] = hidden_mse(own, copied, self.projection).sum()
            terms["loss"] = terms["loss"] + self._matching.hidden_weight * terms["hidden"]
        if self._matching.relation_weight:
            rows = len(batch["input_ids"])
            pair = zip((our_projections, their_projections), self._shapes, strict=True)
            student, teacher = ([part[:rows] for part in _parts(found, shape)] for found, shape in pair)
            heads = math.gcd(*(shape.kv_heads for shape in self._shapes))  # divides queries, keys and values of both
            of_rows = attention_relation(student, teacher, batch["attention_mask"], heads)
            terms["relation"] = torch.dot(of_rows, predicts.sum(dim=1).to(of_rows.dtype))
            terms["loss"] = terms["loss"] + self._matching.relation_weight * terms["relation"]
        return terms


@contextmanager
def listened(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Fills up with what the projections of the last layer put out when the model is called, adapters included."""
    found: dict[str, Tensor] = {}
    attention = [module for name, module in model.named_modules() if name.endswith(".self_attn")][-1]

    def keep(name: str, output: Tensor) -> None:
        found[name] = output

    hooks = [
        module.register_forward_hook(lambda _m, _inputs, output, name=name: keep(name, output))
        for name, module in attention.named_children()
        if name in (*SEPARATE, FUSED)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _parts(found: Mapping[str, Tensor], shape: DecoderShape) -> Sequence[Tensor]:
    """Queries, keys and values before positions turn them, [rows, positions, width] each."""
    if FUSED not in found:
        return [found[name] for name in SEPARATE]
    keys = shape.kv_heads * shape.head_size
    return torch.split(found[FUSED], [shape.heads * shape.head_size, keys, keys], dim=-1)


def _projection(width: int, wider: int, importance: Importance | None) -> nn.Linear:
    """A linear map from the student's hidden states to the teacher's."""
    skip_init: Any = nn.utils.skip_init
    made: nn.Linear = skip_init(nn.Linear, width, wider, bias=False)
    with torch.no_grad():
        kept = torch.arange(width) if importance is None else strongest(importance.hidden, width)
        made.weight.zero_()
        made.weight[kept, torch.arange(width)] = 1.0
    return made
