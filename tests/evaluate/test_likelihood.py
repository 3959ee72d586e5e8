"""Cross-entropy and KL of answers are their definitions, whatever the batch, the piece and the vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from edgedistill.distill.examples import Example
from edgedistill.evaluate import likelihood
from edgedistill.evaluate.likelihood import scored
from tests.distill.decoders import NAMESAKES, VOCABULARY, decoder

FAMILIES = ["SmolLM2-135M-Instruct", "gemma-2-2b-it", "Phi-4-mini-instruct"]


def other(family: str, **changes: Any) -> PreTrainedModel:
    """A student of the same family with other weights."""
    model = decoder(family, **changes)
    chance = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=0.1)
    return model


@pytest.fixture
def examples() -> list[Example]:
    chance = torch.Generator().manual_seed(4)
    made = []
    for row in range(9):
        length = int(torch.randint(3, 14, (), generator=chance))
        ids = tuple(torch.randint(0, 30, (length,), generator=chance).tolist())
        made.append(Example(key=str(row), ids=(*ids, 4), answer_start=1 + row % (length - 1)))
    return made


def by_hand(model: PreTrainedModel, teacher: PreTrainedModel, example: Example, kept: list[int]) -> tuple[float, float]:
    """Both sums from the whole models' logits, one row at a time. `kept` are the teacher's ids of the student's."""
    with torch.inference_mode():
        ids = torch.tensor([example.ids])
        mine = model(input_ids=ids).logits[0, example.answer_start - 1 : -1].double()
        said = teacher(input_ids=torch.tensor([[kept[n] for n in example.ids]])).logits[0].double()
    theirs = said[example.answer_start - 1 : -1][:, kept].log_softmax(-1)
    wanted = torch.tensor(example.ids[example.answer_start :])
    cross_entropy = -mine.log_softmax(-1)[torch.arange(len(wanted)), wanted].sum()
    kl = (theirs.exp() * (theirs - mine[:, : len(kept)].log_softmax(-1))).sum()
    return float(cross_entropy), float(kl)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("batch_tokens", "logits"), [(1, 3 * VOCABULARY), (60, 7 * VOCABULARY), (10_000, 2**24)])
def test_sums_are_those_of_whole_logits(
    family: str, batch_tokens: int, logits: int, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "LOGITS", logits)
    teacher, student = decoder(family), other(family)
    found = scored(student, examples, teacher=teacher, batch_tokens=batch_tokens)
    expected = [by_hand(student, teacher, example, list(range(VOCABULARY))) for example in examples]
    assert found.kl is not None
    np.testing.assert_allclose(found.cross_entropy, [e for e, _ in expected], rtol=1e-4)
    np.testing.assert_allclose(found.kl, [k for _, k in expected], rtol=1e-4, atol=1e-5)
    assert found.tokens.tolist() == [len(example.answer) for example in examples]


@pytest.mark.parametrize("border", [16, 24], ids=["one border", "another border than the teacher's"])
def test_with_longrope_a_row_does_not_depend_on_its_neighbours(border: int) -> None:
    teacher = decoder("Phi-3-mini-128k-instruct")
    rope = {**NAMESAKES["Phi-3-mini-128k-instruct"]["rope_parameters"], "original_max_position_embeddings": border}
    student = other("Phi-3-mini-128k-instruct", original_max_position_embeddings=border, rope_parameters=rope)
    chance = torch.Generator().manual_seed(4)
    rows = [
        Example(key=str(length), ids=tuple(torch.randint(0, 30, (length,), generator=chance).tolist()), answer_start=2)
        for length in (6, 16, 17, 20, 24, 25, 40)
    ]
    found = scored(student, rows, teacher=teacher)
    expected = [by_hand(student, teacher, row, list(range(VOCABULARY))) for row in rows]
    assert found.kl is not None
    np.testing.assert_allclose(found.cross_entropy, [e for e, _ in expected], rtol=1e-4)
    np.testing.assert_allclose(found.kl, [k for _, k in expected], rtol=1e-4, atol=1e-5)


def test_a_trimmed_student_is_compared_on_its_own_pieces(examples: list[Example]) -> None:
    family = FAMILIES[0]
    teacher, student = decoder(family), other(family, vocab_size=32)
    kept = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(1))[:32].tolist()
    found = scored(student, examples, teacher=teacher, kept=kept)
    expected = [by_hand(student, teacher, example, kept) for example in examples]
    np.testing.assert_allclose(found.kl, [k for _, k in expected], rtol=1e-4, atol=1e-5)


def test_a_padded_vocabulary_changes_nothing(examples: list[Example]) -> None:
    family = FAMILIES[0]
    teacher, student = decoder(family, vocab_size=VOCABULARY + 8), other(family)
    found = scored(student, examples, teacher=teacher)
    expected = [by_hand(student, teacher, example, list(range(VOCABULARY))) for example in examples]
    np.testing.assert_allclose(found.kl, [k for _, k in expected], rtol=1e-4, atol=1e-5)


def test_a_model_is_no_distance_from_itself_and_without_a_teacher_there_is_no_kl(examples: list[Example]) -> None:
    model = decoder(FAMILIES[0])
    found = scored(model, examples, teacher=model)
    np.testing.assert_allclose(found.kl, 0, atol=1e-6)
    assert scored(model, examples).kl is None
