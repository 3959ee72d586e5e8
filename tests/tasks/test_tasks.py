"""Each task: which rows it takes, what it asks, and what it makes of the answer."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.errors import InputError
from edgedistill.tasks import TASKS, find
from edgedistill.tasks.math import final, same
from edgedistill.tasks.qa import exact_match, token_f1
from edgedistill.tasks.task import Answer, Style, Task, Unusable, fill, label_of

ROWS: dict[str, dict[str, Any]] = {
    "classification": {"text": "switch it on"},
    "nli": {"premise": "A dog runs.", "hypothesis": "An animal moves."},
    "qa": {"context": "A table for Four  people", "question": "How many?"},
    "math": {"question": "2 + 3?"},
    "summarization": {"text": "A long story about two people who met, talked and left."},
    "conversation": {"messages": [{"role": "user", "content": "Hello"}]},
}
STYLES = [
    Style(labels=("on", "off")),
    Style(labels=("on", "off"), chain_of_thought=True),
    Style(labels=("on", "off"), chain_of_density=True, instruction="Say {labels} of {text}"),
]


def by_name(pairs: list[tuple[str, Any]]) -> list[tuple[Task, Any]]:
    return [(find(name), value) for name, value in pairs]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_prompt_holds_the_row_and_ends_with_the_user(task: Task) -> None:
    row = ROWS[task.name]
    messages = task.messages(row, STYLES[0])
    assert [messages[0]["role"], messages[-1]["role"]] == ["system", "user"]
    for field in task.inputs:
        assert task.name == "conversation" or row[field] in messages[-1]["content"]
    if task.has_labels:
        assert "on, off" in messages[0]["content"]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.text(), st.recursive(st.text() | st.none() | st.integers(), st.lists).map(json.dumps)))
def test_any_text_is_an_answer_or_unusable_and_never_a_crash(task: Task, style: Style, text: str) -> None:
    try:
        answer = task.parse(text, ROWS[task.name], style)
    except Unusable as unusable:
        assert str(unusable)
    else:
        assert answer.value
        assert task.verify(answer, ROWS[task.name]) is None or task.name in ("qa", "summarization")


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("classification", {"label": "on"}, "no field 'text'"),
        ("classification", {"text": 7}, "is int, not a string"),
        ("classification", {"text": "  "}, "is empty"),
        ("classification", {"text": "a", "label": 3}, "'label' is int"),
        ("nli", {"premise": "a"}, "no field 'hypothesis'"),
        ("summarization", {"text": "a", "references": "one"}, "not a list of strings"),
        ("conversation", {"messages": []}, "not a list of messages"),
        ("conversation", {"messages": [{"role": "robot", "content": "x"}]}, "no role out of"),
        ("conversation", {"messages": [{"role": "user", "content": ""}]}, "has no content"),
        ("conversation", {"messages": [{"role": "assistant", "content": "x"}]}, "no message of a user"),
    ],
)
def test_a_row_that_cannot_be_asked_about_says_why(name: str, row: dict[str, Any], reason: str) -> None:
    assert reason in (find(name).problem(row) or "")


@pytest.mark.parametrize(
    ("name", "style", "text", "value", "rationale"),
    [
        ("classification", 0, '{"answer": "ON"}', "on", None),
        ("classification", 0, 'Sure!\n```json\n{"answer": "off"}\n```', "off", None),
        ("classification", 1, '{"rationale": "It says so.", "answer": "on"}', "on", "It says so."),
        ("qa", 0, '{"answer": " four people "}', "four people", None),
        ("math", 0, "2 + 3 = 5\n#### 5", "#### 5", "2 + 3 = 5"),
        ("math", 0, r"so \boxed{5}", "#### 5", r"so \boxed{5}"),
        ("math", 0, "#### 1,234\nand more", "#### 1,234", None),
        ("summarization", 0, " They met. ", "They met.", None),
        (
            "summarization",
            2,
            '{"steps": [{"missing": "", "summary": "They met."}, {"missing": "x", "summary": "They met and left."}]}',
            "They met and left.",
            "They met.",
        ),
        ("conversation", 0, "Hi there!", "Hi there!", None),
    ],
)
def test_an_answer_in_the_form_asked_for_is_read(
    name: str, style: int, text: str, value: str, rationale: str | None
) -> None:
    assert find(name).parse(text, ROWS[name], STYLES[style]) == Answer(value=value, rationale=rationale)


@pytest.mark.parametrize(
    ("name", "style", "text", "reason"),
    [
        ("classification", 0, '{"answer": "perhaps"}', "not one of the 2 labels"),
        ("classification", 0, '{"answer": ["on"]}', "is list, not text"),
        ("classification", 0, "on", "no JSON object"),
        ("classification", 0, "", "empty"),
        ("math", 0, "five", "no final answer"),
        ("math", 0, "#### five apples and pears", "is no number"),
        ("summarization", 2, '{"steps": []}', "no list of steps"),
        ("summarization", 2, '{"steps": [{"missing": "x"}]}', "without a summary"),
        ("conversation", 0, " \n", "empty"),
    ],
)
def test_an_answer_in_another_form_is_unusable_with_the_reason(name: str, style: int, text: str, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        find(name).parse(text, ROWS[name], STYLES[style])


@pytest.mark.parametrize("text", ["#### 9^9^9^9", "#### 9**99999", "#### 170!", "#### " + "9" * 5000])
def test_a_number_that_would_take_for_ever_is_refused_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(Unusable):
        find("math").parse(text, ROWS["math"], STYLES[0])
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("#### 1,234", "some working\n#### 1234", True),
        ("#### 72.0", "#### 72", True),
        (r"#### \frac{1}{2}", "#### 0.5", True),
        ("#### $18", "#### 18", True),
        ("#### 18", "#### 81", False),
        ("#### -3", "#### 3", False),
    ],
)
def test_final_answers_are_compared_as_numbers(one: str, other: str, equal: bool) -> None:
    assert same(one, other) is equal
    assert final("a\n#### 1,5") == "15"


def test_an_answer_is_verified_against_the_row() -> None:
    assert find("math").verify(Answer(value="#### 5"), {"question": "?", "answer": "2+3\n#### 5"}) is None
    assert "is not 5" in str(find("math").verify(Answer(value="#### 6"), {"question": "?", "answer": "#### 5"}))
    assert find("qa").verify(Answer(value="four people"), ROWS["qa"]) is None
    assert find("qa").verify(Answer(value="five"), ROWS["qa"]) == "the answer is not in the context"
    long = Answer(value=ROWS["summarization"]["text"] + "!")
    assert find("summarization").verify(long, ROWS["summarization"]) == "the summary is not shorter than the text"


def test_a_conversation_keeps_its_system_message_and_hides_its_answer() -> None:
    task = find("conversation")
    turns = [{"role": "system", "content": "Be Ann."}, {"role": "user", "content": "Who?"}]
    row = {"messages": [*turns, {"role": "assistant", "content": "I am Ann."}]}
    other = {"messages": [{"role": "system", "content": "Be Bob."}, turns[1]]}
    assert task.messages(row, STYLES[0]) == tuple(turns)
    assert task.messages(other, STYLES[0]) != task.messages(row, STYLES[0])
    assert (task.gold(row), task.gold(other)) == ("I am Ann.", None)
    assert task.apply(row, Answer(value="Ann."))["messages"] == [*turns, {"role": "assistant", "content": "Ann."}]


def test_an_instruction_of_ones_own_is_filled_in_and_strange_braces_stay() -> None:
    style = Style(labels=("on", "off"), instruction="Is {text} {labels}? {unknown} {}")
    assert fill(style.instruction, ROWS["classification"], style) == "Is switch it on on, off? {unknown} {}"
    system = find("classification").messages(ROWS["classification"], style)[0]["content"]
    assert system.startswith("Is switch it on")
    assert "The labels are" not in system


def test_labels_are_found_whatever_their_dress() -> None:
    assert label_of(' "Turn on." ', ["turn_on", "turn_off"]) == "turn_on"
    with pytest.raises(Unusable):
        label_of("turn", ["turn_on", "turn_off"])


@pytest.mark.parametrize(
    ("name", "same_text", "other"),
    [
        ("classification", 1.0, 0.0),
        ("qa", 1.0, 0.0),
        ("math", 1.0, 0.0),
        ("summarization", 1.0, 0.0),
        ("conversation", 1.0, 0.0),
    ],
)
def test_a_score_is_one_for_the_same_and_low_for_another(name: str, same_text: float, other: float) -> None:
    task = find(name)
    assert task.score("12 apples", "12 apples") == pytest.approx(same_text)
    assert task.score("12 apples", "77 zebu") == pytest.approx(other, abs=0.2)


def test_spans_are_compared_as_squad_does() -> None:
    assert exact_match("The Table!", "table") == 1.0
    assert token_f1("a red table", "red chair") == pytest.approx(0.5)
    assert token_f1("", "") == 1.0
    assert token_f1("", "x") == 0.0


def test_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(InputError) as raised:
        find("poetry")
    assert "summarization" in str(raised.value.hint)
