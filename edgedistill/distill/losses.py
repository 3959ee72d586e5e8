"""What a student is trained to make small. Each loss is one function, with its formula and its source.

Every function returns one value an item, [items] in float32, whatever the type of its inputs. An item is a row of a
classifier or an answer token of a decoder. Who calls divides by the number of items of the whole optimizer step, so a
loss does not depend on how a batch is split. No gradient flows into a teacher. In the formulas p is the teacher's
distribution and q the student's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

NEVER = -math.inf
"""Log-probability of what cannot happen."""

Divergence = Callable[[Tensor, Tensor, float], Tensor]
"""From the logits of student and teacher, both [items, classes], and a temperature, to one value an item."""


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """−log q(class).

    Args:
        logits: [items, classes], any float dtype.
        classes: [items], integers.
    """
    return functional.cross_entropy(logits.float(), classes, reduction="none")


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(p ‖ q) = Σ p log(p / q) at a temperature.

    Args:
        student_logits: [items, classes], any float dtype.
        teacher_logits: [items, classes].
        temperature: T > 0. The result is scaled by T², so gradients keep their size (Hinton et al., 2015, section 2.1).
    """
    log_q, log_p = _distributions(student_logits, teacher_logits, temperature)
    return kl(log_p, log_q) * temperature**2


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(q ‖ p) = Σ q log(q / p), which keeps a student to what the teacher finds likely (Gu et al., 2024, MiniLLM).

    Only for dense logits: on a teacher's top k a student can lower it by leaving the k.

    Args:
        student_logits: [items, classes], any float dtype.
        teacher_logits: [items, classes].
        temperature: T > 0. The result is scaled by T².
    """
    log_q, log_p = _distributions(student_logits, teacher_logits, temperature)
    return kl(log_q, log_p) * temperature**2


def generalised_jsd(student_logits: Tensor, teacher_logits: Tensor, temperature: float, beta: float) -> Tensor:
    """JSD(β) = β KL(p ‖ m) + (1 − β) KL(q ‖ m) with m = βp + (1 − β)q (Agarwal et al., 2024, GKD, section 2).

    For β → 0, JSD / β is the forward KL, and for β → 1, JSD / (1 − β) is the reverse KL. JSD itself is 0 at both ends
    and teaches nothing there, so at exactly 0 and 1 the result is the forward and the reverse KL.

    Args:
        student_logits: [items, classes], any float dtype.
        teacher_logits: [items, classes].
        temperature: T > 0. The result is scaled by T².
        beta: 0 to 1.
    """
    if beta == 0:
        return forward_kl(student_logits, teacher_logits, temperature)
    if beta == 1:
        return reverse_kl(student_logits, teacher_logits, temperature)
    log_q, log_p = _distributions(student_logits, teacher_logits, temperature)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))
    return (beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)) * temperature**2


def skew_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float, alpha: float) -> Tensor:
    """KL(p ‖ αp + (1 − α)q), whose gradient stays bounded where the student gives 0 (Ko et al., 2024, DistiLLM, eq. 4).

    Args:
        student_logits: [items, classes], any float dtype.
        teacher_logits: [items, classes].
        temperature: T > 0. The result is scaled by T².
        alpha: from 0, which is the forward KL, to below 1. DistiLLM uses 0.1.
    """
    if alpha == 0:
        return forward_kl(student_logits, teacher_logits, temperature)
    log_q, log_p = _distributions(student_logits, teacher_logits, temperature)
    return kl(log_p, torch.logaddexp(log_p + math.log(alpha), log_q + math.log(1 - alpha))) * temperature**2


def divergence_of(name: str, *, beta: float, alpha: float) -> Divergence:
    """The divergence with a name: "forward", "reverse", "jsd" or "skew".

    Args:
        beta: of the generalised JSD.
        alpha: of the skew KL.
    """
    kinds: dict[str, Divergence] = {
        "forward": forward_kl,
        "reverse": reverse_kl,
        "jsd": partial(generalised_jsd, beta=beta),
        "skew": partial(skew_kl, alpha=alpha),
    }
    return kinds[name]


def sparse_kl(
    student_logits: Tensor, ids: Tensor, logprobs: Tensor, temperature: float, *, tail: bool = True
) -> Tensor:
    """KL(p ‖ q) from a teacher's k likeliest tokens; all other tokens together are one more outcome.

    The k + 1 outcomes are exact at T = 1. The teacher's tail at another temperature would need every token of it, so
    the temperature comes last: both sides are reduced to k + 1 outcomes first, and each outcome's probability is then
    raised to 1/T and normalised. The minimum stays where the student's k + 1 probabilities are the teacher's, and with
    k = vocabulary this is the dense KL at any T. Rounding in the teacher's probabilities ends up in the tail and grows
    with T: 10⁻⁴ of missing mass weighs 10⁻² at T = 2.

    Args:
        student_logits: [items, vocabulary], any float dtype.
        ids: [items, k], none of them twice in an item.
        logprobs: [items, k], the teacher's at T = 1. Entries of probability 0, such as −inf, are not there.
        temperature: T > 0. The result is scaled by T².
        tail: whether there is that one more outcome. Without it the k tokens are all that the teacher could say, as in
            plain top-k distillation, which makes a student too sure (Anshumann et al., 2025, section 2).
    """
    logits = student_logits.float()
    logprobs = logprobs.detach().float()
    there = logprobs.exp() > 0
    log_p = logprobs.masked_fill(~there, NEVER)
    if not tail:
        log_q = (logits / temperature).log_softmax(dim=-1).gather(1, ids)
        return kl((log_p / temperature).log_softmax(dim=-1).nan_to_num(nan=NEVER), log_q) * temperature**2
    kept = logits.gather(1, ids).masked_fill(~there, NEVER)
    rows, slots = there.nonzero(as_tuple=True)
    others = logits.index_put((rows, ids[rows, slots]), logits.new_tensor(NEVER))
    empty = others.amax(dim=-1, keepdim=True) == NEVER
    # The gradient of logsumexp is not a number where all of its terms are −inf.
    rest = others.masked_fill(empty, 0).logsumexp(dim=-1, keepdim=True).masked_fill(empty, NEVER)
    log_q = torch.cat((kept, rest), dim=-1).log_softmax(dim=-1)
    log_p = torch.cat((log_p, log_missing(log_p).masked_fill(empty, NEVER)), dim=-1)
    return kl(*((outcomes / temperature).log_softmax(dim=-1) for outcomes in (log_p, log_q))) * temperature**2


def sampled_kl(student_logits: Tensor, ids: Tensor, log_weights: Tensor) -> Tensor:
    """Σ w log(w / q) over tokens drawn from the teacher (Anshumann et al., 2025, arXiv 2503.16870, section 3).

    The weights' expectation is p, for every token of the vocabulary, so the gradient's expectation is that of the dense
    KL: nothing is missing and there is no tail. The value is too high by a constant that no student can change, the
    entropy that a few draws lack. T = 1 alone, at which the draws were made: a power of the weights is not unbiased.

    Args:
        student_logits: [items, vocabulary], any float dtype.
        ids: [items, k], none of them twice in an item.
        log_weights: [items, k]; log of how often an id was drawn, over the number of draws. Entries of weight 0, such
            as −inf, are not there.
    """
    log_q = student_logits.float().log_softmax(dim=-1).gather(1, ids)
    return kl(log_weights.detach().float(), log_q)


def uld(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Σ |p₍ᵢ₎ − q₍ᵢ₎| over probabilities sorted from the largest (Boizard et al., 2024, Universal Logit Distillation).

    It compares how sure teacher and student are, and not of what, so their vocabularies may differ; the smaller one is
    filled up with zeros. Tokens are paired by their place in the answer.

    Args:
        student_logits: [items, vocabulary of the student], any float dtype.
        teacher_logits: [items, vocabulary of the teacher].
    """
    student, teacher = (
        logits.float().softmax(dim=-1).sort(dim=-1, descending=True).values
        for logits in (student_logits, teacher_logits.detach())
    )
    short = teacher.shape[-1] - student.shape[-1]
    student, teacher = functional.pad(student, (0, max(short, 0))), functional.pad(teacher, (0, max(-short, 0)))
    return (student - teacher).abs().sum(dim=-1)


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


