"""What turns a decoder's hidden states into logits, with the cap that some families put on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from edgedistill.distill import sharded


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """An output layer.

    Attributes:
        weight: [vocabulary, width].
        bias: [vocabulary].
        softcap: c of c · tanh(logits / c) (Gemma 2, 2024, section 2).
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """[items, width] to [items, vocabulary], in the type of the hidden states."""
        return self.capped(functional.linear(hidden, self.weight, self.bias))

    def capped(self, logits: Tensor) -> Tensor:
        """The same tensor, overwritten where there is a cap."""
        return logits if self.softcap is None else logits.div_(self.softcap).tanh_().mul_(self.softcap)


def head_of(model: nn.Module) -> Head:
    """The output layer of a decoder, which may be wrapped for several processes or sharded over them."""
    inner: Any = getattr(model, "module", model)
    output = inner.get_output_embeddings()
    sharded.unshard(output)
    return Head(
        weight=output.weight,
        bias=getattr(output, "bias", None),
        softcap=getattr(inner.config, "final_logit_softcapping", None),
    )
