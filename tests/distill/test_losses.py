"""What a student is trained to make small, compared with the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgedistill.distill.losses import forward_kl, hidden_mse, pooled


def drawn(*shape: int, seed: int) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_the_kl_loss_is_the_formula_with_the_teacher_first(temperature: float) -> None:
    student, teacher = drawn(7, 5, seed=0), drawn(7, 5, seed=1)
    p, q = (np.exp(logits.double().numpy() / temperature) for logits in (teacher, student))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    expected = (p * np.log(p / q)).sum(axis=1).mean() * temperature**2
    assert forward_kl(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_the_kl_loss_is_zero_for_equal_answers_and_for_answers_that_differ_by_a_constant() -> None:
    logits = drawn(7, 5, seed=0)
    assert forward_kl(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert forward_kl(logits + 4, logits, 2.0).item() == pytest.approx(0, abs=1e-5)


def test_the_gradient_keeps_its_size_when_the_temperature_rises() -> None:
    sizes = []
    for temperature in (20.0, 80.0):
        student = drawn(7, 5, seed=0).requires_grad_()
        forward_kl(student, drawn(7, 5, seed=1), temperature).backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        sizes.append(student.grad.norm().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_no_gradient_flows_into_the_teacher() -> None:
    student, teacher = drawn(7, 5, seed=0).requires_grad_(), drawn(7, 5, seed=1).requires_grad_()
    forward_kl(student, teacher, 2.0).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None
    hidden = drawn(3, 2, 2, 4, seed=2).requires_grad_()
    hidden_mse(drawn(3, 2, 2, 4, seed=3).requires_grad_(), hidden).backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is None


def test_a_batch_cut_into_pieces_has_the_same_loss_when_rows_weigh_the_same() -> None:
    student, teacher = drawn(12, 5, seed=0), drawn(12, 5, seed=1)
    pieces = [slice(0, 1), slice(1, 6), slice(6, 12)]
    weighted = sum(forward_kl(student[cut], teacher[cut], 2.0).item() * (cut.stop - cut.start) for cut in pieces) / 12
    assert forward_kl(student, teacher, 2.0).item() == pytest.approx(weighted, rel=1e-5)


def test_half_precision_logits_are_compared_in_float32() -> None:
    student, teacher = drawn(7, 5, seed=0).half(), drawn(7, 5, seed=1).half()
    loss = forward_kl(student, teacher, 1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(forward_kl(student.double().float(), teacher.float(), 1.0).item(), rel=1e-6)


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


def test_the_hidden_loss_is_the_mean_of_squared_distances() -> None:
    student, teacher = drawn(3, 2, 2, 4, seed=0), drawn(3, 2, 2, 4, seed=1)
    expected = ((student.double() - teacher.double()) ** 2).mean().item()
    assert hidden_mse(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert hidden_mse(teacher, teacher).item() == 0
