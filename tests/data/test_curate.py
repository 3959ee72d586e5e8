"""What may become a training row: gates, near-duplicates, balance."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.config import Gates
from edgedistill.data.curate import Balance, NearDuplicates, finish_problem, gate, language, load_accept
from edgedistill.errors import InputError
from edgedistill.tasks import find
from edgedistill.tasks.task import Answer
from edgedistill.types import Reply

TALK = find("conversation")
ROW = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot answer this question.", True),
        ("As an AI language model, I have no opinion.", True),
        ("Sorry, I am unable to do so.", True),
        ("I’m not able to share that.", True),
        ("I'm sorry to hear that. I have booked another table.", False),
        ("Sorry, your reservation could not be made. Another one?", False),
        ("Unfortunately, they do not serve vegetarian food.", False),
        ("You can't park there.", False),
    ],
)
def test_a_refusal_is_told_from_an_apology(text: str, refusal: bool) -> None:
    said = gate(TALK, Gates(), None)(ROW, Answer(value=text))
    assert (said is not None and said.startswith("refusal")) is refusal
    assert gate(TALK, Gates(refusals=False), None)(ROW, Answer(value=text)) is None


def test_length_and_language_are_gates() -> None:
    check = gate(TALK, Gates(min_chars=5, max_chars=60, languages=("en",)), None)
    assert "length: 2 characters" in str(check(ROW, Answer(value="Hi")))
    assert "length: 61" in str(check(ROW, Answer(value="x" * 61)))
    assert check(ROW, Answer(value="The table is booked for eight tonight.")) is None
    assert check(ROW, Answer(value="Der Tisch ist heute Abend reserviert.")) == "language: de, not en"


def test_the_language_of_many_lines_is_found() -> None:
    assert language("Bonjour,\n\nje voudrais une table\npour deux personnes.") == "fr"


@pytest.mark.parametrize(
    ("said", "reason"), [(True, None), (None, None), (False, "accept: refused"), ("too short", "accept: too short")]
)
def test_the_users_own_gate_decides(said: bool | str | None, reason: str | None) -> None:
    assert gate(TALK, Gates(), lambda row, answer: said)(ROW, Answer(value="Hi")) == reason


def test_the_users_own_gate_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_gates.py").write_text("def brief(row, answer):\n    return len(answer) < 9\nnumber = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    brief = load_accept("my_gates:brief")
    assert brief is not None
    assert (brief({}, "short"), brief({}, "far too long")) == (True, False)
    assert load_accept(None) is None
    for name, said in (("no_gates:x", "no_gates"), ("my_gates:x", "x"), ("my_gates:number", "not a function")):
        with pytest.raises(InputError, match=said):
            load_accept(name)


@pytest.mark.parametrize(
    ("finish", "problem"), [("stop", None), ("length", "truncated: "), ("refusal", "refusal: I would rather not")]
)
def test_an_answer_that_is_not_whole_is_a_problem(finish: str, problem: str | None) -> None:
    reply = Reply(text="I would rather not", finish=finish, prompt_tokens=1, completion_tokens=9)  # type: ignore[arg-type]
    assert (finish_problem(reply) or "").startswith(problem or "")
    assert (finish_problem(reply) is None) is (problem is None)


def test_near_twins_are_found_and_neighbours_are_not() -> None:
    first = "could you please switch on the light in the kitchen for me before i come home tonight"
    with NearDuplicates(0.8) as seen:
        assert seen.find(first) is None
        seen.add("train:1", first)
        assert seen.find(first.upper() + "!!") == "train:1"
        assert seen.find(first.replace("tonight", "today")) == "train:1"
        assert seen.find("could you please switch off the heating in the cellar when you leave the house") is None
        assert seen.find("17") is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=8))
def test_a_text_is_always_found_again(texts: list[str]) -> None:
    with NearDuplicates(0.9) as seen:
        for number, text in enumerate(texts):
            seen.add(str(number), text)
        assert all(seen.find(text) is not None for text in texts)


def test_no_label_gets_more_than_its_share() -> None:
    balance = Balance(0.5, labels=2)
    taken = [label for label in ["a"] * 20 + ["b"] * 3 + ["a"] * 20 if balance.problem(label) is None]
    assert (taken.count("a"), taken.count("b")) == (4, 3)
    even = Balance(0.5, labels=2)
    assert all(even.problem(label) is None for label in ["a", "b"] * 50)
    assert all(Balance(1.0, labels=2).problem("a") is None for _ in range(9))