def hidden_mse(student: Tensor, teacher: Tensor, projection: Tensor | nn.Module | None = None) -> Tensor:
    """Mean squared distance of hidden states, matched layer by layer (Sun et al., 2019, PKD).

    Args:
        student: [items, …, width of the student]: pooled states, or those of tokens.
        teacher: [items, …, width of the teacher]: of the layers that the student's were copied from.
        projection: a linear map that is learned along with the student, where the widths differ (Jiao et al., 2020,
            TinyBERT, section 3.1): a layer, or [width of the teacher, width of the student].
    """
    squares = functional.mse_loss(_projected(student, projection), teacher.detach().float(), reduction="none")
    return squares.flatten(1).mean(dim=1)


def hidden_cosine(student: Tensor, teacher: Tensor, projection: Tensor | nn.Module | None = None) -> Tensor:
    """1 − cos of the angle between hidden states, which leaves their lengths free (Sanh et al., 2019, DistilBERT).

    Args:
        student: [items, …, width of the student]: pooled states, or those of tokens.
        teacher: [items, …, width of the teacher].
        projection: as in `hidden_mse`.
    """
    cosines = functional.cosine_similarity(_projected(student, projection), teacher.detach().float(), dim=-1)
    return 1 - cosines.reshape(len(cosines), -1).mean(dim=1)


