"""What may become a training row: gates, near-duplicates, balance."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.config import Gates
from edgedistill.data.curate import Balance, NearDuplicates, finish_problem, gate, language, load_accept
from edgedistill.errors import InputError
from edgedistill.tasks import find
from edgedistill.tasks.task import Answer
from edgedistill.types import Reply
from tests.data.test_rows import DIFFERENT, SAME

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


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("I'm really sorry, but I'm unable to assist with that request.", True),
        ("I’m sorry, but I can’t help with that.", True),
        ("I apologize, but I cannot provide that information.", True),
        ("I am sorry, but as a large language model I have no opinion.", True),
        ("I'm afraid I can't do that.", True),
        ("Unfortunately, I won't be able to answer that.", True),
        ("  \n**I cannot comply.**", True),
        ("I CANNOT HELP WITH THAT", True),
        ("I'm sorry to hear that, let me find you another hotel.", False),
        ("I can't find a restaurant like that. Would you like another area?", False),
        ("I can't wait to see you!", False),
        ("I cannot recommend it enough.", False),
        ("I can't help but smile.", False),
        ("I won't be long.", False),
        ("Sorry, I can't do Tuesdays. Would Wednesday be fine?", False),
        ("She said: I can't help with that.", False),
        ("As an aid worker, Ann travels a lot.", False),
        ("As an airline we fly daily.", False),
        ("Unfortunately I am not able to book for more than eight people.", False),
    ],
)
def test_who_will_not_answer_is_told_from_who_has_no_table(text: str, refusal: bool) -> None:
    assert (gate(TALK, Gates(), None)(ROW, Answer(value=text)) is not None) is refusal


def test_a_label_is_neither_a_refusal_nor_in_a_language() -> None:
    check = gate(find("classification"), Gates(languages=("en",)), None)
    assert check({"text": "x"}, Answer(value="I cannot help")) is None
    assert check({"text": "x"}, Answer(value="verfügbarkeit_prüfen")) is None


def test_what_a_task_can_verify_is_a_gate_that_can_be_left_open() -> None:
    row, wrong = {"question": "2 + 3?", "answer": "#### 5"}, Answer(value="#### 6")
    assert gate(find("math"), Gates(), None)(row, wrong) == "verify: the answer 6 is not 5"
    assert gate(find("math"), Gates(verify=False), None)(row, wrong) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Could you book a table for two at seven tonight, please?", "en"),
        ("Könnten Sie bitte heute Abend um sieben einen Tisch für zwei reservieren?", "de"),
    ],
)
def test_english_is_told_from_german(text: str, expected: str) -> None:
    assert language(text) == expected
    assert gate(TALK, Gates(languages=(expected,)), None)(ROW, Answer(value=text)) is None
    assert gate(TALK, Gates(languages=("fr", "es")), None)(ROW, Answer(value=text)) == (
        f"language: {expected}, not fr or es"
    )


@given(st.text())
@settings(deadline=None)
def test_every_text_has_some_language(text: str) -> None:
    assert language(text)


@pytest.mark.parametrize("said", [0, 0.0, np.bool_(False), "", []])
def test_whatever_is_as_good_as_false_refuses(said: Any) -> None:
    assert gate(TALK, Gates(), lambda row, answer: said)(ROW, Answer(value="Hi")) == "accept: refused"


def test_the_users_gate_sees_the_row_and_comes_last() -> None:
    seen: list[tuple[Any, str]] = []
    check = gate(TALK, Gates(min_chars=3), lambda row, answer: seen.append((row, answer)))
    assert check(ROW, Answer(value="Hi")) is not None
    assert check(ROW, Answer(value="Hello")) is None
    assert seen == [(ROW, "Hello")]


def test_a_users_gate_that_fails_is_named() -> None:
    def broken(row: Mapping[str, Any], answer: str) -> bool:
        return bool(row["no such column"])

    with pytest.raises(InputError, match="accept failed: KeyError: 'no such column'") as caught:
        gate(TALK, Gates(), broken)(ROW, Answer(value="Hi"))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("code", "said"),
    [("def accept(:\n", "SyntaxError"), ("1 / 0\n", "ZeroDivisionError"), ("import nowhere_to_be\n", "nowhere_to_be")],
)
def test_a_module_that_cannot_be_imported_is_named_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    name = f"gates_{said.lower()}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=rf"{name}:accept.*{said}"):
        load_accept(f"{name}:accept")


@pytest.mark.parametrize("name", [".gates:accept", "..:accept", "a..b:accept", "os:", "os", ":accept"])
def test_a_name_that_is_no_module_and_function_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="accept") as caught:
        load_accept(name)
    assert "module:function" in str(caught.value.hint)


def test_a_gate_beside_the_command_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gates_beside.py").write_text("def accept(row, answer):\n    return 'no'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    accept = load_accept("gates_beside:accept")
    assert accept is not None
    assert accept({}, "x") == "no"


@pytest.mark.parametrize(("one", "other"), SAME)
def test_texts_that_count_as_the_same_are_near_twins(one: str, other: str) -> None:
    with NearDuplicates(1.0) as seen:
        seen.add("one", one)
        assert seen.find(other) == "one"


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_texts_of_different_meaning_are_no_near_twins(one: str, other: str) -> None:
    with NearDuplicates(0.9) as seen:
        seen.add("one", one)
        assert seen.find(other) is None


@given(text=st.text(), threshold=st.floats(0.01, 1.0))
@settings(deadline=None, max_examples=50)
def test_an_identical_text_is_found_at_any_threshold(text: str, threshold: float) -> None:
    with NearDuplicates(threshold) as seen:
        seen.add("first", text)
        seen.add("second", text)
        assert seen.find(text) == "first"


def test_texts_above_the_threshold_are_nearly_always_found_and_those_below_never() -> None:
    chance = random.Random(3)
    words = [f"word{n}" for n in range(5000)]
    with NearDuplicates(0.9) as seen:
        texts = [chance.sample(words, 60) for _ in range(300)]
        for number, text in enumerate(texts):
            seen.add(str(number), " ".join(text))
        near = [seen.find(" ".join(["other", *text[1:]])) for text in texts]
        far = [seen.find(" ".join(text[:40] + chance.sample(words, 20))) for text in texts]
    assert near == [str(number) for number in range(300)]
    assert far == [None] * 300


def test_a_text_in_parts_is_a_twin_only_if_each_part_is() -> None:
    context = " ".join(f"word{n}" for n in range(400))
    with NearDuplicates(0.9) as seen:
        seen.add("one", context, "Who opened the door?")
        assert seen.find(context, "When was it closed again?") is None
        assert seen.find(f"{context} word400", "who opened the door") == "one"
        assert seen.find("another context", "Who opened the door?") is None


def test_every_process_finds_the_same_twins() -> None:
    code = (
        "import random\nfrom edgedistill.data.curate import NearDuplicates\nchance = random.Random(1)\n"
        "texts = [' '.join(chance.choices('abcdefgh', k=12)) for _ in range(300)]\n"
        "with NearDuplicates(0.5) as seen:\n"
        "    for n, text in enumerate(texts):\n        print(seen.find(text))\n        seen.add(str(n), text)\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert 0 < said[0].count("None") < 300


def test_nothing_is_left_behind_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with NearDuplicates(0.9) as seen:
        seen.add("a", "some text")
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


@given(st.lists(st.sampled_from("abc"), max_size=120), st.floats(0.34, 0.99))
def test_no_label_ever_has_more_than_its_share_once_each_could_have_begun(labels: list[str], share: float) -> None:
    balance, counts = Balance(share, labels=3), Counter[str]()
    for label in labels:
        if balance.problem(label) is None:
            counts[label] += 1
            total = counts.total()
            assert total <= 3 or counts[label] <= math.ceil(share * total)


def test_all_labels_in_turn_pass_at_the_smallest_share() -> None:
    balance = Balance(1 / 3, labels=3)
    assert all(balance.problem(label) is None for label in "abc" * 100)
    assert balance.problem("a") is None
    assert balance.problem("a") == "balance: 'a' has 101 of 301 rows already"


def test_a_share_that_would_reject_every_row_is_refused_before_anything_is_paid() -> None:
    with pytest.raises(InputError, match=r"balance = 0\.2 cannot hold") as caught:
        Balance(0.2, labels=3)
    assert caught.value.hint == "set it above 0.33"
    Balance(0.2, labels=0)
