"""Losses from hidden states and head, compared with the same losses on whole logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from edgedistill.distill import divergence, losses
from edgedistill.distill.divergence import Objective
from edgedistill.distill.head import Head

ITEMS, WIDTH, VOCABULARY = 13, 6, 31
CE, KD = 0.3, 1.7
KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward_kl": partial(losses.forward_kl, temperature=2.0),
    "reverse_kl": partial(losses.reverse_kl, temperature=2.0),
    "jsd": partial(losses.generalised_jsd, temperature=1.5, beta=0.4),
    "skew": partial(losses.skew_kl, temperature=1.0, alpha=0.1),
}
CHUNKS = [1, 4, 13, 100, None]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def leaves(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Hidden states, and the weight and the bias of a head."""
    shapes = {"hidden": (ITEMS, WIDTH), "weight": (VOCABULARY, WIDTH), "bias": (VOCABULARY,)}
    return {
        name: drawn(*shape, seed=seed).to(dtype).requires_grad_() for seed, (name, shape) in enumerate(shapes.items())
    }


def naive_logits(given: dict[str, Tensor], softcap: float | None = None) -> Tensor:
    logits = given["hidden"].float() @ given["weight"].float().t() + given["bias"].float()
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


TARGETS = torch.randint(VOCABULARY, (ITEMS,), generator=torch.Generator().manual_seed(7))
TEACHER_HIDDEN = drawn(ITEMS, 9, seed=8)


def naive(logits: Tensor, kd: Tensor, shares: Tensor | None = None) -> Objective:
    ce = losses.cross_entropy(logits, TARGETS).sum()
    whole = (kd if shares is None else kd * shares).sum()
    return Objective(loss=CE * ce + KD * whole, ce=ce.detach(), kd=whole.detach())


def agree(found: Objective, ours: dict[str, Tensor], expected: Objective, theirs: dict[str, Tensor]) -> None:
    """Both objectives, and what they say the leaves should do."""
    close: Any = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    for name in ("loss", "ce", "kd"):
        close(getattr(found, name), getattr(expected, name))
    assert not found.ce.requires_grad
    assert not found.kd.requires_grad
    (found.loss / 7).backward()
    (expected.loss / 7).backward()
    for name, leaf in ours.items():
        assert leaf.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        half = leaf.dtype == torch.bfloat16
        close(leaf.grad, theirs[name].grad, **({"rtol": 1e-2, "atol": 1e-2} if half else {}))


def signals(k: int, vocabulary: int = VOCABULARY) -> tuple[Tensor, Tensor]:
    best = (2 * drawn(ITEMS, vocabulary, seed=9)).log_softmax(dim=-1).topk(k, dim=-1)
    return best.indices, best.values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_dense_divergence_and_its_gradients_are_those_of_whole_logits(
    kind: str, chunk: int | None, dtype: torch.dtype
) -> None:
    ours, theirs = leaves(dtype), leaves(dtype)
    teacher = Head(weight=drawn(VOCABULARY, 9, seed=10))
    found = divergence.dense(
        ours["hidden"],
        Head(weight=ours["weight"], bias=ours["bias"]),
        TARGETS,
        TEACHER_HIDDEN,
        teacher,
        KINDS[kind],
        ce_weight=CE,
        kd_weight=KD,
        chunk=chunk,
    )
    logits = naive_logits(theirs)
    agree(found, ours, naive(logits, KINDS[kind](logits, TEACHER_HIDDEN @ teacher.weight.t())), theirs)


