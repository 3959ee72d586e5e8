"""What several classifiers come to: shares, and the divergence that is mixed by them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgedistill.distill.classes import Classes, Examples, Teaching
from edgedistill.distill.logits import Signal
from edgedistill.distill.losses import forward_kl, reverse_kl
from edgedistill.distill.panel import Panel, alone, panel_of, shares

CPU = torch.device("cpu")


def drawn(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def test_shares_are_weights_that_sum_to_one() -> None:
    found = shares(torch.tensor([[3.0, 1.0], [0.0, 2.0], [0.0, 0.0]]))
    assert found.tolist() == [[0.75, 0.25], [0, 1], [0, 0]]


def test_a_teacher_that_a_row_contradicts_counts_less() -> None:
    sure = torch.tensor([[8.0, 0, 0], [0.0, 8, 0]])
    both = panel_of([sure, sure.flip(0)], torch.ones(2, 2), torch.tensor([0, 0]))
    assert both.shares[0, 0] > 0.99
    assert both.shares[1, 0] < 0.01
    agree = panel_of([sure, sure], torch.tensor([[1.0, 3.0]] * 2), torch.tensor([0, 1]))
    assert agree.shares.tolist() == [[0.25, 0.75]] * 2


def test_confidence_is_that_of_the_paper() -> None:
    logits = [drawn(5, 4, seed=seed) for seed in range(3)]
    classes = torch.tensor([0, 1, 2, 3, 0])
    surprise = torch.stack([-one.log_softmax(1)[torch.arange(5), classes] for one in logits], dim=1)
    expected = (1 - surprise.exp() / surprise.exp().sum(dim=1, keepdim=True)) / 2
    torch.testing.assert_close(panel_of(logits, torch.ones(5, 3), classes).shares, expected)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_mixed_divergences_teach_what_a_mixed_distribution_does(temperature: float) -> None:
    teachers = [drawn(6, 4, seed=seed) * 3 for seed in (1, 2)]
    panel = panel_of(teachers, torch.tensor([[3.0, 1.0]] * 6))
    rows, gradients = torch.tensor([4, 0, 5]), []
    mixture = sum(share * (one / temperature).softmax(1) for share, one in zip((0.75, 0.25), teachers, strict=True))
    assert isinstance(mixture, Tensor)
    for kind in ("divergences", "distributions", "logits"):
        student = drawn(3, 4, seed=3).requires_grad_(True)
        if kind == "divergences":
            loss = panel.divergence(lambda said, q=student: forward_kl(q, said, temperature), rows, CPU)
        elif kind == "distributions":
            loss = forward_kl(student, mixture[rows].log() * temperature, temperature)
        else:
            loss = forward_kl(student, (0.75 * teachers[0] + 0.25 * teachers[1])[rows], temperature)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        gradients.append(student.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2], atol=1e-3)


def test_one_teacher_is_a_panel_of_one() -> None:
    said, student, rows = drawn(6, 4), drawn(2, 4, seed=1), torch.tensor([5, 1])
    found = alone(said).divergence(lambda answers: reverse_kl(student, answers, 2.0), rows, CPU)
    assert torch.equal(found, reverse_kl(student, said[rows], 2.0))


def test_hidden_states_are_matched_where_the_first_teacher_has_a_share(toy: Examples, signal: Signal) -> None:
    count = len(toy.ids)
    halves = torch.zeros(count, 2)
    halves[: count // 2, 0] = 1
    halves[count // 2 :, 1] = 1
    other = signal.logits.flip(1)
    lessons = [
        Classes(
            toy,
            Teaching(
                signal=signal,
                layers=(0, 1, 2),
                temperature=(2.0, 2.0),
                kd_weight=0.9,
                hidden_weight=1.0,
                panel=Panel(logits=(signal.logits, other), shares=shares) if shares is not None else None,
            ),
        )
        for shares in (None, halves)
    ]
    model = Echo(signal)
    mine, its = list(range(count // 2)), list(range(count // 2, count))
    plain, split = (
        {name: float(value) for name, value in one.terms(model, one.batch(mine), 0.0).items()} for one in lessons
    )
    assert split == pytest.approx(plain)
    plain, split = (
        {name: float(value) for name, value in one.terms(model, one.batch(its), 0.0).items()} for one in lessons
    )
    assert plain["hidden"] > split["hidden"] == 0
    assert split["kd"] != pytest.approx(plain["kd"])


class Echo(torch.nn.Module):
    """A student that says the same about everything."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        assert signal.hidden is not None
        self._labels, self._width = signal.logits.shape[1], signal.hidden.shape[-1]

    def forward(self, input_ids: Tensor, **_: object) -> object:
        rows, length = input_ids.shape
        states = tuple(torch.zeros(rows, length, self._width) for _ in range(4))
        return type("Out", (), {"logits": torch.arange(self._labels).float().repeat(rows, 1), "hidden_states": states})
