"""What a classifier learns from: the classes of its rows and, where there is a teacher, its answers and its inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgedistill.data.splits import Row
from edgedistill.distill.batches import collate, encode, separator_of
from edgedistill.distill.losses import Divergence, cross_entropy, forward_kl, hidden_mse, pooled
from edgedistill.distill.panel import Panel, alone
from edgedistill.types import Rows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from edgedistill.distill.logits import Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Encoded rows with their classes. Lists run over rows.

    Attributes:
        separator: the piece between the two texts of a pair; None for rows of one text.
    """

    ids: Sequence[Sequence[int]]
    classes: Sequence[int]
    pad: int
    separator: int | None = None


def examples_of(split: Sequence[Row], rows: Rows, tokenizer: Tokenizer, max_tokens: int, *, pad: int) -> Examples:
    """The rows of a split in the pieces of a tokenizer."""
    texts = [row.content for row in split]
    return Examples(
        ids=encode(tokenizer, texts, max_tokens),
        classes=[rows.labels.index(row.label) for row in split],
        pad=pad,
        separator=separator_of(tokenizer, texts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """What to learn from a teacher beside the labels.

    Attributes:
        signal: the teacher's answers to exactly the rows of the examples, in their order.
        panel: where there are several teachers, what all of them said to these rows, that teacher first. Hidden states
            are matched with that teacher's alone, at the rows where it has a share.
        layers: the teacher layers that the student's layers were copied from.
        temperature: of both distributions in the divergence, at the first step and at the last.
        kd_weight: share of the divergence; the cross-entropy on the labels has the rest.
        hidden_weight: factor of the hidden-state term; 0 leaves it out.
        width: of the student's hidden states, where they are narrower than the teacher's: a linear map that is learned
            along with the student makes them comparable (Jiao et al., 2020, section 3.1).
        divergence: of the student's distribution from the teacher's.
    """

    signal: Signal
    layers: tuple[int, ...]
    temperature: tuple[float, float]
    kd_weight: float
    hidden_weight: float
    width: int | None = None
    divergence: Divergence = forward_kl
    panel: Panel | None = None


class Classes:
    """The lesson of a classifier. Its items are rows.

    Args:
        teaching: None learns from the labels alone.
    """

    def __init__(self, examples: Examples, teaching: Teaching | None = None) -> None:
        self._examples = examples
        self._teaching = teaching
        self._classes = torch.tensor(examples.classes)
        self._hidden: Tensor | None = None
        self.lengths: Sequence[int] = [len(ids) for ids in examples.ids]
        self.projection: nn.Module | None = None
        self.weights: Mapping[str, float] = {"ce": 1.0}
        if teaching is None:
            return
        self.weights = {"ce": 1 - teaching.kd_weight, "kd": teaching.kd_weight}
        self._panel = teaching.panel or alone(teaching.signal.logits)
        self._taught = self._panel.shares[:, 0] > 0
        if teaching.hidden_weight and teaching.signal.hidden is not None:
            self._hidden = teaching.signal.hidden[:, [layer + 1 for layer in teaching.layers]]
            self.weights |= {"hidden": teaching.hidden_weight}
            if teaching.width is not None and teaching.width != self._hidden.shape[-1]:
                self.projection = nn.Linear(teaching.width, self._hidden.shape[-1], bias=False)

    def items(self, rows: Sequence[int]) -> int:
        """Number of rows."""
        return len(rows)

    def batch(self, rows: Sequence[int]) -> Mapping[str, Tensor]:
        """The rows' pieces."""
        return collate(self._examples.ids, rows, self._examples.pad, separator=self._examples.separator)

    def terms(self, model: nn.Module, batch: Mapping[str, Tensor], done: float) -> Mapping[str, Tensor]:
        """Cross-entropy, divergence from the teacher's answers, distance of hidden states; each summed over rows."""
        rows = batch["rows"].cpu()
        inputs = {name: value for name, value in batch.items() if name != "rows"}
        out: Any = model(**inputs, output_hidden_states=self._hidden is not None)
        device = out.logits.device
        terms = {"ce": cross_entropy(out.logits, self._classes[rows].to(device)).sum()}
        teaching = self._teaching
        if teaching is not None:
            first, last = teaching.temperature
            temperature = first + (last - first) * done
            apart = self._panel.divergence(
                lambda said: teaching.divergence(out.logits, said, temperature), rows, device
            )
            terms["kd"] = apart.sum()
            if self._hidden is not None:
                states = pooled(out.hidden_states[1:], batch["attention_mask"])
                if self.projection is not None:
                    states = self.projection(states)
                distance = hidden_mse(states, self._hidden[rows].to(device))
                terms["hidden"] = (distance * self._taught[rows].to(device)).sum()
        return terms
