"""What a decoder learns from its teacher's inside: the right positions of the right layers, however a step is split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistill.distill import losses
from edgedistill.distill.batches import in_order
from edgedistill.distill.decoder import Importance, importance_of, initialise
from edgedistill.distill.decoder_shape import shape_of
from edgedistill.distill.examples import Example
from edgedistill.distill.inside import Inside, Matching
from edgedistill.distill.lora import with_lora
from edgedistill.distill.tokens import Answers
from edgedistill.distill.trainer import fit
from edgedistill.errors import InputError
from tests.distill.decoders import decoder
from tests.distill.lessons import chats, schedule, speaker, student, tokenizer

ROWS = [5, 0, 17, 8]
BOTH = Matching(hidden_weight=1.0, relation_weight=1.0)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return chats(tokenizer())


@pytest.fixture(scope="module")
def pieces() -> int:
    return len(tokenizer())


@pytest.fixture(scope="module")
def teacher(pieces: int) -> PreTrainedModel:
    return speaker(pieces)


@pytest.fixture(scope="module")
def importance(teacher: PreTrainedModel, examples: list[Example]) -> Importance:
    return importance_of(teacher, in_order([example.ids for example in examples], 0))


def piece(teacher: PreTrainedModel, *, importance: Importance | None = None, **changes: Any) -> PreTrainedModel:
    return initialise(teacher, dataclasses.replace(shape_of(teacher), **changes), None, importance)


def looking(
    examples: Sequence[Example],
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    *,
    matching: Matching = BOTH,
    kept: Sequence[int] | None = None,
    **given: Any,
) -> Inside:
    kept = range(shape_of(teacher).vocabulary) if kept is None else kept
    return Inside(Answers(examples, 0), model, teacher, kept, matching, **given)


def measured(lesson: Inside, model: Any, rows: list[int]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in lesson.terms(model, lesson.batch(rows), 0.0).items()}


@torch.no_grad()
def inside(model: Any, example: Example) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """All hidden states of a row on its own, and queries, keys and values of the last layer made by hand."""
    states = model(input_ids=torch.tensor([example.ids]), output_hidden_states=True).hidden_states
    last = model.model.layers[-1]
    normed = last.input_layernorm(states[-2])
    attention = last.self_attn
    return states, [part(normed) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]


def test_a_student_that_is_its_teacher_has_nothing_to_learn_inside(
    examples: list[Example], teacher: PreTrainedModel
) -> None:
    model = piece(teacher)
    found = measured(looking(examples, model, teacher, layers=(0, 1, 2)), model, ROWS)
    assert found["hidden"] == 0
    assert float(found["relation"]) == pytest.approx(0, abs=1e-4)
    assert found["ce"] > 0


def test_the_distances_are_those_of_answer_tokens_of_whole_rows(
    examples: list[Example], teacher: PreTrainedModel
) -> None:
    model = piece(teacher, layers=(0, 2))
    found = measured(looking(examples, model, teacher, layers=(0, 2)), model, ROWS)
    hidden, relation = 0.0, 0.0
    for example in (examples[row] for row in ROWS):
        (ours, our_parts), (theirs, their_parts) = inside(model, example), inside(teacher, example)
        for position in range(example.answer_start - 1, len(example.ids) - 1):
            pairs = ((ours[1], theirs[1]), (ours[2], theirs[3]))
            hidden += sum(float(((a[0, position] - b[0, position]) ** 2).mean()) for a, b in pairs) / 2
        of_row = losses.attention_relation(our_parts, their_parts, torch.ones(1, len(example.ids)), 2)
        relation += len(example.answer) * float(of_row)
    assert float(found["hidden"]) == pytest.approx(hidden, rel=1e-4)
    assert float(found["relation"]) == pytest.approx(relation, rel=1e-3)
    assert min(hidden, relation) > 0.1


def test_pieces_are_the_teachers_by_their_own_numbers(examples: list[Example], teacher: PreTrainedModel) -> None:
    kept = sorted({number for example in examples for number in example.ids} | {1, 2, 3, 4})
    new = {number: place for place, number in enumerate(kept)}
    trimmed = [dataclasses.replace(example, ids=tuple(new[i] for i in example.ids)) for example in examples]
    model = initialise(teacher, dataclasses.replace(shape_of(teacher), vocabulary=len(kept)), kept)
    lesson = looking(trimmed, model, teacher, kept=kept, layers=(0, 1, 2))
    assert measured(lesson, model, ROWS)["hidden"] == 0
    wrong = looking(trimmed, model, teacher, kept=kept[::-1], layers=(0, 1, 2))
    assert measured(wrong, model, ROWS)["hidden"] > 1


def test_the_gradient_reaches_the_projection_of_a_narrower_student_and_not_the_teacher(
    examples: list[Example], teacher: PreTrainedModel, importance: Importance, tmp_path: Path
) -> None:
    model = piece(teacher, importance=importance, layers=(0, 2), hidden=24)
    before = torch.get_rng_state()
    lesson = looking(examples, model, teacher, layers=(0, 2), importance=importance)
    assert torch.equal(torch.get_rng_state(), before)
    weight: Any = lesson.projection.weight  # type: ignore[union-attr]
    assert weight.shape == (48, 24)
    # At the start it only puts what was kept where it was.
    assert weight.sum(dim=1).nonzero().flatten().tolist() == importance.hidden.topk(24).indices.sort().values.tolist()
    model.train(True)
    lesson.terms(model, lesson.batch(ROWS), 0.0)["hidden"].backward()
    assert weight.grad.abs().min(dim=1).values.max() > 0
    assert model.get_input_embeddings().weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    curve = fit(model, lesson, schedule(epochs=8, learning_rate=5e-3), work=tmp_path)
    assert curve[-1]["hidden"] < 0.8 * curve[0]["hidden"]
    assert curve[-1]["relation"] < curve[0]["relation"]
    assert curve[0]["loss"] == pytest.approx(sum(curve[0][name] for name in ("ce", "hidden", "relation")), rel=1e-4)


def test_the_total_does_not_depend_on_how_rows_are_split(
    examples: list[Example], teacher: PreTrainedModel, importance: Importance, tmp_path: Path
) -> None:
    model = piece(teacher, importance=importance, layers=(0, 2), hidden=24)
    lesson = looking(examples, model, teacher, layers=(0, 2), importance=importance)
    whole = measured(lesson, model, ROWS)
    halves = [measured(lesson, model, rows) for rows in (ROWS[:1], ROWS[1:], [])]
    for name in ("loss", "hidden", "relation"):
        assert sum(float(half[name]) for half in halves) == pytest.approx(float(whole[name]), rel=1e-4)
        assert float(halves[-1][name]) == 0
    curves = []
    for parts in (1, 2):
        fresh = piece(teacher, importance=importance, layers=(0, 2), hidden=24)
        lesson = looking(examples, fresh, teacher, layers=(0, 2), importance=importance)
        curves.append(fit(fresh, lesson, schedule(epochs=1, parts=parts), work=tmp_path / str(parts)))
    for one, two in zip(*curves, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("namesake", ["Phi-4-mini-instruct", "gemma-3-1b-it", "Qwen3-0.6B"])
def test_every_way_to_make_queries_keys_and_values_is_known(
    examples: list[Example], pieces: int, namesake: str
) -> None:
    changes: dict[str, Any] = {"vocab_size": pieces, "max_position_embeddings": 128, "num_key_value_heads": 2}
    if namesake.startswith("Phi"):
        changes["original_max_position_embeddings"] = 128
    teacher = decoder(namesake, **changes)
    for layers, least in (((0, 1, 2), 0.0), ((0, 2), 1e-2)):
        model = piece(teacher, layers=layers)
        found = measured(looking(examples, model, teacher, layers=layers), model, ROWS)
        assert least <= float(found["relation"]) < (1e-3 if not least else torch.inf)


def test_adapters_learn_from_the_inside(examples: list[Example], teacher: PreTrainedModel) -> None:
    model = piece(teacher, layers=(0, 2))
    lesson = looking(examples, model, teacher, layers=(0, 2))
    adapted: Any = with_lora(model, 2)
    found = lesson.terms(adapted, lesson.batch(ROWS), 0.0)
    (found["hidden"] + found["relation"]).backward()
    slopes = [parameter.grad for name, parameter in adapted.named_parameters() if "lora_B" in name]
    assert slopes
    assert all(slope is not None for slope in slopes)


def test_relations_need_no_layer_in_common_and_hidden_states_do(
    examples: list[Example], pieces: int, teacher: PreTrainedModel
) -> None:
    other = student(pieces, num_attention_heads=4, hidden_size=32, num_key_value_heads=4)
    found = measured(looking(examples, other, teacher, matching=Matching(relation_weight=1.0)), other, ROWS)
    assert found.keys() == {"loss", "ce", "relation"}
    assert found["relation"] > 0
    for model, layers in ((other, None), (piece(teacher, layers=(0, 1)), (0, 1))):
        with pytest.raises(InputError, match="no such piece"):
            looking(examples, model, teacher, layers=layers)
