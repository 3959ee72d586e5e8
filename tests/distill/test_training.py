"""Training on tiny real models: what a student starts as, what it learns from, and that a kill changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from edgedistill.distill import logits
from edgedistill.distill.batches import ByTokens, collate, encode, in_order
from edgedistill.distill.losses import forward_kl, hidden_mse, pooled
from edgedistill.distill.student import initialise, unit_importance
from edgedistill.distill.teach import probe_head
from edgedistill.distill.trainer import Examples, Lesson, Schedule, fit
from edgedistill.errors import IntegrityError, StageError
from edgedistill.teachers import local
from edgedistill.types import Shape
from tests.conftest import LABELS

NAMES = sorted(LABELS)
SCHEDULE = Schedule(epochs=4, learning_rate=2e-3, batch_tokens=96, checkpoint_steps=5, seed=3)


@pytest.fixture
def examples(tiny_teacher: Path) -> Examples:
    texts = [
        (f"{word} {filler} now", label)
        for label in NAMES
        for word in LABELS[label]
        for filler in ("the", "my kitchen", "it")
    ]
    tokenizer = Tokenizer.from_file(str(tiny_teacher / "tokenizer.json"))
    ids = encode(tokenizer, [text for text, _ in texts], 32)
    return Examples(ids=ids, classes=[NAMES.index(label) for _, label in texts], pad=0)


def teacher_of(folder: Path) -> Any:
    torch.manual_seed(1)
    return local.load(folder, NAMES)


def shape(**changes: Any) -> Shape:
    sizes = {"layers": (0, 2), "hidden": 32, "ffn": 32, "heads": 4, "vocabulary": 60, "positions": 32, "labels": 3}
    return Shape(**sizes | changes)


def test_forward_kl_is_the_divergence_times_the_squared_temperature() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    found = forward_kl(student, teacher, 2.0)
    p, q = functional.softmax(teacher / 2, -1), functional.softmax(student / 2, -1)
    assert found.item() == pytest.approx(4 * (p * (p / q).log()).sum(-1).mean().item(), rel=1e-5)
    found.backward()
    assert teacher.grad is None
    assert forward_kl(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_pooled_states_do_not_see_padding() -> None:
    states = (torch.randn(2, 3, 4),)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    changed = (states[0].clone(),)
    changed[0][1, 2] = 99.0
    assert torch.equal(pooled(states, mask), pooled(changed, mask))
    assert torch.allclose(pooled(states, mask)[1, 0, 1], states[0][1, :2].mean(0), atol=1e-6)
    assert hidden_mse(pooled(states, mask), pooled(states, mask)).item() == 0


def test_a_student_with_everything_answers_exactly_like_its_teacher(tiny_teacher: Path, examples: Examples) -> None:
    teacher = teacher_of(tiny_teacher)
    size = teacher.config.vocab_size
    importance = unit_importance(teacher, in_order(examples.ids, 0))
    whole = shape(layers=(0, 1, 2), ffn=64, vocabulary=size, positions=64)
    student = initialise(teacher, whole, tuple(range(size)), importance)
    keys = ["k"] * len(examples.ids)
    same = logits.ask(student, examples.ids, keys, hidden=False), logits.ask(teacher, examples.ids, keys, hidden=False)
    assert torch.equal(same[0].logits, same[1].logits)


def test_a_student_is_a_piece_of_its_teacher_and_draws_no_random_numbers(
    tiny_teacher: Path, examples: Examples
) -> None:
    teacher = teacher_of(tiny_teacher)
    importance = unit_importance(teacher, in_order(examples.ids, 0))
    kept = tuple(range(0, 120, 2))
    torch.manual_seed(5)
    first = initialise(teacher, shape(), kept, importance).state_dict()
    torch.manual_seed(6)
    second = initialise(teacher, shape(), kept, importance).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    source = teacher.state_dict()
    assert torch.equal(
        first["bert.embeddings.word_embeddings.weight"], source["bert.embeddings.word_embeddings.weight"][::2][:60]
    )
    units = importance[2].topk(32).indices.sort().values
    assert torch.equal(
        first["bert.encoder.layer.1.intermediate.dense.weight"],
        source["bert.encoder.layer.2.intermediate.dense.weight"][units],
    )


def test_parameters_of_a_shape_are_those_of_the_model(tiny_teacher: Path, examples: Examples) -> None:
    teacher = teacher_of(tiny_teacher)
    importance = unit_importance(teacher, in_order(examples.ids, 0))
    for found in (shape(), shape(layers=(2,), ffn=64)):
        student: Any = initialise(teacher, found, tuple(range(found.vocabulary)), importance)
        assert found.parameters == sum(p.numel() for p in student.parameters())


def test_batched_answers_come_back_in_the_order_of_their_rows(tiny_teacher: Path, examples: Examples) -> None:
    teacher = teacher_of(tiny_teacher)
    keys = [str(i) for i in range(len(examples.ids))]
    together = logits.ask(teacher, examples.ids, keys, hidden=True)
    for row in (0, 7, len(keys) - 1):
        alone = logits.ask(teacher, [examples.ids[row]], ["x"], hidden=False)
        assert torch.allclose(together.logits[row], alone.logits[0], atol=1e-5)


def test_a_signal_refuses_other_rows_and_another_order(tmp_path: Path, tiny_teacher: Path, examples: Examples) -> None:
    keys = [str(i) for i in range(len(examples.ids))]
    signal = logits.ask(teacher_of(tiny_teacher), examples.ids, keys, hidden=True)
    logits.write(signal, tmp_path / "s.safetensors")
    assert torch.equal(logits.read(tmp_path / "s.safetensors", keys).logits, signal.logits)
    for other in (keys[::-1], keys[:-1], [*keys[:-1], "x"]):
        with pytest.raises(IntegrityError):
            logits.read(tmp_path / "s.safetensors", other)


def test_a_probed_head_knows_the_rows_before_any_training(tiny_teacher: Path, examples: Examples) -> None:
    model = teacher_of(tiny_teacher)
    keys = ["k"] * len(examples.ids)
    classes = torch.tensor(examples.classes)
    before = (logits.ask(model, examples.ids, keys, hidden=False).logits.argmax(1) == classes).float().mean()
    probe_head(model, examples)
    after = (logits.ask(model, examples.ids, keys, hidden=False).logits.argmax(1) == classes).float().mean()
    assert after > before + 0.2


def lesson(folder: Path, examples: Examples, **changes: Any) -> Lesson:
    keys = [str(i) for i in range(len(examples.ids))]
    signal = logits.ask(teacher_of(folder), examples.ids, keys, hidden=True)
    settings: dict[str, Any] = {"temperature": 2.0, "kd_weight": 0.9, "hidden_weight": 1.0, "layers": (0, 1, 2)}
    return Lesson(signal=signal, **settings | changes)


def run(folder: Path, examples: Examples, work: Path, **options: Any) -> tuple[Mapping[str, torch.Tensor], Any]:
    model = teacher_of(folder)
    curve = fit(model, examples, SCHEDULE, work=work, **options)
    return {name: value.clone() for name, value in model.state_dict().items()}, curve


def test_a_torn_checkpoint_is_removed_and_the_one_before_is_used(
    tmp_path: Path, tiny_teacher: Path, examples: Examples
) -> None:
    expected, _ = run(tiny_teacher, examples, tmp_path / "whole")

    def stop(done: int, total: int, note: str = "") -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_teacher, examples, tmp_path / "broken", progress=stop)
    weights = tmp_path / "broken" / "checkpoint-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    found, _ = run(tiny_teacher, examples, tmp_path / "broken")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_loss_that_is_no_number_stops_with_its_step(tmp_path: Path, tiny_teacher: Path, examples: Examples) -> None:
    model = teacher_of(tiny_teacher)
    with torch.no_grad():
        model.classifier.weight[0, 0] = torch.nan
    with pytest.raises(StageError, match="at step 1 "):
        fit(model, examples, SCHEDULE, work=tmp_path)


def test_every_loss_term_is_in_the_curve_and_goes_down(tmp_path: Path, tiny_teacher: Path, examples: Examples) -> None:
    _, curve = run(tiny_teacher, examples, tmp_path, lesson=lesson(tiny_teacher, examples, kd_weight=0.5))
    assert set(curve[0]) == {"step", "loss", "ce", "kd", "hidden"}
    assert curve[-1]["ce"] < curve[0]["ce"]


def test_batches_hold_every_row_once_an_epoch_within_their_token_limit() -> None:
    lengths = [3, 9, 4, 30, 5, 5, 8, 100, 6, 7] * 7
    sampler = ByTokens(lengths, 64, epochs=3, seed=1)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 3 * sampler.steps_per_epoch
    for epoch in range(3):
        part = batches[epoch * sampler.steps_per_epoch : (epoch + 1) * sampler.steps_per_epoch]
        assert sorted(row for batch in part for row in batch) == list(range(len(lengths)))
        assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 64 for batch in part)
    assert batches == list(ByTokens(lengths, 64, epochs=3, seed=1))
    assert batches[: sampler.steps_per_epoch] != batches[sampler.steps_per_epoch : 2 * sampler.steps_per_epoch]


def test_a_batch_is_padded_behind_its_texts() -> None:
    batch = collate([[2, 5, 3], [2, 3]], [1, 0], pad=0)
    assert batch["input_ids"].tolist() == [[2, 3, 0], [2, 5, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
