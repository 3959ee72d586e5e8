"""A decoder learns its answers and what its teachers would have said, each token from the right teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgedistill.distill import losses, signals, tokens
from edgedistill.distill.examples import Example
from edgedistill.distill.lora import merged, with_lora
from edgedistill.distill.signals import ABSENT, Signals, Sparse
from edgedistill.distill.tokens import Answers, Judgement, Teaching, shares
from edgedistill.distill.trainer import fit
from edgedistill.distill.vocab import trim
from tests.distill.chats import CORPUS, wrapped
from tests.distill.lessons import (
    Killed,
    asked,
    chats,
    killed_at,
    same,
    schedule,
    source,
    speaker,
    student,
    tokenizer,
)


@pytest.fixture(scope="module")
def tok() -> Any:
    return tokenizer()


@pytest.fixture(scope="module")
def pieces(tok: Any) -> int:
    return len(tok)


@pytest.fixture(scope="module")
def examples(tok: Any) -> list[Example]:
    return chats(tok)


@pytest.fixture(scope="module")
def said(examples: list[Example], pieces: int, tmp_path_factory: pytest.TempPathFactory) -> Signals:
    """A teacher's whole distributions."""
    return asked(speaker(pieces), examples, tmp_path_factory.mktemp("said"), pieces, k=pieces)


def taught(*judged: Signals, kd_weight: float = 0.7, **changes: Any) -> Teaching:
    return Teaching(judgements=[Judgement(signals=one) for one in judged], kd_weight=kd_weight, **changes)


@torch.no_grad()
def logits_at(model: Any, example: Example) -> Tensor:
    """Of the tokens that predict the answer, [items, vocabulary]; the row on its own and whole."""
    found: Tensor = model(input_ids=torch.tensor([example.ids])).logits[0, example.answer_start - 1 : -1]
    return found


@torch.no_grad()
def measured(lesson: Answers, model: Any, rows: list[int], done: float = 0.0) -> dict[str, float]:
    return {name: float(value) for name, value in lesson.terms(model, lesson.batch(rows), done).items()}


def test_the_loss_is_what_whole_logits_give(examples: list[Example], said: Signals, pieces: int) -> None:
    model, teacher = student(pieces), speaker(pieces)
    rows, ce, kd = [5, 0, 17], 0.0, 0.0
    for example in (examples[row] for row in rows):
        ours, theirs = logits_at(model, example), logits_at(teacher, example)
        ce += float(losses.cross_entropy(ours, torch.tensor(example.answer)).sum())
        kd += float(losses.forward_kl(ours, theirs, 1.5).sum())
    found = measured(Answers(examples, 0, taught(said, temperature=(1.0, 2.0))), model, rows, done=0.5)
    assert found["ce"] == pytest.approx(ce, rel=1e-4)
    assert found["kd"] == pytest.approx(kd, rel=1e-2)  # the cache holds float16
    assert found["loss"] == pytest.approx(0.3 * found["ce"] + 0.7 * found["kd"], rel=1e-5)


def test_the_answer_and_its_end_are_learned_and_nothing_else(examples: list[Example], tok: Any, pieces: int) -> None:
    assert tok.pad_token_id == tok.eos_token_id == examples[3].ids[-1]
    lesson, model = Answers(examples, tok.pad_token_id), student(pieces)
    assert lesson.items([3, 4]) == len(examples[3].answer) + len(examples[4].answer)
    loss = lesson.terms(model, lesson.batch([3, 4]), 0.0)["loss"]
    slopes = torch.autograd.grad(loss, model.get_output_embeddings().weight)[0]
    # By hand: every answer token's −log q, summed, and its gradient at the head.
    model.zero_grad()
    whole = torch.zeros(())
    for example in (examples[3], examples[4]):
        logits = model(input_ids=torch.tensor([example.ids])).logits[0]
        logq = logits[example.answer_start - 1 : -1].log_softmax(-1)
        whole = whole - logq.gather(1, torch.tensor(example.answer)[:, None]).sum()
    torch.testing.assert_close(loss, whole, rtol=1e-5, atol=0)
    expected = torch.autograd.grad(whole, model.get_output_embeddings().weight)[0]
    torch.testing.assert_close(slopes, expected, rtol=1e-4, atol=1e-4)


