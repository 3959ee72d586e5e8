"""Several teachers at the same rows: each one's share of the divergence, and the divergence that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgedistill.distill.losses import cross_entropy


def shares(weights: Tensor, surprise: Tensor | None = None) -> Tensor:
    """Each teacher's share at each item: its weight over the sum of all weights there.

    With surprise, its weight is multiplied by 1 − exp(CE) / Σ exp(CE) over the K teachers whose weight there is not 0,
    so that a teacher counts less where the item's own answer surprises it more than the others (Zhang et al., 2022,
    "Confidence-Aware Multi-Teacher Knowledge Distillation", arXiv 2201.00007; its 1 / (K − 1) cancels here).

    Args:
        weights: [items, teachers], not below 0.
        surprise: [items, teachers]; CE = −log p(the item's own answer) of each teacher, at T = 1.

    Returns:
        [items, teachers]. Each item's sum to 1, or to 0 where no teacher has a weight.
    """
    if surprise is not None:
        judged = weights > 0
        of_all = surprise.masked_fill(~judged, -torch.inf).softmax(dim=1)
        # A teacher that is alone has all of the sum, and is not to lose its weight for it.
        weights = torch.where(judged.sum(dim=1, keepdim=True) > 1, weights * (1 - of_all), weights)
    total = weights.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weights / total, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What one or several teachers of classes said to the same rows.

    Attributes:
        logits: one [rows, labels] a teacher, over the same labels in the same order.
        shares: [rows, teachers]; each row's sum to 1.
    """

    logits: Sequence[Tensor]
    shares: Tensor

    def divergence(self, of_one: Callable[[Tensor], Tensor], rows: Tensor, device: torch.device) -> Tensor:
        """Σ share_t · D(p_t ‖ q) over the teachers t, one value a row.

        The divergences are mixed, and not the distributions, as in `tokens` and in Zhang et al. (2022). Under
        the forward KL it makes no difference to the student: with shares that sum to 1 and p̄ = Σ share_t · p_t,
        Σ share_t · KL(p_t ‖ q) = KL(p̄ ‖ q) + H(p̄) − Σ share_t · H(p_t), and only the first term knows q; the others are
        the teachers' own generalised Jensen-Shannon divergence (Lin, 1991). Mixed divergences hold for others too, and
        need no common support of what is kept sparse. Averaged logits would be neither: they are a geometric mean,
        which a class loses as soon as one teacher is sure against it.

        Args:
            of_one: from a teacher's logits at these rows, [items, labels], to its divergence from the student, [items].
            rows: [items], positions in the logits.
        """
        found = [of_one(logits[rows].to(device)) for logits in self.logits]
        return (torch.stack(found, dim=1) * self.shares[rows].to(device)).sum(dim=1)


def alone(logits: Tensor) -> Panel:
    """The panel of a single teacher."""
    return Panel(logits=(logits,), shares=logits.new_ones(len(logits), 1))


def panel_of(logits: Sequence[Tensor], weights: Tensor, classes: Tensor | None = None) -> Panel:
    """The panel of teachers with these weights.

    Args:
        logits: one [rows, labels] a teacher.
        weights: [rows, teachers].
        classes: [rows], the rows' own; given, teachers count less where they are surprised by them.
    """
    surprise = None if classes is None else torch.stack([cross_entropy(one, classes) for one in logits], dim=1)
    return Panel(logits=logits, shares=shares(weights, surprise))
