"""A student starts as a piece of its teacher: which weights it has, and that it has no others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistill.distill.batches import collate
from edgedistill.distill.student import initialise, unit_importance
from edgedistill.types import Shape

KEPT = (0, 1, 2, 3, 4, 10, 20, 21, 50)


def shape(**changes: object) -> Shape:
    sizes = {"layers": (0, 2), "hidden": 32, "ffn": 32, "heads": 4, "vocabulary": 9, "positions": 16, "labels": 3}
    return Shape(**(sizes | changes))  # type: ignore[arg-type]


@pytest.fixture
def importance() -> Tensor:
    return torch.rand(3, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def student(shaken: PreTrainedModel, importance: Tensor) -> PreTrainedModel:
    return initialise(shaken, shape(), KEPT, importance)


def test_the_students_sizes_are_those_of_its_shape(student: PreTrainedModel) -> None:
    config = student.config
    assert (config.num_hidden_layers, config.intermediate_size, config.vocab_size) == (2, 32, 9)
    assert config.max_position_embeddings == 16
    assert sum(parameter.numel() for parameter in student.parameters()) == shape().parameters


def test_each_piece_keeps_its_own_embedding(student: PreTrainedModel, shaken: PreTrainedModel) -> None:
    theirs, ours = (model.get_parameter("bert.embeddings.word_embeddings.weight") for model in (shaken, student))
    for new, old in enumerate(KEPT):
        assert torch.equal(ours[new], theirs[old])


def test_each_layer_is_the_teachers_layer_that_was_chosen(
    student: PreTrainedModel, shaken: PreTrainedModel, importance: Tensor
) -> None:
    for ours, theirs in ((0, 0), (1, 2)):
        mine = student.get_submodule(f"bert.encoder.layer.{ours}").state_dict()
        original = shaken.get_submodule(f"bert.encoder.layer.{theirs}").state_dict()
        strongest = sorted(sorted(range(64), key=lambda unit: -importance[theirs, unit].item())[:32])
        for name, weight in original.items():
            if name.startswith("intermediate"):
                weight = weight[strongest]
            elif name == "output.dense.weight":
                weight = weight[:, strongest]
            assert torch.equal(mine[name], weight), name


def test_the_rest_is_copied_whole(student: PreTrainedModel, shaken: PreTrainedModel) -> None:
    theirs = shaken.state_dict()
    for name, weight in student.state_dict().items():
        if name == "bert.embeddings.position_embeddings.weight":
            assert torch.equal(weight, theirs[name][:16])
        elif ".layer." not in name and "word_embeddings" not in name:
            assert torch.equal(weight, theirs[name]), name


def test_a_student_of_everything_answers_exactly_like_its_teacher(
    shaken: PreTrainedModel, importance: Tensor, ragged: list[list[int]]
) -> None:
    size = shaken.config.vocab_size
    whole = shape(layers=(0, 1, 2), ffn=64, vocabulary=size, positions=64)
    student = initialise(shaken, whole, tuple(range(size)), importance)
    batch = collate(ragged, range(len(ragged)), 0)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.inference_mode():
        assert torch.equal(student(**inputs).logits, shaken(**inputs).logits)


def test_a_student_of_fewer_pieces_answers_the_same_to_texts_of_those_pieces(
    shaken: PreTrainedModel, importance: Tensor
) -> None:
    student = initialise(shaken, shape(layers=(0, 1, 2), ffn=64), KEPT, importance)
    with torch.inference_mode():
        ours = student(input_ids=torch.tensor([[2, 7, 5, 8, 3]])).logits
        theirs = shaken(input_ids=torch.tensor([[2, 21, 10, 50, 3]])).logits
    torch.testing.assert_close(ours, theirs)


def test_no_weight_of_a_student_is_random(shaken: PreTrainedModel, importance: Tensor) -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(initialise(shaken, shape(), KEPT, importance).state_dict())
    assert states[0].keys() == states[1].keys()
    for name, weight in states[0].items():
        assert torch.equal(weight, states[1][name]), name


def test_changing_the_student_leaves_its_teacher_as_it_was(shaken: PreTrainedModel, importance: Tensor) -> None:
    before = {name: weight.clone() for name, weight in shaken.state_dict().items()}
    student = initialise(shaken, shape(), KEPT, importance)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert all(torch.equal(weight, before[name]) for name, weight in shaken.state_dict().items())
    assert shaken.config.num_hidden_layers == 3


def test_the_padding_piece_is_found_under_its_new_number(shaken: PreTrainedModel, importance: Tensor) -> None:
    shaken.config.pad_token_id = 20
    assert initialise(shaken, shape(), KEPT, importance).config.pad_token_id == KEPT.index(20)


def by_hand(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Sum over the positions of one text of |activation|, times the norm of what the unit writes. [layers, units]."""
    found = []
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        for number in range(model.config.num_hidden_layers):
            layer = model.get_submodule(f"bert.encoder.layer.{number}")
            mixed = layer.get_submodule("attention")(states[number])[0]
            kernel, bias = (layer.get_parameter(f"intermediate.dense.{part}") for part in ("weight", "bias"))
            wide = mixed.reshape(len(ids), -1) @ kernel.T + bias
            active = wide * 0.5 * (1 + torch.erf(wide / 2**0.5))
            written = layer.get_parameter("output.dense.weight")
            found.append(active.abs().sum(dim=0) * (written**2).sum(dim=0).sqrt())
    return torch.stack(found)


def test_a_unit_counts_by_what_it_says_and_how_loud_it_is_heard(
    shaken: PreTrainedModel, ragged: list[list[int]]
) -> None:
    expected = sum(by_hand(shaken, ids) for ids in ragged)
    assert isinstance(expected, Tensor)
    found = unit_importance(shaken, [collate(ragged, [row], 0) for row in range(len(ragged))])
    assert found.shape == (3, 64)
    torch.testing.assert_close(found / found.sum(), expected / expected.sum(), rtol=1e-4, atol=1e-7)


def test_padding_does_not_change_what_counts(shaken: PreTrainedModel, ragged: list[list[int]]) -> None:
    alone = unit_importance(shaken, [collate(ragged, [row], 0) for row in range(len(ragged))])
    together = unit_importance(shaken, [collate(ragged, range(len(ragged)), 0)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_no_hook_stays_on_the_teacher(shaken: PreTrainedModel, ragged: list[list[int]]) -> None:
    unit_importance(shaken, [collate(ragged, [0, 1], 0)])
    assert not [name for name, module in shaken.named_modules() if module._forward_hooks]