def test_a_student_stops_where_its_rows_end_even_if_padding_is_the_end(
    examples: list[Example], tok: Any, pieces: int, tmp_path: Path
) -> None:
    model = student(pieces)
    fit(model, Answers(examples[:3], tok.pad_token_id), schedule(epochs=40, learning_rate=5e-3), work=tmp_path)
    for example in examples[:3]:
        assert logits_at(model, example).argmax(dim=1).tolist() == list(example.answer)


def test_a_step_in_three_parts_gives_the_curve_of_a_whole_one(
    examples: list[Example], said: Signals, pieces: int, tmp_path: Path
) -> None:
    curves = []
    for parts in (1, 3):
        model = student(pieces)
        curves.append(fit(model, Answers(examples, 0, taught(said)), schedule(parts=parts), work=tmp_path / str(parts)))
    assert len(curves[0]) == len(curves[1]) == 8
    for whole, split in zip(*curves, strict=True):
        assert split == pytest.approx(whole, rel=1e-4, abs=1e-4)


def test_parts_without_a_row_add_nothing(examples: list[Example], said: Signals, pieces: int, tmp_path: Path) -> None:
    found = measured(Answers(examples, 0, taught(said)), student(pieces), [])
    assert found == {"loss": 0.0, "ce": 0.0, "kd": 0.0}
    curve = fit(student(pieces), Answers(examples[:2], 0), schedule(parts=3, epochs=1), work=tmp_path)
    assert curve[0]["loss"] == pytest.approx(curve[0]["ce"])


def test_a_student_comes_nearer_to_its_teacher(
    examples: list[Example], said: Signals, pieces: int, tmp_path: Path
) -> None:
    model = student(pieces)
    lesson = Answers(examples, 0, taught(said, kd_weight=1.0))
    everything = list(range(len(examples)))
    before = measured(lesson, model, everything)["kd"]
    curve = fit(model, lesson, schedule(epochs=10, learning_rate=5e-3), work=tmp_path)
    assert measured(lesson, model, everything)["kd"] < 0.6 * before
    assert sum(point["kd"] for point in curve[-5:]) < 0.6 * sum(point["kd"] for point in curve[:5])


def pairs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """Fills up, while a model is trained, with the tokens to learn and the ids that a teacher named likeliest."""
    found: list[tuple[list[int], list[int]]] = []
    real = tokens.sparse

    def record(hidden: Tensor, head: Any, wanted: Tensor, ids: Tensor, *rest: Any, **settings: Any) -> Any:
        found.append((wanted.tolist(), ids[:, 0].tolist()))
        return real(hidden, head, wanted, ids, *rest, **settings)

    monkeypatch.setattr(tokens, "sparse", record)
    return found


