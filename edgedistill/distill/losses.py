"""What a student is trained to make small. Each loss is one function, with its formula and its source."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) at a temperature, summed over classes and averaged over rows.

    Args:
        student_logits: [rows, classes], any float dtype; computed in float32.
        teacher_logits: [rows, classes]; no gradient flows into it.
        temperature: T > 0. The result is scaled by T², so gradients keep their size (Hinton et al., 2015, section 2.1).
    """
    student = functional.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_logits.detach().float() / temperature, dim=-1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def pooled(hidden_states: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """The first position and the mean over positions of every layer's output.

    Both are comparable between teacher and student even where their tokenizers cut a text differently.

    Args:
        hidden_states: one [rows, positions, width] a layer.
        mask: [rows, positions], 1 for real positions.

    Returns:
        [rows, layers, 2, width].
    """
    states = torch.stack(hidden_states, dim=1)
    weights = (mask / mask.sum(dim=1, keepdim=True)).to(states.dtype)
    return torch.stack((states[:, :, 0], torch.einsum("rlpw,rp->rlw", states, weights)), dim=2)


def hidden_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of pooled hidden states, the way PKD matches them layer by layer (Sun et al., 2019).

    Args:
        student: [rows, layers, 2, width].
        teacher: the same shape: the teacher layers that the student's were copied from.
    """
    return functional.mse_loss(student.float(), teacher.detach().float())
