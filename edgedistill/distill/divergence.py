"""Cross-entropy and distillation of a decoder straight from its last hidden states and its head.

    hidden [items, width] ─► a chunk's logits ─► its losses and their gradient ─► + gradients of hidden and head

Logits exist for one chunk of items at a time, in the forward pass alone: the gradients are computed beside them, and
the backward pass only scales what is there (Hsu et al., 2024, Liger Kernel, section 3.2). Memory grows with
chunk × vocabulary, not with items × vocabulary. What is computed is what the functions of `losses` say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from edgedistill.distill.head import Head
from edgedistill.distill.losses import NEVER, cross_entropy, kl, log_missing

CHUNK_LOGITS = 2**23
"""Logits in memory at a time, over items and vocabulary: 32 MiB in float32."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""From the logits of student and teacher, both [items, vocabulary], to one value an item."""
_Measure = Callable[[slice, Tensor], tuple[Tensor, Tensor, Tensor]]
"""From a chunk's place and its logits, which it may overwrite, to the sums of ce and kd and the loss's gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Sums over items, float32.

    Attributes:
        loss: ce_weight · ce + kd_weight · kd; the one to differentiate.
        ce: cross-entropy, detached, to be logged.
        kd: divergence from the teacher, each item times its share; detached, to be logged.
    """

    loss: Tensor
    ce: Tensor
    kd: Tensor


def sparse(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    ids: Tensor,
    logprobs: Tensor,
    *,
    ce_weight: float,
    kd_weight: float,
    temperature: float = 1.0,
    sampled: bool = False,
    shares: Tensor | None = None,
    chunk: int | None = None,
) -> Objective:
    """Cross-entropy, and `losses.sparse_kl` or `losses.sampled_kl` to a cached teacher.

    An item without any entry has no divergence, so rows that the teacher was not asked for need no mask.

    Args:
        hidden: [items, width], of the positions that predict the targets. With half-precision hidden states or
            autocast on a GPU, the products are of that type and their sums are float32; elsewhere all is float32.
        targets: [items], the tokens that follow.
        ids: [items, k], as in the loss.
        logprobs: [items, k], as in the loss; log-weights if sampled.
        temperature: of `sparse_kl`; `sampled_kl` has none.
        shares: [items], what this teacher counts for at each item; 1 if left out.
        chunk: items at a time; by default as many as make CHUNK_LOGITS.
    """
    measure = _Sparse(
        targets=targets,
        ids=ids,
        logprobs=logprobs.detach().float(),
        ce_weight=ce_weight,
        kd_weight=kd_weight,
        temperature=temperature,
        sampled=sampled,
        shares=_ones(hidden, shares),
    )
    return _objective(hidden, head, measure, (ce_weight, kd_weight), chunk)


