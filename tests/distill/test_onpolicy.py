"""A student writes, its teacher judges, and what is written depends on nothing but the seed, the row and the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from edgedistill.distill import losses
from edgedistill.distill.examples import Example
from edgedistill.distill.lora import with_lora
from edgedistill.distill.onpolicy import OnPolicy, Writing, write
from edgedistill.distill.trainer import fit
from edgedistill.distill.vocab import trim
from edgedistill.errors import InputError
from tests.distill.chats import CORPUS, wrapped
from tests.distill.decoders import VOCABULARY, decoder
from tests.distill.lessons import Killed, chats, killed_at, same, schedule, speaker, student, tokenizer

PROMPTS = ((5, 6, 7, 8, 9, 10, 11), (12,), (5, 30, 21), (33, 7, 7, 20, 6))


@pytest.fixture(scope="module")
def tok() -> Any:
    return tokenizer()


@pytest.fixture(scope="module")
def pieces(tok: Any) -> int:
    return len(tok)


@pytest.fixture(scope="module")
def examples(tok: Any) -> list[Example]:
    return chats(tok)[:12]


def lesson(examples: Sequence[Example], pieces: int, *, beta: float = 0.5, **changes: Any) -> OnPolicy:
    writing = Writing(**({"max_tokens": 8, "seed": 3} | changes))
    return OnPolicy(examples, speaker(pieces), range(pieces), writing, beta=beta)


def chances(rows: int, count: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def by_hand(model: Any, prompt: Sequence[int], numbers: Tensor, pieces: int, ends: set[int], t: float) -> list[int]:
    """One row alone, read whole again for each token."""
    ids = list(prompt)
    for number in numbers.tolist():
        p = (model(input_ids=torch.tensor([ids])).logits[0, -1, :pieces].double() / t).softmax(0)
        ids.append(int((p.cumsum(0) <= number * p.sum()).sum()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize(
    "namesake",
    ["SmolLM2-135M-Instruct", "Mistral-7B-Instruct", "Qwen3-0.6B", "gemma-3-1b-it", "Phi-3-mini-128k-instruct"],
)
def test_a_batch_writes_what_each_row_would_write_alone(namesake: str) -> None:
    model, numbers = decoder(namesake), chances(4, 6)
    found = write(model, PROMPTS, numbers, pieces=VOCABULARY, ends={3, 17}, temperature=0.8)
    for prompt, row, answer in zip(PROMPTS, numbers, found, strict=True):
        assert list(answer) == by_hand(model, prompt, row, VOCABULARY, {3, 17}, 0.8)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_tokens_are_drawn_with_the_probabilities_of_the_student(temperature: float) -> None:
    model, count, known = decoder("SmolLM2-135M-Instruct"), 4000, VOCABULARY - 5
    model.generation_config.top_k = 1
    model.generation_config.repetition_penalty = 3.0
    found = write(model, [PROMPTS[0]] * count, chances(count, 1), pieces=known, ends=set(), temperature=temperature)
    seen = torch.bincount(torch.tensor([answer[0] for answer in found]), minlength=known) / count
    with torch.no_grad():
        expected = (model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1, :known] / temperature).softmax(0)
    assert len(seen) == known
    assert ((seen - expected).abs() < 5 * (expected * (1 - expected) / count).sqrt() + 1e-3).all()


def test_answers_end_with_their_end_or_where_they_are_cut_off() -> None:
    model = decoder("SmolLM2-135M-Instruct")
    ends = set(range(0, VOCABULARY, 4))
    found = write(model, PROMPTS * 8, chances(32, 5), pieces=VOCABULARY, ends=ends, temperature=3.0)
    assert {len(answer) for answer in found} == {1, 2, 3, 4, 5}
    for answer in found:
        assert not ends & set(answer[:-1])
        assert answer[-1] in ends or len(answer) == 5


@pytest.mark.parametrize("training", [True, False])
def test_writing_leaves_dropout_and_the_global_numbers_alone(training: bool) -> None:
    model = decoder("SmolLM2-135M-Instruct", attention_dropout=0.5).train(training)
    state = torch.get_rng_state()
    found = [write(model, PROMPTS, chances(4, 6), pieces=VOCABULARY, ends={3}, temperature=1.0) for _ in range(2)]
    assert found[0] == found[1]  # without dropout
    assert model.training == training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def measured(taught: OnPolicy, model: Any, rows: list[int], done: float = 0.0) -> dict[str, float]:
    return {name: float(value) for name, value in taught.terms(model, taught.batch(rows), done).items()}


@torch.no_grad()
def judged(model: Any, teacher: Any, example: Example, beta: float) -> float:
    """JSD from whole logits, the mean over the answer's tokens."""
    place = slice(example.answer_start - 1, -1)
    ours, theirs = (one(input_ids=torch.tensor([example.ids])).logits[0, place] for one in (model, teacher))
    return float(losses.generalised_jsd(ours, theirs, 1.0, beta).mean())


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_the_loss_is_what_whole_logits_of_the_written_answers_give(
    examples: list[Example], pieces: int, beta: float
) -> None:
    model, taught, rows = student(pieces), lesson(examples, pieces, beta=beta), [5, 0, 11]
    read, count = taught._read(model, rows, 0.25)
    assert [row.ids[: row.answer_start] for row in read] == [
        examples[row].ids[: examples[row].answer_start] for row in rows
    ]
    assert all(row.answer != examples[number].answer for number, row in zip(rows, read, strict=True))
    assert count == sum(len(row.answer) for row in read) <= 24
    found = measured(taught, model, rows, 0.25)
    expected = sum(judged(model, speaker(pieces), row, beta) for row in read)
    assert found == {"kd": pytest.approx(expected, rel=1e-4), "written": count}
    assert taught.items(rows) == 3


