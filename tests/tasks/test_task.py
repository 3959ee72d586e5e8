"""What all tasks share: prompts out of rows, and labels and objects out of whatever a teacher writes."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.tasks import TASKS, find
from edgedistill.tasks.task import AS_JSON, AS_JSON_WITH_RATIONALE, THINK, Style, Task, Unusable, fill, json_object
from edgedistill.tasks.task import label_of as named

CLASSES = find("classification")
ROW = {"text": "switch it on"}
ON_OFF = Style(labels=("turn_on", "turn_off"))


@pytest.mark.parametrize(
    "said",
    ["turn_on", "Turn_On", "TURN ON", " turn on\n", '"turn_on"', "'turn on'", "`turn_on`", "turn_on.", '"Turn on."'],
)
def test_a_label_is_found_whatever_its_case_quotes_and_underscores(said: str) -> None:
    assert named(said, ON_OFF.labels) == "turn_on"


@pytest.mark.parametrize(
    ("said", "labels", "label"),
    [
        ("turn_on", ("turn on", "turn off"), "turn on"),
        ("us", ("US", "us"), "us"),
        ("US", ("us", "US"), "US"),
        ("a b", ("a_b", "a b"), "a b"),
        ("U.S.", ("U.K.", "U.S."), "U.S."),
        ("u.s", ("U.K.", "U.S."), "U.S."),
        ("straße", ("STRASSE", "WEG"), "STRASSE"),
    ],
)
def test_of_labels_that_look_alike_the_one_that_was_said_is_meant(
    said: str, labels: tuple[str, ...], label: str
) -> None:
    assert named(said, labels) == label


@pytest.mark.parametrize("said", ["", " ", "turn", "on", "turn_on, I think", "turn_on turn_off", "_", '"'])
def test_half_a_label_or_two_are_none(said: str) -> None:
    with pytest.raises(Unusable, match="is not one of the 2 labels"):
        named(said, ON_OFF.labels)


@given(st.lists(st.text(min_size=1).map(str.strip).filter(bool), min_size=1, unique=True), st.data())
def test_every_label_is_found_by_its_own_name(labels: list[str], data: st.DataObject) -> None:
    label = data.draw(st.sampled_from(labels))
    assert named(f" {label} ", labels) == label


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"answer": "on"}', {"answer": "on"}),
        ('Here it is:\n```json\n{"answer": "on"}\n```\nAnything else?', {"answer": "on"}),
        ('The set {a, b} has two. {"answer": "on"}', {"answer": "on"}),
        ('{"answer": "a { b"} {"answer": "off"}', {"answer": "a { b"}),
        ('{"rationale": "two\nlines", "answer": "on"}', {"rationale": "two\nlines", "answer": "on"}),
        ('{"answer": "\\ud83d\\ude00"}', {"answer": "😀"}),
        ('[{"answer": "on"}]', {"answer": "on"}),
    ],
)
def test_the_first_object_is_found_in_prose_and_fences(text: str, found: dict[str, Any]) -> None:
    assert json_object(text) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the answer is empty"),
        (" \n", "the answer is empty"),
        ("on", "no JSON object"),
        ('{"answer": "on"', "no JSON object"),
        ("{'answer': 'on'}", "no JSON object"),
        ('"on"', "no JSON object"),
        ('{"answer": "half \\ud83d"}', "lone surrogate"),
        ('{"\\ude00": 1, "answer": "on"}', "lone surrogate"),
    ],
)
def test_what_is_no_whole_object_is_unusable(text: str, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        json_object(text)


@pytest.mark.parametrize("text", ["{" * 500_000, '{"a":' * 100_000, '{"a": [1, ' * 50_000, "[" * 200_000 + '{"a":' * 9])
def test_an_endless_answer_is_given_up_soon(text: str) -> None:
    started = time.process_time()
    with pytest.raises(Unusable):
        json_object(text)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=()), max_size=60), thought=st.booleans())
def test_an_answer_can_always_be_written_to_a_file(task: Task, text: str, thought: bool) -> None:
    row = {"text": "x" * 99, "context": text, "question": "?", "messages": [{"role": "user", "content": "?"}]}
    style = Style(labels=(text.strip() or "a", "b"), chain_of_thought=thought)
    for said in (text, json.dumps({"answer": text, "rationale": text}), f"{text}\n#### 5", f"so\n#### {text}"):
        try:
            answer = task.parse(said, row, style)
        except Unusable as unusable:
            str(unusable).encode()
        else:
            f"{answer.value} {answer.rationale}".encode()


def test_a_chain_of_thought_is_asked_for_before_the_answer_and_kept_apart() -> None:
    style = Style(labels=("on", "off"), chain_of_thought=True)
    system = CLASSES.messages(ROW, style)[0]["content"]
    assert THINK in system
    assert AS_JSON_WITH_RATIONALE in system
    schema = CLASSES.schema(style) or {}
    assert list(schema["properties"]) == schema["required"] == ["rationale", "answer"]
    answer = CLASSES.parse('{"rationale": " It says so. ", "answer": "on"}', ROW, style)
    assert (answer.value, answer.rationale) == ("on", "It says so.")
    assert CLASSES.apply(ROW, answer) == {**ROW, "label": "on"}


@pytest.mark.parametrize("rationale", ['"rationale": 3, ', '"rationale": null, ', ""])
def test_a_rationale_that_is_missing_or_no_text_costs_no_answer(rationale: str) -> None:
    answer = CLASSES.parse(f'{{{rationale}"answer": "on"}}', ROW, Style(labels=("on", "off"), chain_of_thought=True))
    assert (answer.value, answer.rationale) == ("on", None)


def test_a_rationale_that_nobody_asked_for_is_not_kept() -> None:
    assert CLASSES.parse('{"rationale": "x", "answer": "turn_on"}', ROW, ON_OFF).rationale is None


def test_the_plain_form_names_the_labels_once_and_the_schema_allows_no_other() -> None:
    system = CLASSES.messages(ROW, ON_OFF)[0]["content"]
    assert system.count("turn_on, turn_off") == 1
    assert system.endswith(AS_JSON)
    assert (CLASSES.schema(ON_OFF) or {})["properties"] == {"answer": {"enum": ["turn_on", "turn_off"]}}


def test_an_instruction_with_fields_is_filled_for_each_row() -> None:
    style = Style(labels=("on", "off"), instruction="Sort {text} into {labels}.")
    systems = [CLASSES.messages({"text": text}, style)[0]["content"] for text in ("one", "{labels}", r"\1")]
    assert [system.split("\n")[0] for system in systems] == [
        "Sort one into on, off.",
        "Sort {labels} into on, off.",
        r"Sort \1 into on, off.",
    ]


def test_a_column_called_labels_does_not_replace_the_labels() -> None:
    row = {"text": "x", "labels": "none of them"}
    assert fill("{labels}", row, ON_OFF) == "turn_on, turn_off"
    assert fill("{labels}", row, Style()) == "none of them"


def test_an_instruction_without_fields_gives_every_row_the_same_system_message() -> None:
    style = Style(labels=("on", "off"), instruction="Sort it.")
    one, other = (CLASSES.messages({"text": text}, style) for text in ("a", "b"))
    assert one[0] == other[0]
    assert one[0]["content"].startswith("Sort it.\nThe labels are: on, off.")
    assert one[1] != other[1]


@pytest.mark.parametrize("label", [None, "", " \t"])
def test_an_empty_label_is_none_yet(label: str | None) -> None:
    row = {"text": "a", "label": label}
    assert CLASSES.problem(row) is None
    assert not CLASSES.has_answer(row)
    assert CLASSES.gold(row) is None


def test_space_around_a_label_does_not_count() -> None:
    assert CLASSES.gold({"text": "a", "label": " on\t"}) == "on"


json_rows = st.dictionaries(
    st.sampled_from(
        ["text", "label", "premise", "hypothesis", "context", "question", "answer", "summary", "references", "messages"]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner, max_size=2)
        ),
        max_leaves=6,
    )
    | st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}),
        max_size=4,
    ),
)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@settings(max_examples=150, deadline=None)
@given(row=json_rows)
def test_a_row_has_a_problem_or_can_be_asked_about(task: Task, row: dict[str, Any]) -> None:
    if (reason := task.problem(row)) is not None:
        assert reason
        return
    for style in (ON_OFF, Style(labels=("a", "b"), instruction="{text} {messages}", chain_of_thought=True)):
        messages = task.messages(row, style)
        assert messages[0]["role"] == "system" or task.name == "conversation"
        assert all(isinstance(message["content"], str) for message in messages)
    assert all(isinstance(part, str) for part in task.parts(row))
    assert (task.gold(row) is None) is not task.has_answer(row)
