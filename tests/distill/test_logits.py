"""A teacher is asked once, and each answer stays with its row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from edgedistill.distill import logits
from edgedistill.distill.logits import Signal
from edgedistill.errors import IntegrityError


@pytest.fixture
def keys(ragged: list[list[int]]) -> list[str]:
    return [f"row-{number}" for number in range(len(ragged))]


def test_answers_in_batches_are_the_answers_one_by_one(
    shaken: PreTrainedModel, ragged: list[list[int]], keys: list[str]
) -> None:
    together = logits.ask(shaken, ragged, keys, hidden=True)
    assert together.hidden is not None
    assert together.hidden.shape == (12, 4, 2, 32)
    for row, ids in enumerate(ragged):
        alone = logits.ask(shaken, [ids], [keys[row]], hidden=True)
        assert alone.hidden is not None
        torch.testing.assert_close(together.logits[row], alone.logits[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.hidden[row], alone.hidden[0], rtol=1e-2, atol=1e-2)


def test_answers_are_the_models_own_for_each_row(
    shaken: PreTrainedModel, ragged: list[list[int]], keys: list[str]
) -> None:
    found = logits.ask(shaken, ragged, keys, hidden=True)
    assert found.hidden is not None
    for row, ids in enumerate(ragged):
        with torch.inference_mode():
            out = shaken(input_ids=torch.tensor([ids]), output_hidden_states=True)
        torch.testing.assert_close(found.logits[row], out.logits[0], rtol=1e-4, atol=1e-5)
        for layer, state in enumerate(out.hidden_states):
            torch.testing.assert_close(found.hidden[row, layer, 0].float(), state[0, 0], rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(found.hidden[row, layer, 1].float(), state[0].mean(0), rtol=1e-2, atol=1e-2)


def test_hidden_states_are_kept_only_when_asked_for(
    shaken: PreTrainedModel, ragged: list[list[int]], keys: list[str]
) -> None:
    assert logits.ask(shaken, ragged, keys, hidden=False).hidden is None


def test_progress_ends_with_every_row(shaken: PreTrainedModel, ragged: list[list[int]], keys: list[str]) -> None:
    said: list[tuple[int, int]] = []
    logits.ask(shaken, ragged, keys, hidden=False, progress=lambda done, total, note="": said.append((done, total)))
    assert said[-1] == (12, 12)


@pytest.mark.parametrize("hidden", [True, False])
def test_a_signal_is_read_back_as_it_was_written(
    shaken: PreTrainedModel, ragged: list[list[int]], keys: list[str], tmp_path: Path, hidden: bool
) -> None:
    signal = logits.ask(shaken, ragged, keys, hidden=hidden)
    logits.write(signal, tmp_path / "signal.safetensors")
    again = logits.read(tmp_path / "signal.safetensors", keys)
    assert again.keys == signal.keys == tuple(keys)
    assert torch.equal(again.logits, signal.logits)
    if signal.hidden is None:
        assert again.hidden is None
    else:
        assert again.hidden is not None
        assert torch.equal(again.hidden, signal.hidden)


@pytest.mark.parametrize(
    "asked", [["a", "b"], ["a", "b", "c", "d"], ["a", "b", "x"], ["b", "a", "c"], []], ids=lambda keys: "".join(keys)
)
def test_a_signal_for_other_rows_or_another_order_is_refused(tmp_path: Path, asked: list[str]) -> None:
    path = tmp_path / "signal.safetensors"
    logits.write(Signal(keys=("a", "b", "c"), logits=torch.zeros(3, 2), hidden=None), path)
    with pytest.raises(IntegrityError, match=r"signal\.safetensors"):
        logits.read(path, asked)