def test_rows_that_are_not_written_are_judged_by_their_own_answers(examples: list[Example], pieces: int) -> None:
    model, taught = student(pieces), lesson(examples, pieces, share=0.0)
    found = measured(taught, model, [5, 0])
    expected = sum(judged(model, speaker(pieces), examples[row], 0.5) for row in (5, 0))
    assert found == {"kd": pytest.approx(expected, rel=1e-4), "written": 0}


def test_a_share_of_the_rows_is_written_at_each_step(examples: list[Example], pieces: int) -> None:
    model, taught, rows = student(pieces), lesson(examples, pieces, share=0.3, max_tokens=1), list(range(12))
    counts = [taught._read(model, rows, step / 40)[1] for step in range(40)]
    assert abs(sum(counts) / 480 - 0.3) < 5 * math.sqrt(0.21 / 480)
    assert len(set(counts)) > 2
    one = next(step for step, count in enumerate(counts) if count)
    assert measured(taught, model, rows, one / 40)["written"] == counts[one]


def test_what_a_row_writes_depends_on_the_seed_and_the_step_and_not_on_its_neighbours(
    examples: list[Example], pieces: int
) -> None:
    model, taught = student(pieces), lesson(examples, pieces)
    together = taught._read(model, [1, 4, 7], 0.5)[0]
    torch.rand(5)
    assert taught._read(model, [7, 1], 0.5)[0] == [together[2], together[0]]
    assert lesson(examples, pieces)._read(model, [4], 0.5)[0] == [together[1]]
    assert taught._read(model, [1, 4, 7], 0.6)[0] != together
    assert lesson(examples, pieces, seed=4)._read(model, [1, 4, 7], 0.5)[0] != together
    assert len({row.answer for row in together}) == 3


def test_a_student_comes_nearer_to_its_teacher_on_what_it_writes(
    examples: list[Example], pieces: int, tmp_path: Path
) -> None:
    model, taught = student(pieces), lesson(examples, pieces)
    theirs = {name: weight.clone() for name, weight in taught._teacher.state_dict().items()}
    everything = list(range(12))
    before = sum(measured(taught, model, everything, step)["kd"] for step in (2.0, 3.0))
    curve = fit(model, taught, schedule(epochs=10, learning_rate=5e-3, batch_tokens=640), work=tmp_path)
    assert sum(measured(taught, model, everything, step)["kd"] for step in (2.0, 3.0)) < 0.9 * before
    assert set(curve[0]) == {"loss", "kd", "written", "step"}
    for point in curve:
        assert point["loss"] == pytest.approx(point["kd"])
        assert 1 <= point["written"] <= 8
    # The teacher is as it was, and no checkpoint holds it.
    assert same(taught._teacher.state_dict(), theirs)
    assert not any(parameter.requires_grad for parameter in taught._teacher.parameters())
    newest = max(tmp_path.glob("checkpoint-*"), key=lambda folder: int(folder.name.partition("-")[2]))
    with safe_open(newest / "model.safetensors", "pt") as file:
        assert set(file.keys()) <= set(model.state_dict())
    moments = torch.load(newest / "optimizer.pt", weights_only=True)["state"]
    assert len(moments) == sum(1 for _ in model.parameters())


