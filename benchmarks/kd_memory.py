"""How much memory the loss of a decoder's distillation takes, beside its inputs: ours, the naive one, and TRL's.

    python benchmarks/kd_memory.py [--vocabulary 49152] [--length 512] [--batch 8] [--width 576]

What is measured is forward and backward, from the last hidden states of student and teacher and their heads to the
gradients of the student's hidden states and head, those gradients included. "naive" makes both models' logits and
differentiates cross-entropy and forward KL; "ours" is the same objective by `edgedistill.distill.divergence`; the
"sparse" pair learns from 50 cached log-probabilities a token instead of a teacher in memory. "trl" is TRL's chunked
divergence, where it is installed: the KL alone, since its trainer has no cross-entropy. Each runs in a fresh process;
its peak is the resident set as the kernel counts it, above what it was with the inputs made and the kernels warm.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

TEMPERATURE = 2.0
K = 50
CE, KD = 0.5, 0.5
WARM = 16
"""Items of the run before the clock starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that exists before the loss: [items, width], [vocabulary, width], [items] and [items, K]."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    ids: Tensor
    logprobs: Tensor

    def first(self, items: int) -> Inputs:
        """The same for the first items alone."""
        return Inputs(
            hidden=self.hidden[:items].detach().requires_grad_(),
            weight=self.weight,
            targets=self.targets[:items],
            teacher_hidden=self.teacher_hidden[:items],
            teacher_weight=self.teacher_weight,
            ids=self.ids[:items],
            logprobs=self.logprobs[:items],
        )


def inputs(items: int, vocabulary: int, width: int) -> Inputs:
    """Random states and heads, with logits as spread as those of a small language model."""
    chance = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=chance)
    spread = 3 / width**0.5
    first = torch.randint(vocabulary, (items, 1), generator=chance)
    return Inputs(
        hidden=draw(items, width).requires_grad_(),
        weight=draw(vocabulary, width).mul_(spread).requires_grad_(),
        targets=torch.randint(vocabulary, (items,), generator=chance),
        teacher_hidden=draw(items, width),
        teacher_weight=draw(vocabulary, width).mul_(spread),
        ids=(first + torch.arange(K) * (vocabulary // K)) % vocabulary,  # no id twice
        logprobs=draw(items, K + 1).log_softmax(dim=1)[:, :K].contiguous(),
    )


def naive(given: Inputs) -> Tensor:
    """Both models' logits, whole."""
    from torch.nn import functional

    logits = functional.linear(given.hidden, given.weight)
    with torch.no_grad():
        answers = functional.linear(given.teacher_hidden, given.teacher_weight)
    ce = functional.cross_entropy(logits, given.targets, reduction="sum")
    kd = functional.kl_div(
        functional.log_softmax(logits / TEMPERATURE, dim=-1),
        functional.log_softmax(answers / TEMPERATURE, dim=-1),
        reduction="sum",
        log_target=True,
    )
    return CE * ce + KD * kd * TEMPERATURE**2


def ours(given: Inputs) -> Tensor:
    """The same from hidden states and heads."""
    from edgedistill.distill import divergence, losses

    return divergence.dense(
        given.hidden,
        divergence.Head(weight=given.weight),
        given.targets,
        given.teacher_hidden,
        divergence.Head(weight=given.teacher_weight),
        partial(losses.forward_kl, temperature=TEMPERATURE),
        ce_weight=CE,
        kd_weight=KD,
    ).loss


def naive_sparse(given: Inputs) -> Tensor:
    """The student's logits, whole, against cached log-probabilities."""
    from torch.nn import functional

    from edgedistill.distill.losses import sparse_kl

    logits = functional.linear(given.hidden, given.weight)
    ce = functional.cross_entropy(logits, given.targets, reduction="sum")
    return CE * ce + KD * sparse_kl(logits, given.ids, given.logprobs, TEMPERATURE).sum()


def ours_sparse(given: Inputs) -> Tensor:
    """The same from hidden states and head."""
    from edgedistill.distill import divergence

    return divergence.sparse(
        given.hidden,
        divergence.Head(weight=given.weight),
        given.targets,
        given.ids,
        given.logprobs,
        temperature=TEMPERATURE,
        ce_weight=CE,
        kd_weight=KD,
    ).loss


def trl(given: Inputs) -> Tensor:
    """TRL's divergence from hidden states and heads; its forward KL is beta 0."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    kd, _ = ChunkedDivergenceFunction.apply(
        given.hidden, given.weight, None, given.teacher_hidden, given.teacher_weight, None, 0.0, TEMPERATURE
    )
    return KD * kd.sum() * TEMPERATURE**2


LOSSES: dict[str, Callable[[Inputs], Tensor]] = {
    "naive": naive,
    "ours": ours,
    "naive_sparse": naive_sparse,
    "ours_sparse": ours_sparse,
    "trl": trl,
}


def resident(field: str) -> float:
    """Resident memory of this process in MB: VmRSS now, VmHWM at its highest."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024 / 1e6


def child(name: str, items: int, vocabulary: int, width: int, found: multiprocessing.Queue[dict[str, float]]) -> None:
    """Runs one loss once and reports its peak, its seconds and its value."""
    given = inputs(items, vocabulary, width)
    LOSSES[name](given.first(WARM)).backward()
    given.weight.grad = None
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before, start = resident("VmRSS"), time.perf_counter()
    loss = LOSSES[name](given)
    loss.backward()
    seconds = time.perf_counter() - start
    assert given.hidden.grad is not None
    assert given.weight.grad is not None
    norm = (given.hidden.grad.norm() ** 2 + given.weight.grad.norm() ** 2) ** 0.5
    found.put(
        {"mb": resident("VmHWM") - before, "s": seconds, "loss": loss.item() / items, "gradient": norm.item() / items}
    )


def measured(name: str, items: int, vocabulary: int, width: int) -> dict[str, float]:
    """One loss in a fresh process."""
    context = multiprocessing.get_context("spawn")
    found: multiprocessing.Queue[dict[str, float]] = context.Queue()
    process = context.Process(target=child, args=(name, items, vocabulary, width, found))
    process.start()
    process.join()  # first: a child that failed has nothing to get, and what it puts fits the pipe
    assert process.exitcode == 0, f"{name} ended with {process.exitcode}"
    return found.get()


def figures(*, items: int = 4096, vocabulary: int = 49_152, width: int = 576, rounds: int = 1) -> dict[str, float]:
    """Peak memory in MB and seconds of every loss, the least of some rounds, and the ratios of ours to the naive ones.

    Raises:
        AssertionError: ours does not compute what the naive one does.
    """
    names = [name for name in LOSSES if name != "trl" or importlib.util.find_spec("trl")]
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name in names:
            new = measured(name, items, vocabulary, width)
            old = best.get(name, new)
            best[name] = {**new, "mb": min(old["mb"], new["mb"]), "s": min(old["s"], new["s"])}
    for one, other in (("ours", "naive"), ("ours_sparse", "naive_sparse")):
        for value in ("loss", "gradient"):
            difference = abs(best[one][value] - best[other][value])
            assert difference <= 1e-3 * abs(best[other][value]), (one, value, best)
    return {
        **{f"{name}_{key}": best[name][key] for name in names for key in ("mb", "s")},
        "memory_ratio": best["ours"]["mb"] / best["naive"]["mb"],
        "sparse_memory_ratio": best["ours_sparse"]["mb"] / best["naive_sparse"]["mb"],
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    found = figures(
        items=options.length * options.batch,
        vocabulary=options.vocabulary,
        width=options.width,
        rounds=options.rounds,
    )
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))


if __name__ == "__main__":
    main()