def attention_relation(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, heads: int) -> Tensor:
    """Σ KL(R_teacher ‖ R_student) with R = softmax(A Aᵀ / √d), for A the queries, the keys and the values of one layer.

    The sum runs over what is given and the mean over relation heads and real positions (Wang et al., 2021, MiniLMv2,
    section 3.1). Widths and numbers of attention heads may differ: both sides are cut anew into the same number of
    relation heads.

    Args:
        student: one [rows, positions, width of the student] each for queries, keys and values.
        teacher: the same in the same order, with the teacher's width.
        mask: [rows, positions], 1 for real positions.
        heads: number of relation heads; divides both widths.
    """
    real = mask.bool()
    shares = real / (heads * real.sum(dim=1, keepdim=True))
    found = [
        torch.einsum("rhp,rp->r", kl(_relation(of_teacher.detach(), real, heads), _relation(ours, real, heads)), shares)
        for ours, of_teacher in zip(student, teacher, strict=True)
    ]
    return torch.stack(found).sum(dim=0)


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Σ a log(a / b) over the last dimension; terms with a = 0 are 0, and so are their gradients."""
    a = log_a.exp()
    return (a * (log_a - log_b).masked_fill(a == 0, 0)).sum(dim=-1)


def log_missing(logprobs: Tensor) -> Tensor:
    """Log of what the probabilities leave of 1. [items, k] to [items, 1]; −inf where they leave nothing."""
    return (1 - logprobs.exp().sum(dim=-1, keepdim=True)).clamp(min=0).log()


def _distributions(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Both as log-probabilities: log q, log p."""
    log_q = (student_logits.float() / temperature).log_softmax(dim=-1)
    return log_q, (teacher_logits.detach().float() / temperature).log_softmax(dim=-1)


def _projected(student: Tensor, projection: Tensor | nn.Module | None) -> Tensor:
    if projection is None:
        return student.float()
    if isinstance(projection, Tensor):
        return functional.linear(student.float(), projection.float())
    found: Tensor = projection(student)
    return found.float()


def _relation(states: Tensor, real: Tensor, heads: int) -> Tensor:
    """The relations' logarithms, [rows, heads, positions, positions]; no position relates to padding."""
    rows, positions, width = states.shape
    parts = states.float().reshape(rows, positions, heads, width // heads).transpose(1, 2)
    scores: Tensor = parts @ parts.transpose(-1, -2) / math.sqrt(width // heads)
    return scores.masked_fill(~real[:, None, None, :], NEVER).log_softmax(dim=-1)
