"""A static student: what it computes, what it learns from whom, and that its file answers as it does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from edgedistill.data.splits import Row
from edgedistill.distill import static
from edgedistill.distill.logits import Signal
from edgedistill.distill.losses import forward_kl
from edgedistill.distill.static import StaticExamples, StaticLesson, StaticShape, StaticStudent
from edgedistill.distill.trainer import Schedule
from edgedistill.runtime.engine_static import Classifier
from edgedistill.teachers import local

LABELS = ("door", "light", "music")
SHAPE = StaticShape(width=8, features=6, labels=3)
PAIRS = StaticShape(width=8, features=6, labels=3, pairs=True)
TEXTS = ("turn the lamp very bright", "song", "please lock my door now", "söng 水!")


@pytest.fixture(scope="module")
def tokenizer(tiny_teacher: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_teacher / "tokenizer.json"))


@pytest.fixture(scope="module")
def train(tiny_rows: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in (tiny_rows / "train.jsonl").read_text().splitlines()]


def student(shape: StaticShape = SHAPE, pieces: int = 140) -> StaticStudent:
    torch.manual_seed(3)
    made = StaticStudent(torch.randn(pieces, shape.width) * static.SPREAD, shape)
    torch.nn.init.normal_(made.bias)
    return made.train(False)


def by_hand(model: StaticStudent, ids: Sequence[int]) -> Tensor:
    """The vector of one text, position by position."""
    tables = model.tables(torch.arange(model.pieces.num_embeddings))
    features = []
    for at, piece in enumerate(ids):
        total = model.bias + tables[piece, 1]
        if at > 0:
            total = total + tables[ids[at - 1], 0]
        if at + 1 < len(ids):
            total = total + tables[ids[at + 1], 2]
        features.append(total.relu())
    return torch.cat((torch.stack(features).amax(dim=0), torch.stack(features).mean(dim=0)))


def logits(model: StaticStudent, ids: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    found: Tensor = model(*static.padded(ids, texts=len(ids[0])))
    return found


def test_a_text_is_the_maximum_and_the_mean_of_what_its_windows_add_up_to() -> None:
    model = student()
    for ids in ([7], [7, 9], [5, 5, 8, 130, 2]):
        torch.testing.assert_close(logits(model, [[ids]])[0], model.head(by_hand(model, ids)))


def test_padding_changes_no_answer() -> None:
    model = student()
    rows = [[[7]], [[5, 5, 8, 130, 2]], [[0, 0]], [[]]]
    alone = torch.cat([logits(model, [row]) for row in rows])
    torch.testing.assert_close(logits(model, rows), alone)


def test_word_order_counts() -> None:
    model = student()
    assert not torch.allclose(logits(model, [[[5, 6, 7]]]), logits(model, [[[7, 6, 5]]]), atol=1e-3)


def test_a_pair_is_both_vectors_their_distance_and_their_product() -> None:
    model = student(PAIRS)
    u, v = by_hand(model, [4, 5, 6]), by_hand(model, [9])
    expected = model.head(torch.cat((u, v, (u - v).abs(), u * v)))
    torch.testing.assert_close(logits(model, [[[4, 5, 6], [9]]])[0], expected)


def test_only_in_training_pieces_and_features_are_hidden() -> None:
    model = student().train(True)
    assert not torch.equal(logits(model, [[[5, 6, 7]]]), logits(model, [[[5, 6, 7]]]))
    model.train(False)
    assert torch.equal(logits(model, [[[5, 6, 7]]]), logits(model, [[[5, 6, 7]]]))


def test_piece_vectors_keep_the_distances_of_the_teachers_view(tiny_teacher: Path, tokenizer: Tokenizer) -> None:
    teacher = local.load(tiny_teacher, LABELS).train(False)
    kept = (10, 90, 20, 61)
    vectors = static.piece_vectors(teacher, tokenizer, kept, 32)
    cls, sep = tokenizer.encode("").ids
    with torch.no_grad():
        seen = [teacher.base_model(input_ids=torch.tensor([[cls, piece, sep]])).last_hidden_state for piece in kept]
    theirs = torch.cdist(*[torch.cat(seen).mean(dim=1)] * 2)
    ours = torch.cdist(vectors, vectors)
    torch.testing.assert_close(ours / ours.max(), theirs / theirs.max(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(vectors.mean(dim=0), torch.zeros(vectors.shape[1]), rtol=0, atol=1e-5)
    assert vectors.std().item() == pytest.approx(static.SPREAD)


def lesson(signal: Signal | None) -> StaticLesson:
    ids = [[[5 + i, 60 - i, *range(i)]] for i in range(6)]
    return StaticLesson(StaticExamples(ids=ids, classes=[0, 1, 2, 0, 1, 2]), signal)


def answers() -> Signal:
    chance = torch.Generator().manual_seed(4)
    return Signal(keys=tuple("abcdef"), logits=torch.randn(6, 3, generator=chance) * 4, hidden=None)


def test_each_row_learns_from_its_own_answer_however_a_step_is_split() -> None:
    model, teaching, signal = student(), lesson(answers()), answers()
    whole = teaching.terms(model, teaching.batch([4, 1, 5, 0]), 0.0)
    parts = [teaching.terms(model, teaching.batch(rows), 0.0) for rows in ([0, 5], [1], [4])]
    for name, total in whole.items():
        torch.testing.assert_close(total, sum((part[name] for part in parts), torch.zeros(())))
    own = teaching.batch([3])
    expected = forward_kl(model(own["ids"], own["mask"]), signal.logits[[3]], 2).sum()
    torch.testing.assert_close(teaching.terms(model, own, 0.0)["kd"], expected)


def test_without_a_teacher_only_the_labels_count() -> None:
    plain = lesson(None)
    assert plain.weights == {"ce": 1.0}
    assert plain.terms(student(), plain.batch([0, 1]), 0.0).keys() == {"ce"}


def distilled(tiny_teacher: Path, tokenizer: Tokenizer, train: list[Row], signal: Signal | None, work: Path) -> Any:
    return static.distil(
        local.load(tiny_teacher, LABELS),
        tokenizer,
        train,
        LABELS,
        signal,
        Schedule(epochs=15, learning_rate=1e-2, batch_tokens=128, checkpoint_steps=1000, seed=1),
        vocabulary=115,
        max_tokens=12,
        work=work,
        shape=StaticShape(width=16, features=12, labels=3),
    )


def saved(model: StaticStudent, tokenizer: Tokenizer, folder: Path, **changes: Any) -> Classifier:
    static.save(model, tokenizer, folder)
    described = {"file": static.MODEL, "labels": list(LABELS), "max_tokens": 12} | changes
    (folder / "manifest.json").write_text(json.dumps({"model": described}))
    return Classifier(folder)


def test_the_saved_file_has_learned_from_the_labels_and_unseen_rows_are_answered_right(
    tiny_teacher: Path, tiny_rows: Path, tokenizer: Tokenizer, train: list[Row], tmp_path: Path
) -> None:
    model, smaller, curve = distilled(tiny_teacher, tokenizer, train, None, tmp_path / "work")
    classifier = saved(model, smaller, tmp_path)
    test = [json.loads(line) for line in (tiny_rows / "test.jsonl").read_text().splitlines()]
    found = classifier([row["text"] for row in test]).argmax(axis=1)
    assert sum(LABELS[best] == row["label"] for best, row in zip(found, test, strict=True)) >= 0.95 * len(test)
    assert curve[-1]["ce"] < curve[0]["ce"] / 3
    assert smaller.get_vocab_size() == 115
    assert not model.training


def test_the_teachers_answers_are_learned_even_where_the_labels_say_otherwise(
    tiny_teacher: Path, tokenizer: Tokenizer, train: list[Row], tmp_path: Path
) -> None:
    shifted = torch.tensor([(LABELS.index(row.label) + 1) % 3 for row in train])
    signal = Signal(keys=tuple(row.key for row in train), logits=8 * torch.eye(3)[shifted], hidden=None)
    model, smaller, _ = distilled(tiny_teacher, tokenizer, train, signal, tmp_path / "work")
    found = saved(model, smaller, tmp_path)([row.text for row in train]).argmax(axis=1)
    assert (torch.from_numpy(found) == shifted).float().mean() > 0.95


def test_the_same_seed_makes_the_same_student_to_the_bit(
    tiny_teacher: Path, tokenizer: Tokenizer, train: list[Row], tmp_path: Path
) -> None:
    states: list[Mapping[str, Tensor]] = []
    for run in ("one", "two"):
        model, _, _ = distilled(tiny_teacher, tokenizer, train[:40], None, tmp_path / run)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("shape", [SHAPE, PAIRS], ids=["texts", "pairs"])
def test_the_saved_file_answers_like_the_student(shape: StaticShape, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = student(shape, tokenizer.get_vocab_size())
    classifier = saved(model, tokenizer, tmp_path)
    texts: list[Any] = list(TEXTS) if shape is SHAPE else [*zip(TEXTS, reversed(TEXTS), strict=True), ("", "song")]
    with torch.no_grad():
        expected = logits(model, static.encode_apart(tokenizer, texts, 12))
    found = torch.from_numpy(classifier(texts))
    # 8 bits: half a step of 1/127 in each of the few numbers that a logit adds up.
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05)
    assert not torch.allclose(found[0], found[1], atol=0.2)  # the tolerance tells texts apart


def test_8_bits_are_half_a_step_off_at_most_and_zeros_stay_zeros() -> None:
    values = torch.randn(5, 3, 40, generator=torch.Generator().manual_seed(1))
    values[2, 1] = 0
    steps, scales = static.in_8_bits(values)
    assert steps.dtype is torch.int8
    assert ((steps * scales[..., None] - values).abs() <= scales[..., None] * 0.501).all()
    assert not steps[2, 1].any()
    assert not scales[2, 1]
