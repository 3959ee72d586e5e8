"""What a student is trained to make small, compared with the formulas."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedistill.distill.losses import (
    attention_relation,
    cross_entropy,
    forward_kl,
    generalised_jsd,
    hidden_cosine,
    hidden_mse,
    pooled,
    reverse_kl,
    sampled_kl,
    skew_kl,
    sparse_kl,
    uld,
)

Loss = Callable[[Tensor, Tensor], Tensor]
Formula = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def drawn(*shape: int, seed: int) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kl(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (a * np.log(a / b)).sum(axis=-1)
    return found


def jsd(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    mixed = 0.3 * p + 0.7 * q
    return 0.3 * kl(p, mixed) + 0.7 * kl(q, mixed)


DENSE: dict[str, tuple[Callable[..., Tensor], Formula]] = {
    "forward": (forward_kl, kl),
    "reverse": (reverse_kl, lambda p, q: kl(q, p)),
    "jsd": (partial(generalised_jsd, beta=0.3), jsd),
    "skew": (partial(skew_kl, alpha=0.1), lambda p, q: kl(p, 0.1 * p + 0.9 * q)),
}
ONES: dict[str, Loss] = {
    **{name: partial(loss, temperature=2.0) for name, (loss, _) in DENSE.items()},
    "uld": uld,
    "mse": hidden_mse,
    "cosine": hidden_cosine,
    "sparse": lambda student, teacher: sparse_kl(student, *top(teacher, 3), 2.0),
    "sampled": lambda student, teacher: sampled_kl(student, *top(teacher, 3)),
}
"""Every loss between two tensors of [items, n]."""


def top(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = logits.float().log_softmax(dim=-1).topk(k, dim=-1)
    return best.indices, best.values


def probabilities(logits: Tensor, temperature: float) -> NDArray[np.float64]:
    return (logits.double() / temperature).softmax(dim=-1).numpy()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("name", DENSE)
def test_a_divergence_is_its_formula_for_each_item_times_the_square_of_the_temperature(
    name: str, temperature: float
) -> None:
    loss, formula = DENSE[name]
    student, teacher = drawn(7, 5, seed=0), drawn(7, 5, seed=1)
    expected = formula(probabilities(teacher, temperature), probabilities(student, temperature)) * temperature**2
    np.testing.assert_allclose(loss(student, teacher, temperature=temperature).numpy(), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", DENSE)
def test_a_divergence_is_zero_for_equal_answers_and_for_answers_that_differ_by_a_constant(name: str) -> None:
    loss, _ = DENSE[name]
    logits = drawn(7, 5, seed=0)
    for student in (logits, logits + 4):
        torch.testing.assert_close(loss(student, logits, temperature=2.0), torch.zeros(7), rtol=0, atol=1e-5)


def test_the_generalised_jsd_goes_from_the_forward_to_the_reverse_kl() -> None:
    student, teacher = drawn(7, 5, seed=0) / 3, drawn(7, 5, seed=1) / 3
    near = 1e-3
    for beta, other in ((near, forward_kl), (1 - near, reverse_kl)):
        scaled = generalised_jsd(student, teacher, 1.0, beta) / near
        torch.testing.assert_close(scaled, other(student, teacher, 1.0), rtol=0.02, atol=0)
    assert torch.equal(generalised_jsd(student, teacher, 2.0, 0), forward_kl(student, teacher, 2.0))
    assert torch.equal(generalised_jsd(student, teacher, 2.0, 1), reverse_kl(student, teacher, 2.0))
    assert torch.equal(skew_kl(student, teacher, 2.0, 0), forward_kl(student, teacher, 2.0))


@pytest.mark.parametrize("name", ["forward", "skew"])
def test_a_class_that_the_teacher_rules_out_costs_nothing_and_has_a_gradient(name: str) -> None:
    student, teacher = drawn(4, 5, seed=0).requires_grad_(), drawn(4, 5, seed=1)
    teacher[:, 2] = -torch.inf
    found = DENSE[name][0](student, teacher, temperature=2.0)
    found.sum().backward()
    assert found.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad[:, 2] > 0).all()


@pytest.mark.parametrize("name", DENSE)
def test_the_gradient_keeps_its_size_when_the_temperature_rises(name: str) -> None:
    sizes = []
    for temperature in (20.0, 80.0):
        student = drawn(7, 5, seed=0).requires_grad_()
        DENSE[name][0](student, drawn(7, 5, seed=1), temperature=temperature).sum().backward()
        assert student.grad is not None
        sizes.append(student.grad.norm().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


@pytest.mark.parametrize("name", ONES)
def test_no_gradient_flows_into_the_teacher(name: str) -> None:
    student, teacher = drawn(7, 5, seed=0).requires_grad_(), drawn(7, 5, seed=1).requires_grad_()
    ONES[name](student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.norm() > 0


@pytest.mark.parametrize("name", ONES)
def test_the_value_of_an_item_does_not_depend_on_the_others(name: str) -> None:
    student, teacher = drawn(12, 5, seed=0), drawn(12, 5, seed=1)
    whole = ONES[name](student, teacher)
    assert whole.shape == (12,)
    pieces = [ONES[name](student[cut], teacher[cut]) for cut in (slice(0, 1), slice(1, 6), slice(6, 12))]
    torch.testing.assert_close(whole, torch.cat(pieces))


@pytest.mark.parametrize("name", ONES)
def test_half_precision_is_compared_in_float32(name: str) -> None:
    student, teacher = drawn(7, 5, seed=0).bfloat16(), drawn(7, 5, seed=1).bfloat16()
    loss = ONES[name](student, teacher)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, ONES[name](student.float(), teacher.float()))


def test_cross_entropy_is_the_log_of_the_right_class() -> None:
    logits, classes = drawn(7, 5, seed=0), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    expected = -np.log(probabilities(logits, 1.0)[np.arange(7), classes.numpy()])
    np.testing.assert_allclose(cross_entropy(logits, classes).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
@pytest.mark.parametrize("tail", [True, False])
def test_a_sparse_kl_of_the_whole_vocabulary_is_the_dense_one(tail: bool, temperature: float) -> None:
    students = [drawn(9, 40, seed=0).requires_grad_() for _ in range(2)]
    teacher = drawn(9, 40, seed=1)
    found = sparse_kl(students[0], *top(teacher, 40), temperature, tail=tail)
    expected = forward_kl(students[1], teacher, temperature)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(students[0].grad, students[1].grad, rtol=0, atol=1e-5)


def coarse(logits: Tensor, ids: Tensor, temperature: float) -> NDArray[np.float64]:
    """Probabilities of the ids and of all others together, [items, k + 1], raised to 1/T and normalised."""
    p = probabilities(logits, 1.0)
    kept = np.take_along_axis(p, ids.numpy(), axis=1)
    outcomes = np.concatenate((kept, 1 - kept.sum(axis=1, keepdims=True)), axis=1) ** (1 / temperature)
    found: NDArray[np.float64] = outcomes / outcomes.sum(axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_sparse_kl_compares_the_likeliest_tokens_and_the_rest_as_one(temperature: float) -> None:
    student, teacher = drawn(9, 40, seed=0) / 3, drawn(9, 40, seed=1) / 3
    ids, logprobs = top(teacher, 6)
    expected = kl(coarse(teacher, ids, temperature), coarse(student, ids, temperature)) * temperature**2
    found = sparse_kl(student, ids, logprobs, temperature)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sparse_kl(teacher, ids, logprobs, temperature), torch.zeros(9), rtol=0, atol=1e-5)
    if temperature == 1:
        assert (found < forward_kl(student, teacher, 1.0)).all(), "fewer outcomes tell less apart"


def test_without_a_tail_a_student_that_is_right_still_loses() -> None:
    teacher = drawn(9, 40, seed=1) / 3
    ids, logprobs = top(teacher, 6)
    lost = -logprobs.exp().sum(dim=1).log()
    torch.testing.assert_close(sparse_kl(teacher, ids, logprobs, 1.0, tail=False), lost, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("absent", [-torch.inf, -1e4])
@pytest.mark.parametrize("loss", [partial(sparse_kl, temperature=2.0), sampled_kl])
def test_entries_that_are_not_there_change_nothing(loss: Callable[..., Tensor], absent: float) -> None:
    teacher = drawn(3, 40, seed=1)
    ids, logprobs = top(teacher, 6)
    wide_ids, wide = torch.zeros(3, 9, dtype=torch.long), torch.full((3, 9), absent)
    wide_ids[:, :6], wide[:, :6] = ids, logprobs
    grads = []
    for arguments in ((ids, logprobs), (wide_ids, wide)):
        student = drawn(3, 40, seed=0).requires_grad_()
        found = loss(student, *arguments)
        found.sum().backward()
        grads.append((found, student.grad))
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("loss", [partial(sparse_kl, temperature=2.0), sampled_kl])
def test_an_item_without_entries_teaches_nothing(loss: Callable[..., Tensor]) -> None:
    student = drawn(3, 40, seed=0).requires_grad_()
    found = loss(student, torch.zeros(3, 4, dtype=torch.long), torch.full((3, 4), -1e4))
    found.sum().backward()
    torch.testing.assert_close(found, torch.zeros(3))
    torch.testing.assert_close(student.grad, torch.zeros(3, 40))


@pytest.mark.parametrize("k", [5, 40])
def test_extreme_logits_have_finite_losses_and_gradients(k: int) -> None:
    student, teacher = (100 * drawn(9, 40, seed=seed) for seed in (0, 1))
    student.requires_grad_()
    found = sparse_kl(student, *top(teacher, k), 1.0)
    found.sum().backward()
    assert found.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_expected_gradient_of_sampled_signals_is_that_of_the_dense_kl_and_of_the_top_k_alone_is_not() -> None:
    draws, repeats = 4, 20_000
    teacher = torch.randn(1, 12, generator=torch.Generator().manual_seed(1))
    student = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (dense,) = torch.autograd.grad(forward_kl(student, teacher, 1.0).sum(), student)
    chance = torch.Generator().manual_seed(2)
    drawn_ids = teacher.softmax(dim=-1).expand(repeats, -1).multinomial(draws, replacement=True, generator=chance)
    counts = torch.zeros(repeats, 12).scatter_add_(1, drawn_ids, torch.ones(repeats, draws))
    everything = torch.arange(12).expand(repeats, -1)
    losses = sampled_kl(student.expand(repeats, -1), everything, (counts / draws).log())
    assert (losses > 0).all()
    (sampled,) = torch.autograd.grad(losses.mean(), student)
    torch.testing.assert_close(sampled, dense, rtol=0, atol=5e-3)
    (cut,) = torch.autograd.grad(sparse_kl(student, *top(teacher, draws), 1.0, tail=False).sum(), student)
    assert (cut - dense).abs().max() > 0.05


def test_the_cross_tokenizer_loss_is_the_distance_of_sorted_probabilities() -> None:
    student, teacher = drawn(4, 5, seed=0), drawn(4, 8, seed=1)
    q, p = (-np.sort(-probabilities(logits, 1.0), axis=1) for logits in (student, teacher))
    expected = np.abs(np.pad(q, ((0, 0), (0, 3))) - p).sum(axis=1)
    np.testing.assert_allclose(uld(student, teacher).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(uld(teacher, student).numpy(), expected, rtol=1e-5)
    assert uld(student, student[:, [3, 1, 4, 0, 2]]).abs().max() < 1e-6, "the names of tokens do not matter"


def test_pooled_states_are_the_first_position_and_the_mean_of_each_layer() -> None:
    states = (drawn(2, 4, 3, seed=0), drawn(2, 4, 3, seed=1))
    found = pooled(states, torch.ones(2, 4, dtype=torch.long))
    assert found.shape == (2, 2, 2, 3)
    for layer, state in enumerate(states):
        torch.testing.assert_close(found[:, layer, 0], state[:, 0])
        torch.testing.assert_close(found[:, layer, 1], state.mean(dim=1))


def test_pooled_states_do_not_see_padding() -> None:
    states = (drawn(2, 6, 3, seed=0), drawn(2, 6, 3, seed=1))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    for state in states:
        state[1, 3:] = 1e6
    alone = pooled(tuple(state[1:, :3] for state in states), torch.ones(1, 3, dtype=torch.long))
    torch.testing.assert_close(pooled(states, mask)[1:], alone)


def test_the_hidden_loss_is_the_mean_of_squared_distances_of_a_row() -> None:
    student, teacher = drawn(3, 2, 2, 4, seed=0), drawn(3, 2, 2, 4, seed=1)
    expected = ((student.double() - teacher.double()) ** 2).mean(dim=(1, 2, 3)).float()
    torch.testing.assert_close(hidden_mse(student, teacher), expected)
    assert hidden_mse(teacher, teacher).abs().max() == 0


def test_the_cosine_loss_sees_directions_and_not_lengths() -> None:
    student, teacher = drawn(3, 2, 4, seed=0), drawn(3, 2, 4, seed=1)
    s, t = student.double().numpy(), teacher.double().numpy()
    cosines = (s * t).sum(axis=-1) / np.linalg.norm(s, axis=-1) / np.linalg.norm(t, axis=-1)
    np.testing.assert_allclose(hidden_cosine(student, teacher).numpy(), (1 - cosines).mean(axis=1), rtol=1e-4)
    torch.testing.assert_close(hidden_cosine(7 * student, teacher), hidden_cosine(student, teacher))
    torch.testing.assert_close(hidden_cosine(teacher, teacher), torch.zeros(3))
    torch.testing.assert_close(hidden_cosine(-teacher[:, 0], teacher[:, 0]), torch.full((3,), 2.0))


@pytest.mark.parametrize("loss", [hidden_mse, hidden_cosine])
def test_a_projection_learns_by_the_chain_rule_and_the_teacher_does_not(loss: Callable[..., Tensor]) -> None:
    layer = nn.Linear(4, 6, bias=False)
    assert torch.autograd.gradcheck(
        lambda student, weight: loss(student.double(), drawn(3, 2, 6, seed=1).double(), weight).double(),
        (drawn(3, 2, 4, seed=0).double().requires_grad_(), layer.weight.detach().double().requires_grad_()),
        eps=1e-2,
        atol=1e-2,  # the losses are float32 inside
        rtol=1e-2,
    )
    teacher = drawn(3, 2, 6, seed=1).requires_grad_()
    loss(drawn(3, 2, 4, seed=0), teacher, layer).sum().backward()
    by_layer = layer.weight.grad
    weight = layer.weight.detach().clone().requires_grad_()
    loss(drawn(3, 2, 4, seed=0), teacher, weight).sum().backward()
    torch.testing.assert_close(by_layer, weight.grad)
    assert teacher.grad is None


def test_a_projection_can_bring_the_hidden_loss_to_zero() -> None:
    student = drawn(64, 8, seed=0)
    teacher = student @ drawn(8, 12, seed=1)
    layer = nn.Linear(8, 12, bias=False)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = hidden_mse(student, teacher, layer).mean()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    before = closure().item()
    optimizer.step(closure)  # type: ignore[arg-type]
    assert closure().item() < 1e-4 * before


def relation(states: NDArray[np.float64]) -> NDArray[np.float64]:
    scores = np.exp(states @ states.T / np.sqrt(states.shape[1]))
    found: NDArray[np.float64] = scores / scores.sum(axis=1, keepdims=True)
    return found


def test_attention_relations_are_the_formula_of_one_text_without_padding() -> None:
    heads, real = 2, (5, 3)
    student, teacher = (
        [drawn(2, 5, width, seed=seed) / 3 for seed in range(first, first + 3)] for width, first in ((8, 0), (12, 3))
    )
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    expected = np.zeros(2)
    for ours, theirs in zip(student, teacher, strict=True):
        for row, length in enumerate(real):
            for head in range(heads):
                s = ours[row, :length, head * 4 : head * 4 + 4].double().numpy()
                t = theirs[row, :length, head * 6 : head * 6 + 6].double().numpy()
                expected[row] += kl(relation(t), relation(s)).mean() / heads
    np.testing.assert_allclose(attention_relation(student, teacher, mask, heads).numpy(), expected, rtol=1e-4)


def test_attention_relations_do_not_see_padding_and_have_finite_gradients() -> None:
    student, teacher = ([drawn(2, 5, 8, seed=seed) / 3 for seed in seeds] for seeds in ((0, 1, 2), (3, 4, 5)))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    before = attention_relation(student, teacher, mask, 4)
    for states in (*student, *teacher):
        states[1, 3:] = 50
    for states in (*student, *teacher):
        states.requires_grad_()
    found = attention_relation(student, teacher, mask, 4)
    torch.testing.assert_close(found, before)
    torch.testing.assert_close(attention_relation(student, student, mask, 4), torch.zeros(2))
    found.sum().backward()
    for ours, theirs in zip(student, teacher, strict=True):
        assert theirs.grad is None
        assert ours.grad is not None
        assert ours.grad.isfinite().all()
        assert ours.grad[1, 3:].abs().max() == 0
        assert ours.grad[1, :3].abs().min() > 0
