"""Training learns, repeats itself to the bit, survives a kill, and never mixes up whose answer is whose."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistill.distill import checkpoint, classes, logits, losses, trainer
from edgedistill.distill.classes import Classes, Examples, Teaching
from edgedistill.distill.logits import Signal
from edgedistill.distill.trainer import Schedule, fit
from edgedistill.errors import StageError
from tests.distill.lessons import Killed, killed_at, same

Make = Callable[[], PreTrainedModel]
Curve = tuple[Mapping[str, float], ...]
State = dict[str, Tensor]


def schedule(**changes: Any) -> Schedule:
    settings = {"epochs": 2, "learning_rate": 5e-3, "batch_tokens": 64, "checkpoint_steps": 3, "seed": 11}
    return Schedule(**(settings | changes))


def lesson(examples: Examples, signal: Signal, **changes: Any) -> Classes:
    settings: dict[str, Any] = {"layers": (0, 1, 2), "temperature": (2.0, 2.0), "kd_weight": 0.9, "hidden_weight": 1.0}
    return Classes(examples, Teaching(signal=signal, **(settings | changes)))


def test_the_toy_task_is_learned_from_its_labels(classifier: Make, toy: Examples, tmp_path: Path) -> None:
    model = classifier()
    curve = fit(model, Classes(toy), schedule(epochs=6), work=tmp_path)
    assert curve[0]["loss"] > 0.9
    assert sum(point["loss"] for point in curve[-10:]) / 10 < 0.2
    assert not model.training
    found = logits.ask(model, toy.ids, [""] * len(toy.ids), hidden=False).logits.argmax(dim=1)
    assert (found == torch.tensor(toy.classes)).float().mean() > 0.95


def test_a_student_comes_nearer_to_the_answers_and_the_inside_of_its_teacher(
    classifier: Make, toy: Examples, signal: Signal, tmp_path: Path
) -> None:
    curve = fit(classifier(), lesson(toy, signal), schedule(epochs=4), work=tmp_path)
    for term in ("kd", "hidden"):
        early, late = (sum(point[term] for point in part) for part in (curve[:10], curve[-10:]))
        assert late < 0.7 * early, term


def test_the_loss_is_the_weighted_sum_of_its_terms(
    classifier: Make, toy: Examples, signal: Signal, tmp_path: Path
) -> None:
    curve = fit(classifier(), lesson(toy, signal, hidden_weight=0.5), schedule(epochs=1), work=tmp_path)
    for point in curve:
        expected = 0.9 * point["kd"] + 0.1 * point["ce"] + 0.5 * point["hidden"]
        assert point["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    classifier: Make, toy: Examples, signal: Signal, tmp_path: Path
) -> None:
    found = []
    for number, seed in enumerate((11, 11, 12)):
        model = classifier()
        torch.manual_seed(number)  # what happened before must not matter
        curve = fit(model, lesson(toy, signal), schedule(epochs=1, seed=seed), work=tmp_path / str(number))
        found.append((model.state_dict(), curve))
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert not same(found[0][0], found[2][0])


@pytest.fixture(scope="module")
def finished_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the checkpoints of a training that nobody interrupted are."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture(scope="module")
def uninterrupted(classifier: Make, toy: Examples, signal: Signal, finished_work: Path) -> tuple[State, Curve]:
    model = classifier()
    curve = fit(model, lesson(toy, signal), schedule(), work=finished_work)
    return model.state_dict(), curve


def interrupted(classifier: Make, toy: Examples, signal: Signal, work: Path, step: int) -> None:
    with pytest.raises(Killed):
        fit(classifier(), lesson(toy, signal), schedule(), work=work, progress=killed_at(step))


@pytest.mark.parametrize("step", [2, 8, 20, 30])
def test_a_training_that_was_killed_ends_in_the_same_bits_and_the_same_curve(
    classifier: Make,
    toy: Examples,
    signal: Signal,
    uninterrupted: tuple[State, Curve],
    tmp_path: Path,
    step: int,
) -> None:
    interrupted(classifier, toy, signal, tmp_path / "work", step)
    model, steps = classifier(), list[int]()
    curve = fit(
        model,
        lesson(toy, signal),
        schedule(),
        work=tmp_path / "work",
        progress=lambda done, total, note="": steps.append(done),
    )
    assert steps[0] == (step - 1) // 3 * 3 + 1  # it went on from its newest checkpoint
    assert same(model.state_dict(), uninterrupted[0])
    assert curve == uninterrupted[1]


def test_a_kill_between_two_points_of_the_curve_changes_no_point(
    classifier: Make, toy: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trainer, "LOGGED_POINTS", 6
    )  # of 30 steps: a point every 5; a checkpoint every 3 would fall between
    whole = fit(classifier(), Classes(toy), schedule(), work=tmp_path / "whole")
    with pytest.raises(Killed):
        fit(classifier(), Classes(toy), schedule(), work=tmp_path / "killed", progress=killed_at(13))
    assert fit(classifier(), Classes(toy), schedule(), work=tmp_path / "killed") == whole
    assert [point["step"] for point in whole] == [5, 10, 15, 20, 25, 30]


def test_a_training_that_had_finished_is_not_done_again(
    classifier: Make, toy: Examples, signal: Signal, uninterrupted: tuple[State, Curve], finished_work: Path
) -> None:
    model, steps = classifier(), list[int]()
    curve = fit(
        model,
        lesson(toy, signal),
        schedule(),
        work=finished_work,
        progress=lambda done, total, note="": steps.append(done),
    )
    assert steps == []
    assert same(model.state_dict(), uninterrupted[0])
    assert curve == uninterrupted[1]


def torn(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)


def unsealed(folder: Path) -> None:
    (folder / "entry.json").unlink()


def changed(folder: Path) -> None:
    path = folder / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [torn, unsealed, changed])
def test_a_spoiled_checkpoint_is_removed_and_the_one_before_is_used(
    classifier: Make,
    toy: Examples,
    signal: Signal,
    uninterrupted: tuple[State, Curve],
    tmp_path: Path,
    spoil: Callable[[Path], None],
) -> None:
    work = tmp_path / "work"
    interrupted(classifier, toy, signal, work, 11)
    assert checkpoint.newest(work) == str(work / "checkpoint-9")
    spoil(work / "checkpoint-9")
    assert checkpoint.newest(work) == str(work / "checkpoint-6")
    assert not (work / "checkpoint-9").exists()
    model = classifier()
    assert fit(model, lesson(toy, signal), schedule(), work=work) == uninterrupted[1]
    assert same(model.state_dict(), uninterrupted[0])


def test_without_a_good_checkpoint_training_starts_again(
    classifier: Make, toy: Examples, signal: Signal, uninterrupted: tuple[State, Curve], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    interrupted(classifier, toy, signal, work, 8)
    for folder in work.glob("checkpoint-*"):
        torn(folder)
    model = classifier()
    fit(model, lesson(toy, signal), schedule(), work=work)
    assert same(model.state_dict(), uninterrupted[0])


def test_checkpoints_are_compared_as_numbers(classifier: Make, toy: Examples, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(classifier(), Classes(toy), schedule(), work=tmp_path, progress=killed_at(4))
    for step in (9, 10):
        shutil.copytree(tmp_path / "checkpoint-3", tmp_path / f"checkpoint-{step}")
    assert checkpoint.newest(tmp_path) == str(tmp_path / "checkpoint-10")


def test_a_learning_rate_that_is_too_high_is_named_with_the_step(
    classifier: Make, toy: Examples, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=r"the loss became \S+ at step [3-9] with learning rate \d\S*e\+") as caught:
        fit(classifier(), Classes(toy), schedule(learning_rate=1e38), work=tmp_path)
    assert "lower the learning rate" in str(caught.value.hint)


def test_a_weight_that_is_no_number_stops_the_training_at_its_first_step(
    classifier: Make, toy: Examples, tmp_path: Path
) -> None:
    model = classifier()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(StageError, match="the loss became nan at step 1 "):
        fit(model, Classes(toy), schedule(), work=tmp_path)


def seen_by(model: PreTrainedModel) -> list[list[list[int]]]:
    """Fills up, while the model is trained, with the texts of each batch."""
    batches: list[list[list[int]]] = []

    def record(_module: Any, _arguments: Any, inputs: dict[str, Tensor]) -> None:
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        batches.append([row[:length] for row, length in zip(inputs["input_ids"].tolist(), lengths, strict=True)])

    model.register_forward_pre_hook(record, with_kwargs=True)
    return batches


def test_control_and_student_see_the_same_batches_in_the_same_order(
    classifier: Make, toy: Examples, signal: Signal, tmp_path: Path
) -> None:
    student, control = classifier(), classifier()
    of_student, of_control = seen_by(student), seen_by(control)
    ends = (
        fit(student, lesson(toy, signal), schedule(epochs=1), work=tmp_path / "student")[-1],
        fit(control, Classes(toy), schedule(epochs=1), work=tmp_path / "control")[-1],
    )
    assert of_student == of_control
    assert ends[0]["step"] == ends[1]["step"] == len(of_student)


@pytest.fixture
def numbered() -> tuple[Examples, Signal]:
    """Rows of many lengths, each with its own text, and a signal that holds nothing but their numbers."""
    chance = torch.Generator().manual_seed(4)
    lengths = torch.randint(3, 15, (60,), generator=chance).tolist()
    ids = [[2, 5 + row, *[9] * (length - 3), 3] for row, length in enumerate(lengths)]
    numbers = torch.arange(60.0)
    hidden = (500 * torch.arange(4.0) + numbers[:, None])[..., None, None].expand(60, 4, 2, 32)
    signal = Signal(
        keys=tuple(map(str, range(60))),
        logits=torch.stack((numbers, numbers % 7, -numbers), dim=1),
        hidden=hidden.to(torch.float16),
    )
    return Examples(ids=ids, classes=[row % 3 for row in range(60)], pad=0), signal


@pytest.mark.parametrize("kill", [None, 7])
def test_every_row_meets_its_own_answer_through_shuffling_two_epochs_and_a_kill(
    classifier: Make,
    numbered: tuple[Examples, Signal],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill: int | None,
) -> None:
    examples, signal = numbered
    answers: list[list[float]] = []
    insides: list[Tensor] = []

    def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        answers.append(teacher[:, 0].tolist())
        return losses.forward_kl(student, teacher, temperature)

    def mse(student: Tensor, teacher: Tensor) -> Tensor:
        insides.append(teacher[:, :, 0, 0].float())
        return losses.hidden_mse(student, teacher)

    monkeypatch.setattr(classes, "hidden_mse", mse)
    taught = lesson(examples, signal, kd_weight=1.0, layers=(0, 2, 1), divergence=kl)
    if kill is not None:
        with pytest.raises(Killed):
            fit(classifier(), taught, schedule(), work=tmp_path, progress=killed_at(kill))
        before = (kill - 1) // 3 * 3
        del answers[before:], insides[before:]
    model = classifier()
    texts = seen_by(model)
    fit(model, taught, schedule(), work=tmp_path)
    rows = [[text[1] - 5 for text in batch] for batch in texts]
    done = len(answers) - len(rows)
    assert answers[done:] == rows
    seen = [int(row) for batch in answers for row in batch]
    assert sorted(seen) == sorted([*range(60), *range(60)])  # each row once an epoch
    assert sorted(seen[:60]) == list(range(60))
    assert seen[:60] != seen[60:]
    for batch, inside in zip(answers, insides, strict=True):
        for row, states in zip(batch, inside.tolist(), strict=True):
            assert states == [500 + row, 1500 + row, 1000 + row]  # what layers 0, 2 and 1 put out


def test_a_curve_is_drawn_from_its_highest_to_its_lowest_point() -> None:
    falling = [8.0 - step for step in range(8)]
    assert trainer.drawn(falling) == "█▇▆▅▄▃▂▁"
    assert trainer.drawn([1.0, 1.0]) == "▁▁"
    long = trainer.drawn([1 / (step + 1) for step in range(1000)])
    assert len(long) == trainer.CURVE_WIDTH
    assert (long[0], long[-1]) == ("█", "▁")


def test_the_last_good_checkpoint_is_named_when_the_loss_is_lost(
    classifier: Make, toy: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = Classes.terms

    def lost(lesson: Classes, model: Any, batch: Any, done: float) -> Mapping[str, Tensor]:
        found = terms(lesson, model, batch, done)
        return {name: value * torch.nan for name, value in found.items()} if done > 0.4 else found

    monkeypatch.setattr(Classes, "terms", lost)
    with pytest.raises(StageError, match="the loss became nan at step 14 ") as caught:
        fit(classifier(), Classes(toy), schedule(), work=tmp_path)
    assert "checkpoint-12" in str(caught.value.hint)