def dense(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Head,
    loss: Loss,
    *,
    ce_weight: float,
    kd_weight: float,
    shares: Tensor | None = None,
    chunk: int | None = None,
) -> Objective:
    """Cross-entropy, and a divergence from a teacher that is in memory too.

    Both distributions are those over the ids that both have, normalised there: Qwen 2.5 pads its 7B to 152,064 and its
    0.5B to 151,936. Where the tokenizer has still fewer pieces, give a teacher's head that is cut to them.

    Args:
        hidden: [items, width]; its type matters as in `sparse`.
        targets: [items], the tokens that follow.
        teacher_hidden: [items, width of the teacher].
        loss: a function of `losses` with its parameters, such as `partial(skew_kl, temperature=1, alpha=0.1)`.
        shares: [items], what this teacher counts for at each item; 1 if left out.
        chunk: items at a time; by default as many as make CHUNK_LOGITS.
    """
    shares = _ones(hidden, shares)
    teacher_hidden = teacher_hidden.detach()
    pieces = min(len(head.weight), len(teacher_head.weight))
    bias = teacher_head.bias
    common = Head(
        weight=teacher_head.weight[:pieces].detach().to(_precision(teacher_hidden)),
        bias=None if bias is None else bias[:pieces].detach(),
        softcap=teacher_head.softcap,
    )

    def measure(part: slice, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theirs = _logits(teacher_hidden[part].to(common.weight.dtype), common)
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            ce = cross_entropy(logits, targets[part]).sum()
            kd = torch.dot(loss(logits[:, :pieces], theirs), shares[part])
            (gradient,) = torch.autograd.grad(ce_weight * ce + kd_weight * kd, logits)
        return ce.detach(), kd.detach(), gradient

    return _objective(hidden, head, measure, (ce_weight, kd_weight), chunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sparse:
    """`losses.sparse_kl` and `sampled_kl` with gradients by hand: one buffer of logits becomes that of the gradient."""

    targets: Tensor
    ids: Tensor
    logprobs: Tensor
    ce_weight: float
    kd_weight: float
    temperature: float
    sampled: bool
    shares: Tensor

    def __call__(self, part: slice, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ids, targets, shares = self.ids[part], self.targets[part, None], self.shares[part]
        there = self.logprobs[part].exp() > 0
        log_p = self.logprobs[part].masked_fill(~there, NEVER)
        rows, slots = there.nonzero(as_tuple=True)
        columns = ids[rows, slots]
        kept = logits.gather(1, ids).masked_fill(~there, NEVER)
        correct = logits.gather(1, targets)

        logits[rows, columns] = NEVER  # what remains is the tail; it may be empty
        top = logits.amax(dim=1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
        mass = logits.sub_(top).exp_().sum(dim=1, keepdim=True)
        outcomes = torch.cat((kept, top + mass.log()), dim=1)
        whole = outcomes.logsumexp(dim=1, keepdim=True)
        log_q = outcomes - whole
        kd, gradient = self._sampled(log_p, log_q) if self.sampled else self._top_k(log_p, log_q)

        gradient = self.ce_weight * log_q.exp() + self.kd_weight * shares[:, None] * gradient
        logits.mul_(gradient[:, -1:] / mass.clamp(min=1))  # of the tail, each token has its share
        logits[rows, columns] = gradient[rows, slots]
        logits.scatter_add_(1, targets, torch.full_like(correct, -self.ce_weight))
        return (whole - correct).sum(), torch.dot(kd, shares), logits

    def _top_k(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """The divergence, [items], and its gradient by the logits of the outcomes, [items, k + 1]."""
        missing = log_missing(log_p).masked_fill(log_q[:, -1:] == NEVER, NEVER)
        log_p = (torch.cat((log_p, missing), dim=1) / self.temperature).log_softmax(dim=1)
        log_q = (log_q / self.temperature).log_softmax(dim=1)
        return kl(log_p, log_q) * self.temperature**2, (log_q.exp() - log_p.exp()) * self.temperature

    def _sampled(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.cat((log_p.exp(), torch.zeros_like(log_p[:, :1])), dim=1)
        return kl(log_p, log_q[:, :-1]), weights.sum(dim=1, keepdim=True) * log_q.exp() - weights


def _objective(
    hidden: Tensor, head: Head, measure: _Measure, weights: tuple[float, float], chunk: int | None
) -> Objective:
    weight, bias = head.weight, head.bias
    if not torch.is_grad_enabled():
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    chunk = chunk or max(CHUNK_LOGITS // len(weight), 1)
    precision = _precision(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        apply: Any = _FromHead.apply
        loss, ce, kd = apply(hidden, weight, bias, head.softcap, measure, weights, chunk, precision)
    return Objective(loss=loss, ce=ce, kd=kd)


class _FromHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        softcap: float | None,
        measure: _Measure,
        weights: tuple[float, float],
        chunk: int,
        precision: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        leaves = (hidden, weight, bias)
        # Summed over chunks in float32: rounding every chunk to half precision biases the gradient.
        sums = [
            torch.zeros_like(leaf, dtype=torch.float32) if leaf is not None and needed else None
            for leaf, needed in zip(leaves, ctx.needs_input_grad[:3], strict=True)
        ]
        of_hidden, of_weight, of_bias = sums
        head = Head(weight=weight.to(precision), bias=bias, softcap=softcap)
        ce, kd = torch.zeros(2, device=hidden.device)
        buffer = hidden.new_empty((min(chunk, len(hidden)), len(weight)), dtype=torch.float32)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            states = hidden[part].to(precision)
            logits = _logits(states, head, out=buffer[: len(states)])
            slope = None if softcap is None else 1 - (logits / softcap) ** 2
            of_ce, of_kd, gradient = measure(part, logits)
            ce, kd = ce + of_ce, kd + of_kd
            if slope is not None:
                gradient = gradient * slope
            if of_bias is not None:
                of_bias += gradient.sum(dim=0)
            gradient = gradient.to(precision)
            if of_hidden is not None:
                of_hidden[part] = _product(gradient, head.weight)
            if of_weight is not None:
                _add_product(of_weight, gradient.t(), states)
        ctx.save_for_backward(
            *(
                None if total is None or leaf is None else total.to(leaf.dtype)
                for total, leaf in zip(sums, leaves, strict=True)
            )
        )
        ctx.mark_non_differentiable(ce, kd)
        return weights[0] * ce + weights[1] * kd, ce, kd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # In place, since a head's gradient is large; autograd itself refuses to come here a second time.
        return *(None if saved is None else saved.mul_(of_loss) for saved in ctx.saved_tensors), *(None,) * 5


def _precision(hidden: Tensor) -> torch.dtype:
    """The type of factors: their products are summed in float32 without a copy on CUDA alone."""
    device = hidden.device.type
    wanted = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    return wanted if device == "cuda" else torch.float32


def _ones(hidden: Tensor, shares: Tensor | None) -> Tensor:
    return torch.ones(len(hidden), device=hidden.device) if shares is None else shares.detach().float()


def _logits(states: Tensor, head: Head, out: Tensor | None = None) -> Tensor:
    """[items, width] to [items, vocabulary] in float32."""
    logits = _product(states, head.weight.t(), out)
    if head.bias is not None:
        logits += head.bias
    return head.capped(logits)


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """The product in float32."""
    if a.dtype == torch.float32:
        return torch.mm(a, b, out=out)
    return torch.mm(a, b, out_dtype=torch.float32, out=out)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds a product in float32."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    else:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
