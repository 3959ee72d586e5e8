"""How far a file is from its checkpoint, by the formulas."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill.export.decoder.parity import Reference, _figures, _first_difference, compare


def test_the_figures_are_those_of_the_formulas() -> None:
    reference, file = np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 2.0]])
    found = _figures([reference.astype(np.float32)], iter([file.astype(np.float32)]))
    p = np.exp(2) / (np.exp(2) + 1)
    second = p * 2 - (1 - p) * 2  # the log-ratio of the two classes is ±2
    assert found["kl"] == pytest.approx(second / 2)
    assert found["kl_error"] == pytest.approx(second / 2)  # of 0 and x: standard deviation x/√2, over √2
    assert found["top1_agreement"] == 0.5
    assert (found["max_error"], found["mean_error"]) == (2, 1)
    assert found["cosine"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("reference", "found", "at"), [([1, 2, 3], [1, 2, 3], None), ([1, 2], [1, 2, 9], None), ([1, 2, 3], [1, 7, 3], 1)]
)
def test_the_first_difference_is_counted_from_0(reference: list[int], found: list[int], at: int | None) -> None:
    assert _first_difference(reference, found) == at


def test_a_file_is_held_against_the_answers_and_against_what_the_checkpoint_finds_likeliest() -> None:
    logits = np.eye(4, dtype=np.float32)[[1, 2, 3]]
    expected = Reference(
        prompts=("a", "b"), ids=((7,), (8, 9)), answers=((1, 2), (0,)), logits=(logits[:2], logits[2:])
    )
    assert expected.token_accuracy == pytest.approx(2 / 3)  # the last answer is not what it finds likeliest
    file = [np.eye(4, dtype=np.float32)[[1, 3]], logits[2:]]
    found = compare(expected, [[7], [8]], iter(file))
    assert (found.prompts, found.positions) == (2, 3)
    assert found.same_pieces == 0.5
    assert found.diverges_at == (1, None)
    assert found.same_answers == 0.5
    assert found.token_accuracy == pytest.approx(1 / 3)
    assert found.top1_agreement == pytest.approx(2 / 3)