def test_parts_give_the_curve_of_a_whole_step_and_a_killed_training_that_of_one_that_went_through(
    examples: list[Example], pieces: int, tmp_path: Path
) -> None:
    curves, models = [], []
    for parts in (1, 3):
        models.append(student(pieces))
        taught = lesson(examples, pieces, share=0.7)
        curves.append(
            fit(models[-1], taught, schedule(parts=parts, epochs=3, batch_tokens=240), work=tmp_path / str(parts))
        )
    assert len(curves[0]) == len(curves[1]) >= 6
    for whole, split in zip(*curves, strict=True):
        assert split == pytest.approx(whole, rel=1e-4, abs=1e-4)
    with pytest.raises(Killed):
        fit(
            student(pieces),
            taught,
            schedule(parts=3, epochs=3, batch_tokens=240),
            work=tmp_path / "killed",
            progress=killed_at(4),
        )
    torch.manual_seed(99)
    model, steps = student(pieces), list[int]()
    again = fit(
        model,
        lesson(examples, pieces, share=0.7),
        schedule(parts=3, epochs=3, batch_tokens=240),
        work=tmp_path / "killed",
        progress=lambda done, total, note="": steps.append(done),
    )
    assert steps[0] == 3  # after the checkpoint of step 2
    assert again == curves[1]
    assert same(model.state_dict(), models[1].state_dict())


def test_parts_without_a_row_add_nothing(examples: list[Example], pieces: int) -> None:
    assert measured(lesson(examples, pieces), student(pieces), []) == {"kd": 0.0, "written": 0.0}


def test_a_trimmed_student_is_judged_over_the_pieces_that_it_has(tok: Any, pieces: int) -> None:
    small = trim(tok.backend_tokenizer, CORPUS[:2], size=pieces - 25)
    own = wrapped(small.tokenizer, pad="<|im_end|>", end="<|im_end|>")
    rows, teacher, model = chats(own)[:4], speaker(pieces), student(len(own))
    taught = OnPolicy(rows, teacher, small.kept, Writing(max_tokens=8))
    read = taught._read(model, [2, 0], 0.0)[0]
    expected = 0.0
    for row in read:
        place = slice(row.answer_start - 1, -1)
        with torch.no_grad():
            ours = model(input_ids=torch.tensor([row.ids])).logits[0, place]
            theirs = teacher(input_ids=torch.tensor([[small.kept[number] for number in row.ids]])).logits[0, place]
        expected += float(losses.generalised_jsd(ours, theirs[:, list(small.kept)], 1.0, 0.5).mean())
    assert measured(taught, model, [2, 0])["kd"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("theirs", "ours"), [(160, 152), (152, 160)])
def test_padding_of_a_vocabulary_is_never_written(theirs: int, ours: int) -> None:
    rows = [Example(key=f"{row:064x}", ids=(row, 7, 8, 3), answer_start=2) for row in range(20)]
    model = student(ours)
    with torch.no_grad():
        model.get_input_embeddings().weight[150:] *= 5  # which makes padding likely
    taught = OnPolicy(rows, speaker(theirs), range(150), Writing(max_tokens=10))
    read = taught._read(model, list(range(20)), 0.0)[0]
    assert max(number for row in read for number in row.ids) < 150
    assert math.isfinite(measured(taught, model, [0, 1])["kd"])


def test_adapters_learn_from_what_they_write(examples: list[Example], pieces: int, tmp_path: Path) -> None:
    model = with_lora(student(pieces), 8)
    taught = lesson(examples, pieces)
    before = measured(taught, model, list(range(12)), 2.0)["kd"]
    fit(model, taught, schedule(epochs=6, learning_rate=1e-2), work=tmp_path)
    assert measured(taught, model, list(range(12)), 2.0)["kd"] < 0.9 * before


def test_a_teacher_that_scales_its_logits_in_another_way_is_refused(examples: list[Example], pieces: int) -> None:
    teacher = speaker(pieces)
    teacher.get_output_embeddings().register_forward_hook(
        lambda _module, inputs, logits: logits / 2 if inputs[0].dim() == 3 else logits
    )
    with pytest.raises(InputError, match="not known"):
        OnPolicy(examples, teacher, range(pieces), Writing())
