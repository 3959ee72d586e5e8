"""What is special about a task: verified numbers, spans of a context, turns of a conversation, chains of summaries."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.tasks import TASKS, find
from edgedistill.tasks.math import same
from edgedistill.tasks.nli import LABELS
from edgedistill.tasks.summarization import STEPS, rouge
from edgedistill.tasks.task import Answer, Style, Task, Unusable

MATH, QA, TALK, SUM, NLI = (find(name) for name in ("math", "qa", "conversation", "summarization", "nli"))
DENSE = Style(chain_of_density=True)


def turns(*contents: str, system: str | None = None, first: str = "user") -> dict[str, Any]:
    """A conversation in which user and assistant take turns."""
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return {"messages": ([] if system is None else [{"role": "system", "content": system}]) + messages}


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("1,234", "1234", True),
        ("72.0", "72", True),
        (r"\frac{1}{2}", "0.5", True),
        ("1/2", "0.50", True),
        ("**72**", "72", True),
        ("$72$", "72", True),
        (r"\$72", "72", True),
        ("72 eggs", "72", True),
        ("72.", "72", True),
        ("\N{MINUS SIGN}3", "-3", True),
        ("50%", "50", True),
        ("10^{3}", "1000", True),
        ("10^{3}", "10", False),
        (r"1.5 \times 10^{3}", "1500", True),
        (r"2\sqrt{3}", "2", False),
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        ("1e5", "100000", True),
        ("1e5", "1", False),
        ("5^2", "25", True),
        ("0.1", "0.2", False),
        ("1.234", "1234", False),
        ("", "0", False),
    ],
)
def test_numbers_are_equal_however_they_are_written(one: str, other: str, equal: bool) -> None:
    assert same(f"so\n#### {one}", other) is equal
    assert same(other, f"#### {one}") is equal


@given(st.integers(-(10**12), 10**12))
@settings(deadline=None, max_examples=30)
def test_a_number_equals_itself_with_separators_and_not_its_neighbour(number: int) -> None:
    assert same(f"#### {number:,}", str(number))
    assert same(f"#### {number}.0", str(number))
    assert not same(f"#### {number}", str(number + 1))


@pytest.mark.parametrize(
    "tower",
    [
        "9^9^9^9",
        "9**9**9**9",
        "9^{9^{9^9}}",
        "10^(9*9*9*9*9*9*9*9*9*9*9*9)",
        r"10^{99 \cdot 99 \cdot 99 \cdot 99 \cdot 99}",
        "10^(99/0.00001)",
        "10^9999",
        "10^ 99999",
        "2^{9e9}",
        "1e999999",
        "99999!",
        "9" * 101,
        "(" * 50 + "9" + ")" * 51,
    ],
)
def test_a_tower_of_powers_is_refused_at_once(tower: str) -> None:
    MATH.parse("#### 1", {}, Style())  # the first call imports sympy
    started = time.process_time()
    assert not same(f"#### {tower}", "#### 7")
    with pytest.raises(Unusable, match="is no number"):
        MATH.parse(f"#### {tower}", {}, Style())
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("text", "value", "rationale"),
    [
        ("2 + 3 = 5\n#### 5", "#### 5", "2 + 3 = 5"),
        ("#### Step 1\n2 + 3 = 5\n#### 5", "#### 5", "#### Step 1\n2 + 3 = 5"),
        ("#### 5\n\nIs that right?", "#### 5", None),
        (r"half: \boxed{\frac{1}{2}}", r"#### \frac{1}{2}", r"half: \boxed{\frac{1}{2}}"),
        (r"\boxed{4}, no, \boxed{5}", "#### 5", r"\boxed{4}, no, \boxed{5}"),
    ],
)
def test_the_last_answer_counts_and_the_working_is_kept(text: str, value: str, rationale: str | None) -> None:
    assert MATH.parse(text, {}, Style()) == Answer(value=value, rationale=rationale)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The answer is 5.", "no final answer after ####"),
        ("", "no final answer after ####"),
        ("####", "'' after #### is no number"),
        ("#### I do not know", "is no number"),
        ("#### x", "is no number"),
        (r"\boxed{", "no final answer"),
    ],
)
def test_working_without_a_number_after_the_mark_is_unusable(text: str, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        MATH.parse(text, {}, Style())


@given(st.text("0123456789+-*/^(){}[].,$%\\!=eE fracsqtboxed#\n", max_size=60))
@settings(deadline=None, max_examples=300)
def test_whatever_stands_after_the_mark_is_a_number_or_unusable_and_soon(text: str) -> None:
    started = time.process_time()
    for said in (f"#### {text}", f"\\boxed{{{text}}}"):
        try:
            answer = MATH.parse(said, {}, Style())
        except Unusable:
            continue
        MATH.verify(answer, {"question": "?", "answer": "#### 7"})
    assert time.process_time() - started < 5


def test_numbers_are_compared_outside_the_main_thread_too() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(same(r"\frac{3}{4}", "0.75")))
    thread.start()
    thread.join()
    assert found == [True]


def test_a_wrong_number_is_rejected_with_both_and_a_row_without_one_is_not_judged() -> None:
    row = {"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}
    assert MATH.verifies_gold
    assert MATH.verify(Answer(value="#### 1,006"), row) == "the answer 1006 is not 5"
    assert MATH.verify(Answer(value="#### 5.00"), row) is None
    assert MATH.verify(Answer(value="#### 6"), {"question": "?"}) is None


@pytest.mark.parametrize("style", [Style(), Style(chain_of_thought=True), Style(instruction="Solve {question}!")])
def test_mathematics_is_answered_in_plain_text(style: Style) -> None:
    assert MATH.schema(style) is None
    assert "JSON" not in MATH.messages({"question": "1 + 1?"}, style)[0]["content"]


CONTEXT = {"context": "The  Restaurant\nopens at 7 p.m. in Zürich.", "question": "When?"}


@pytest.mark.parametrize(
    ("span", "stands"),
    [
        ("7 p.m.", True),
        ("the restaurant opens", True),
        ("ZÜRICH", True),
        ("8 p.m.", False),
        ("7 pm", False),
        ("opens in Zürich", False),
    ],
)
def test_a_span_must_stand_in_the_context(span: str, stands: bool) -> None:
    answer = QA.parse(json.dumps({"answer": span}), CONTEXT, Style())
    assert (QA.verify(answer, CONTEXT) is None) is stands


def test_a_question_is_put_with_its_context() -> None:
    user = QA.messages(CONTEXT, Style())[-1]["content"]
    assert user == f"Context: {CONTEXT['context']}\nQuestion: When?"


@pytest.mark.parametrize("said", [*LABELS, "Entailment", " CONTRADICTION. "])
def test_one_of_three_labels_is_the_answer_to_a_pair(said: str) -> None:
    row = {"premise": "A dog runs.", "hypothesis": "It sleeps."}
    style = Style(labels=LABELS)
    assert NLI.parse(json.dumps({"answer": said}), row, style).value == said.strip(" .").lower()
    assert NLI.messages(row, style)[1]["content"] == "Premise: A dog runs.\nHypothesis: It sleeps."


@pytest.mark.parametrize("said", ["maybe", "entails", "entailment or neutral", ""])
def test_anything_but_the_three_labels_is_unusable(said: str) -> None:
    with pytest.raises(Unusable, match="not one of the 3 labels"):
        NLI.parse(json.dumps({"answer": said}), {}, Style(labels=LABELS))


def test_the_last_summary_of_a_chain_counts_and_the_drafts_are_the_rationale() -> None:
    steps = [{"missing": "x", "summary": summary} for summary in ("They met.", "Ann met Bob.", "Ann met Bob in Rome.")]
    row = {"text": "Ann met Bob in Rome, and they talked for a long while."}
    answer = SUM.parse(json.dumps({"steps": steps}), row, DENSE)
    assert answer == Answer(value="Ann met Bob in Rome.", rationale="They met.\nAnn met Bob.")
    assert f"{STEPS} steps" in SUM.messages(row, DENSE)[0]["content"]
    assert (SUM.schema(DENSE) or {})["properties"]["steps"]["minItems"] == STEPS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"steps": "none"}', "no list of steps"),
        ('{"steps": [1]}', "a step without a summary"),
        ('{"steps": [{"summary": "a"}, {"missing": "b"}]}', "a step without a summary"),
        ('{"steps": [{"summary": "a"}, {"summary": " "}]}', "is empty"),
        ('{"steps": [{"summary": "a"}, {"summary', "no list of steps"),
        ("They met.", "no JSON object"),
    ],
)
def test_a_chain_that_breaks_off_is_unusable(text: str, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        SUM.parse(text, {"text": "x"}, DENSE)


def test_a_row_with_references_is_judged_by_the_first_and_not_asked_about() -> None:
    row = {"text": "a b c", "references": ["a", "b"]}
    assert SUM.problem(row) is None
    assert (SUM.has_answer(row), SUM.gold(row)) == (True, "a")
    assert not SUM.has_answer({"text": "a b c", "references": []})
    assert SUM.problem({"text": "a", "references": ["a", 3]}) == "field 'references' is not a list of strings"


def test_summaries_are_compared_by_what_they_share() -> None:
    assert rouge("the cat sat", "the cat sat") == {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    assert rouge("", "the cat")["rougeL"] == 0.0
    assert SUM.score("a cat sat", "the cats slept") < SUM.score("the cat sat", "the cats slept")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "field 'messages' is not a list of messages"),
        ({"messages": "hello"}, "field 'messages' is not a list of messages"),
        ({"messages": [{"content": "hello"}]}, "message 0 has no role out of system, user, assistant"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "message 0 has no role"),
        ({"messages": [["user", "x"]]}, "message 0 has no role"),
        ({"messages": [*turns("a")["messages"], {"role": "assistant", "content": None}]}, "message 1 has no content"),
        ({"messages": [*turns("a")["messages"], {"role": "system", "content": "x"}]}, "the last message is the system"),
        ({"messages": turns("a", first="assistant")["messages"]}, "no message of a user"),
    ],
)
def test_a_conversation_that_cannot_be_gone_on_with_says_why(row: dict[str, Any], reason: str) -> None:
    assert reason in (TALK.problem(row) or "")


def test_the_answer_of_a_conversation_is_not_in_its_prompt() -> None:
    row = turns("Who are you?", "I am Ann, the secret answer.", "And now?", "Now I am the last word.")
    messages = TALK.messages(row, Style())
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert all("last word" not in message["content"] for message in messages)
    assert TALK.gold(row) == "Now I am the last word."
    assert TALK.messages(turns(*[m["content"] for m in row["messages"][:3]]), Style()) == messages


def test_the_same_last_turn_after_other_system_messages_is_another_prompt_and_another_row() -> None:
    rows = [turns("Who are you?", system=system) for system in ("You are Ann.", "You are Bob.")] + [
        turns("Who are you?")
    ]
    prompts = [TALK.messages(row, Style()) for row in rows]
    assert [prompt[0]["content"] for prompt in prompts[:2]] == ["You are Ann.", "You are Bob."]
    assert len({json.dumps(prompt) for prompt in prompts}) == 3
    assert len({TALK.parts(row) for row in rows}) == 3
    assert len({TALK.parts(row)[1:] for row in rows}) == 1


def test_an_instruction_stands_in_only_where_a_conversation_has_no_system_message() -> None:
    style = Style(instruction="Answer in rhyme.")
    assert TALK.messages(turns("Hi"), style)[0]["content"] == "Answer in rhyme."
    assert TALK.messages(turns("Hi", system="Be Ann."), style)[0]["content"] == "Be Ann."


def test_fields_beside_role_and_content_do_not_reach_the_teacher() -> None:
    row = {"messages": [{"role": "user", "content": "Hi", "weight": 1, "name": "x"}]}
    assert TALK.messages(row, Style())[1] == {"role": "user", "content": "Hi"}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_rows_other_columns_outlive_the_answer(task: Task) -> None:
    row = {"id": 7, "text": "a", **turns("Hi", "Hello")}
    applied = task.apply(row, Answer(value="new"))
    assert applied["id"] == 7
    assert task.gold(applied) == "new"
    assert row["messages"][-1]["content"] == "Hello"