@pytest.mark.parametrize("vocabulary", [VOCABULARY - 6, VOCABULARY + 6])
def test_vocabularies_of_two_sizes_are_compared_over_the_ids_that_both_have(vocabulary: int) -> None:
    ours, theirs = leaves(), leaves()
    teacher = Head(weight=drawn(vocabulary, 9, seed=10), bias=drawn(vocabulary, seed=11), softcap=3.0)
    found = divergence.dense(
        ours["hidden"],
        Head(weight=ours["weight"], bias=ours["bias"]),
        TARGETS,
        TEACHER_HIDDEN,
        teacher,
        KINDS["skew"],
        ce_weight=CE,
        kd_weight=KD,
        chunk=4,
    )
    assert teacher.bias is not None
    common = min(vocabulary, VOCABULARY)
    logits = naive_logits(theirs)
    answers = 3 * torch.tanh((TEACHER_HIDDEN @ teacher.weight.t() + teacher.bias) / 3)
    agree(found, ours, naive(logits, KINDS["skew"](logits[:, :common], answers[:, :common])), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("k", [1, 5, VOCABULARY])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_sparse_divergence_and_its_gradients_are_those_of_whole_logits(
    temperature: float, k: int, chunk: int | None, dtype: torch.dtype
) -> None:
    ours, theirs = leaves(dtype), leaves(dtype)
    ids, logprobs = signals(k)
    found = divergence.sparse(
        ours["hidden"],
        Head(weight=ours["weight"], bias=ours["bias"]),
        TARGETS,
        ids,
        logprobs,
        ce_weight=CE,
        kd_weight=KD,
        temperature=temperature,
        chunk=chunk,
    )
    logits = naive_logits(theirs)
    agree(found, ours, naive(logits, losses.sparse_kl(logits, ids, logprobs, temperature)), theirs)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_missing_entries_shares_and_capped_logits_are_those_of_whole_logits(
    softcap: float | None, sampled: bool
) -> None:
    ours, theirs = leaves(), leaves()
    ids, logprobs = signals(5)
    shares = torch.rand(ITEMS, generator=torch.Generator().manual_seed(3))
    ids[3, 2:], logprobs[3, 2:] = 0, -1e4
    ids[5], logprobs[5] = 0, -1e4
    ids[6, 0], logprobs[6, 0] = 0, -torch.inf
    found = divergence.sparse(
        ours["hidden"],
        Head(weight=ours["weight"], bias=ours["bias"], softcap=softcap),
        TARGETS,
        ids,
        logprobs,
        ce_weight=CE,
        kd_weight=KD,
        sampled=sampled,
        shares=shares,
        chunk=5,
    )
    logits = naive_logits(theirs, softcap)
    kd = losses.sampled_kl(logits, ids, logprobs) if sampled else losses.sparse_kl(logits, ids, logprobs, 1.0)
    agree(found, ours, naive(logits, kd, shares), theirs)


def test_a_sparse_signal_of_the_whole_vocabulary_is_the_dense_one() -> None:
    teacher = Head(weight=drawn(VOCABULARY, 9, seed=10))
    best = (TEACHER_HIDDEN @ teacher.weight.t()).log_softmax(dim=-1).topk(VOCABULARY, dim=-1)
    given = leaves()
    head = Head(weight=given["weight"], bias=given["bias"])
    weights: Any = {"ce_weight": CE, "kd_weight": KD, "chunk": 4}
    sparse = divergence.sparse(given["hidden"], head, TARGETS, best.indices, best.values, temperature=2.0, **weights)
    dense = divergence.dense(given["hidden"], head, TARGETS, TEACHER_HIDDEN, teacher, KINDS["forward_kl"], **weights)
    torch.testing.assert_close(sparse.kd / ITEMS, dense.kd / ITEMS, rtol=0, atol=1e-5)
    found, expected = (
        torch.autograd.grad(objective.loss / ITEMS, list(given.values())) for objective in (sparse, dense)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_sums_of_a_batch_cut_into_pieces_are_those_of_the_batch() -> None:
    given = leaves()
    ids, logprobs = signals(5)

    def of(cut: slice) -> Objective:
        return divergence.sparse(
            given["hidden"][cut],
            Head(weight=given["weight"]),
            TARGETS[cut],
            ids[cut],
            logprobs[cut],
            ce_weight=CE,
            kd_weight=KD,
        )

    whole, parts = of(slice(0, ITEMS)), [of(slice(0, 3)), of(slice(3, 4)), of(slice(4, ITEMS))]
    for name in ("loss", "ce", "kd"):
        torch.testing.assert_close(getattr(whole, name), sum(getattr(part, name) for part in parts))


def test_a_head_that_is_frozen_gets_no_gradient_and_one_that_is_tied_gets_both() -> None:
    ids, logprobs = signals(5)
    frozen = leaves()
    head = Head(weight=frozen["weight"].detach())
    divergence.sparse(frozen["hidden"], head, TARGETS, ids, logprobs, ce_weight=CE, kd_weight=KD).loss.backward()  # type: ignore[no-untyped-call]
    assert frozen["hidden"].grad is not None
    assert frozen["weight"].grad is None
    grads = []
    for chunked in (True, False):
        weight = leaves()["weight"]
        states = torch.tanh(weight[TARGETS])  # an embedding whose table is the head too
        if chunked:
            loss = divergence.sparse(
                states, Head(weight=weight), TARGETS, ids, logprobs, ce_weight=CE, kd_weight=KD, chunk=4
            ).loss
        else:
            logits = states @ weight.t()
            loss = naive(logits, losses.sparse_kl(logits, ids, logprobs, 1.0)).loss
        grads.append(torch.autograd.grad(loss, weight))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)


def test_without_gradients_the_sums_are_the_same() -> None:
    given = leaves()
    ids, logprobs = signals(5)
    arguments: Any = (given["hidden"], Head(weight=given["weight"]), TARGETS, ids, logprobs)
    with torch.no_grad():
        found = divergence.sparse(*arguments, ce_weight=CE, kd_weight=KD)
    assert not found.loss.requires_grad
    assert torch.equal(found.loss, divergence.sparse(*arguments, ce_weight=CE, kd_weight=KD).loss.detach())


def test_no_items_are_no_loss() -> None:
    given = leaves()
    ids, logprobs = signals(5)
    found = divergence.sparse(
        given["hidden"][:0], Head(weight=given["weight"]), TARGETS[:0], ids[:0], logprobs[:0], ce_weight=1, kd_weight=1
    )
    found.loss.backward()  # type: ignore[no-untyped-call]
    assert found.loss.item() == 0
    assert given["weight"].grad is not None
    assert given["weight"].grad.abs().max() == 0


def test_logits_exist_for_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    inside = divergence._logits

    def watched(states: Tensor, head: Head, out: Tensor | None = None) -> Tensor:
        logits = inside(states, head, out)
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(divergence, "_logits", watched)
    monkeypatch.setattr(divergence, "CHUNK_LOGITS", 100)
    given = leaves()
    divergence.sparse(given["hidden"], Head(weight=given["weight"]), TARGETS, *signals(5), ce_weight=CE, kd_weight=KD)
    assert max(sizes) <= 100
    assert sum(sizes) == ITEMS * VOCABULARY