@pytest.mark.parametrize("kill", [None, 5])
def test_every_row_meets_its_own_signal_through_shuffling_two_epochs_and_a_kill(
    examples: list[Example], pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: int | None
) -> None:
    teacher = speaker(pieces)
    said = asked(teacher, examples, tmp_path, pieces, k=3)
    likeliest = {row.answer: logits_at(teacher, row).argmax(dim=1).tolist() for row in examples}
    assert len(likeliest) == len(examples)
    plan = schedule(epochs=2)
    whole = fit(student(pieces), Answers(examples, 0, taught(said)), plan, work=tmp_path / "whole")
    seen = pairs(monkeypatch)
    if kill is not None:
        with pytest.raises(Killed):
            fit(
                student(pieces), Answers(examples, 0, taught(said)), plan, work=tmp_path / "w", progress=killed_at(kill)
            )
        del seen[(kill - 1) // 2 * 2 :]
    model = student(pieces)
    assert fit(model, Answers(examples, 0, taught(said)), plan, work=tmp_path / "w") == whole
    met = []
    for wanted, named in seen:
        start = 0
        while start < len(wanted):
            answer = next(a for a in likeliest if tuple(wanted[start : start + len(a)]) == a)
            assert named[start : start + len(answer)] == likeliest[answer]
            met.append(answer)
            start += len(answer)
    half = len(examples)
    assert set(met[:half]) == set(met[half:]) == set(likeliest)
    assert len(met) == 2 * half
    assert met[:half] != met[half:]


def test_a_killed_training_ends_in_the_same_bits(
    examples: list[Example], said: Signals, pieces: int, tmp_path: Path
) -> None:
    models = [student(pieces), student(pieces)]
    lesson = Answers(examples, 0, taught(said, temperature=(2.0, 1.0)))
    whole = fit(models[0], lesson, schedule(), work=tmp_path / "whole")
    with pytest.raises(Killed):
        fit(student(pieces), lesson, schedule(), work=tmp_path / "killed", progress=killed_at(6))
    assert fit(models[1], lesson, schedule(), work=tmp_path / "killed") == whole
    assert same(models[0].state_dict(), models[1].state_dict())


def test_a_trimmed_student_learns_from_its_teachers_signals_and_from_answers_alone_where_it_spells_otherwise(
    tok: Any, pieces: int, examples: list[Example], tmp_path: Path
) -> None:
    small = trim(tok.backend_tokenizer, CORPUS[:2], size=pieces - 25)
    own = wrapped(small.tokenizer, pad="<|im_end|>", end="<|im_end|>")
    assert len(own) < pieces
    teacher = speaker(pieces)
    asked(teacher, examples, tmp_path, pieces, k=pieces)
    rows = chats(own)
    said = signals.read(tmp_path / "t", source(pieces), rows, vocabulary=len(own), kept=small.kept)
    usable = [number for number, row in enumerate(rows) if row.key not in said.unusable]
    unusable = [number for number, row in enumerate(rows) if row.key in said.unusable]
    assert usable
    assert unusable
    model = student(len(own))
    lesson = Answers(rows, 0, taught(said))
    alone = measured(Answers(rows, 0), model, unusable)
    found = measured(lesson, model, unusable)
    assert found["kd"] == 0
    assert found["loss"] == pytest.approx(0.3 * alone["ce"], rel=1e-5)
    assert measured(lesson, model, usable)["kd"] > 0
    expected = 0.0
    for row in usable:
        mine, theirs = logits_at(model, rows[row]), logits_at(teacher, examples[row])
        p, log_q = theirs.softmax(-1)[:, torch.tensor(small.kept)], mine.log_softmax(-1)
        rest = (1 - p.sum(1)).clamp(min=1e-9)
        # All that the student cannot say is one more outcome, which it gives 0: the pieces it has are compared.
        p = p / (1 - rest)[:, None]
        expected += float((p * (p.log() - log_q)).sum())
    assert measured(lesson, model, usable)["kd"] == pytest.approx(expected, rel=2e-2)
    before = measured(lesson, model, usable)["kd"]
    fit(model, lesson, schedule(epochs=4), work=tmp_path / "work")
    assert measured(lesson, model, usable)["kd"] < 0.8 * before


@pytest.mark.parametrize(("theirs", "ours"), [(160, 152), (152, 160)])
def test_padded_vocabularies_of_one_family_fit(tmp_path: Path, theirs: int, ours: int) -> None:
    chance = torch.Generator().manual_seed(3)
    rows = [
        Example(key=f"{row:064x}", ids=tuple(torch.randint(0, 150, (9,), generator=chance).tolist()), answer_start=4)
        for row in range(12)
    ]
    teacher, model = speaker(theirs), student(ours)
    asked(teacher, rows, tmp_path, 150, k=150)
    lesson = Answers(rows, 0, taught(signals.read(tmp_path / "t", source(150), rows, vocabulary=ours), kd_weight=1.0))
    p = logits_at(teacher, rows[2])[:, :150].softmax(-1)
    log_q = logits_at(model, rows[2]).log_softmax(-1)[:, :150]
    # What rounding leaves of the teacher's 1 stands against the mass of the student's padding.
    assert measured(lesson, model, [2])["kd"] == pytest.approx(float((p * (p.log() - log_q)).sum()), rel=1e-2, abs=1e-2)
    before = measured(lesson, model, list(range(12)))["kd"]
    fit(model, lesson, schedule(epochs=20, batch_tokens=64), work=tmp_path / "work")
    assert measured(lesson, model, list(range(12)))["kd"] < 0.7 * before


def test_adapters_learn_and_the_merged_student_answers_as_they_did(
    examples: list[Example], said: Signals, pieces: int, tmp_path: Path
) -> None:
    plain = student(pieces)
    before = {name: weight.clone() for name, weight in plain.state_dict().items()}
    model = with_lora(plain, 8)
    lesson = Answers(examples, 0, taught(said, kd_weight=1.0))
    everything = list(range(len(examples)))
    first = measured(lesson, model, everything)["kd"]
    fit(model, lesson, schedule(epochs=8, learning_rate=1e-2), work=tmp_path)
    last = measured(lesson, model, everything)
    assert last["kd"] < 0.9 * first
    done = merged(model)
    assert measured(lesson, done, everything) == pytest.approx(last, rel=1e-4)
    after = done.state_dict()
    assert after.keys() == before.keys()
    moved = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert {"q_proj", "down_proj"} <= moved
    assert not moved & {"embed_tokens", "norm"}


def test_two_teachers_are_weighed_against_each_other(
    examples: list[Example], said: Signals, pieces: int, tmp_path: Path
) -> None:
    other = asked(speaker(pieces, seed=9), examples, tmp_path, pieces, teacher="u", k=pieces)
    model, rows = student(pieces), [0, 9, 4]
    first, second = (measured(Answers(examples, 0, taught(one)), model, rows) for one in (said, other))
    teaching = Teaching(
        judgements=[Judgement(signals=said, weight=3.0), Judgement(signals=other, weight=1)], kd_weight=0.7
    )
    found = measured(Answers(examples, 0, teaching), model, rows)
    assert found["kd"] == pytest.approx(0.75 * first["kd"] + 0.25 * second["kd"], rel=1e-4)
    assert found["ce"] == pytest.approx(first["ce"], rel=1e-6)
    assert found["loss"] == pytest.approx(0.3 * found["ce"] + 0.7 * found["kd"], rel=1e-5)


def test_a_column_of_the_rows_chooses_the_teacher(
    examples: list[Example], said: Signals, pieces: int, tmp_path: Path
) -> None:
    other = asked(speaker(pieces, seed=9), examples, tmp_path, pieces, teacher="u", k=pieces)
    model, column = student(pieces), ["t" if row % 3 else "u" for row in range(len(examples))]
    judged = [
        Judgement(signals=one, weight=[float(name == wanted) for wanted in column])
        for name, one in (("t", said), ("u", other))
    ]
    lesson = Answers(examples, 0, Teaching(judgements=judged, kd_weight=0.7))
    for rows, one in (([1, 2, 4], said), ([0, 3], other)):
        assert measured(lesson, model, rows) == pytest.approx(measured(Answers(examples, 0, taught(one)), model, rows))
    mixed = sum(measured(lesson, model, rows)["kd"] for rows in ([1, 2], [3]))
    assert measured(lesson, model, [2, 3, 1])["kd"] == pytest.approx(mixed, rel=1e-4)


def test_a_step_of_two_teachers_may_be_split_as_well(
    examples: list[Example], said: Signals, pieces: int, tmp_path: Path
) -> None:
    other = asked(speaker(pieces, seed=9), examples, tmp_path, pieces, teacher="u", mode="sampled", k=20)
    teaching = Teaching(
        judgements=[Judgement(signals=said), Judgement(signals=other, sampled=True)],
        kd_weight=0.7,
        by_confidence=True,
    )
    curves = [
        fit(
            student(pieces), Answers(examples, 0, teaching), schedule(epochs=1, parts=parts), work=tmp_path / str(parts)
        )
        for parts in (1, 2)
    ]
    for whole, split in zip(*curves, strict=True):
        assert split == pytest.approx(whole, rel=1e-4, abs=1e-4)


def spoken(*rows: list[tuple[int, float]]) -> Sparse:
    """A signal of an item a row: its ids and probabilities."""
    width = max(1, *map(len, rows))
    ids = torch.tensor([[number for number, _ in row] + [0] * (width - len(row)) for row in rows])
    known = [[torch.tensor(p).log().item() for _, p in row] + [ABSENT] * (width - len(row)) for row in rows]
    return Sparse(ids=ids, logprobs=torch.tensor(known), usable=torch.tensor([bool(row) for row in rows]))


def shared(*said: Sparse, wanted: list[int], by_confidence: bool = True, **changes: Any) -> Tensor:
    settings = {"weights": torch.ones(len(wanted), len(said)), "sampled": [False] * len(said)} | changes
    return shares(
        said, settings["weights"], torch.tensor(wanted), sampled=settings["sampled"], by_confidence=by_confidence
    )


def test_confidence_is_that_of_the_paper() -> None:
    given = torch.tensor([0.5, 0.25, 0.1])
    found = shared(*(spoken([(4, p), (5, 0.05)]) for p in given.tolist()), wanted=[4])
    surprise = (1 / given).exp()  # as if CE were 1 / p: another rule, which must not fit
    assert not torch.allclose(found[0], (1 - surprise / surprise.sum()) / 2, atol=1e-2)
    exponent = 1 / given  # exp(CE) with CE = −log p
    torch.testing.assert_close(found[0], (1 - exponent / exponent.sum()) / 2)


def test_a_teacher_counts_less_the_more_an_answer_surprises_it() -> None:
    agrees, differs = spoken([(4, 0.9)], [(4, 0.9)]), spoken([(7, 0.9)], [(4, 0.9)])
    found = shared(agrees, differs, wanted=[4, 4])
    assert found[0].tolist() == pytest.approx([0.9, 0.1], abs=1e-5)  # its 4 has 0.1 at most
    assert found[1].tolist() == pytest.approx([0.5, 0.5])


def test_a_token_that_was_not_kept_has_no_more_than_the_least_that_was() -> None:
    flat, knows = spoken([(1, 0.2), (2, 0.1)]), spoken([(4, 0.1)])
    assert shared(flat, knows, wanted=[4])[0].tolist() == pytest.approx([0.5, 0.5])  # the rest has 0.7, but each ≤ 0.1
    draws = spoken([(1, 0.75), (2, 0.25)])
    assert shared(draws, spoken([(4, 0.25)]), wanted=[4], sampled=[True, False])[0].tolist() == pytest.approx(
        [0.5, 0.5]
    )


@pytest.mark.parametrize("by_confidence", [False, True])
def test_shares_sum_to_one_over_those_who_judged(by_confidence: bool) -> None:
    first = spoken([(4, 1.0)], [(4, 0.5)], [], [], [(4, 0.5)])
    second = spoken([(5, 1.0)], [], [(4, 1e-3)], [], [(4, 0.5)])
    weights = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 2.0]])
    found = shared(first, second, wanted=[4] * 5, by_confidence=by_confidence, weights=weights)
    assert found.sum(dim=1).tolist() == pytest.approx([1, 1, 1, 0, 1])
    assert found[1:].tolist() == [[1, 0], [0, 1], [0, 0], [0, 1]]
    assert found[0].tolist() == pytest.approx([1.0, 0.0] if by_confidence else [0.5, 0.5])


def test_a_teacher_that_contradicts_the_answers_is_hardly_listened_to(
    examples: list[Example], pieces: int, tmp_path: Path
) -> None:
    good = speaker(pieces)
    fit(good.requires_grad_(True), Answers(examples, 0), schedule(epochs=10, learning_rate=5e-3), work=tmp_path / "w")
    judged = [
        asked(model, examples, tmp_path, pieces, teacher=name, k=20)
        for name, model in (("good", good), ("bad", speaker(pieces, seed=9)))
    ]
    model, everything = student(pieces), list(range(len(examples)))
    by_good, by_bad, equal, weighed = (
        measured(Answers(examples, 0, teaching), model, everything)["kd"]
        for teaching in (
            taught(judged[0]),
            taught(judged[1]),
            taught(*judged),
            taught(*judged, by_confidence=True),
        )
    )
    assert abs(equal - by_good) > 0.05 * by_good
    assert abs(weighed - by_good) < 0.3 * abs(equal - by_good)
    assert by_bad != by_good
