"""The signals of a teacher: which is used, and what its log-probabilities say of the labels."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.labeling.signals import chosen, label_probabilities
from edgedistill.tasks import TASKS, find
from edgedistill.tasks.task import Task
from edgedistill.types import Reply

LABELS = ("positive", "negative")
TOP = ("text", "labels", "top-k log-probabilities")


def reply(*tokens: str, at: int, top: dict[str, float]) -> Reply:
    """A reply in these tokens, with the likeliest ones at one place and certainty everywhere else."""
    logs = [{token: 0.0} for token in tokens]
    logs[at] = {token: math.log(share) if share else -math.inf for token, share in top.items()}
    return Reply(
        text="".join(tokens),
        finish="stop",
        prompt_tokens=1,
        completion_tokens=len(tokens),
        tokens=tokens,
        top_logprobs=tuple(logs),
    )


@pytest.mark.parametrize(
    ("tokens", "at"),
    [
        (("pos", "itive"), 0),
        ((" positive",), 0),
        (("positive", "."), 0),
        (('{"', "answer", '":"', "pos", "itive", '"}'), 3),
        (('{"', "answer", '":', ' "', "positive", '"}'), 4),
        (('{"answer": "', 'positive"}'), 1),
        (('Sure: {"', "answer", '":\n  "', "pos", "itive", '"\n}'), 3),
        (('{"rationale": "', "positive", '", "', "answer", '": "', "pos", 'itive"}'), 5),
        (('{"rationale": "', '\\"answer\\": \\"', "negative", '", "', "answer", '": "', "pos", 'itive"}'), 6),
    ],
)
def test_the_place_where_the_answer_begins_is_found(tokens: tuple[str, ...], at: int) -> None:
    second = "neg" if tokens[at] == "pos" else "negative"
    found = label_probabilities(reply(*tokens, at=at, top={tokens[at]: 0.7, second: 0.3}), LABELS)
    assert found == pytest.approx({"positive": 0.7, "negative": 0.3})


@pytest.mark.parametrize(
    ("tokens", "at", "top", "labels"),
    [
        (("turn", "_on"), 0, {"turn": 1.0}, ("turn_on", "turn_off")),
        (("turn", "_on"), 0, {"turn": 0.5, "play": 0.5}, ("turn_on", "turn_off", "play")),
        (('{"answer": "', "turn", '_on"}'), 1, {"turn": 0.9, "play": 0.1}, ("turn_on", "turn_off", "play")),
        (("no", "body"), 0, {"no": 1.0}, ("no", "nobody")),
        (("The", " answer"), 0, {"The": 1.0}, LABELS),
        (("\n", "positive"), 0, {"\n": 1.0}, LABELS),
        (('"', "positive"), 0, {'"': 1.0}, LABELS),
        (('{"answer":', ' "pos', 'itive"}'), 1, {' "pos': 1.0}, LABELS),
        (('{"label": "', 'positive"}'), 1, {"positive": 1.0}, LABELS),
        (("positive",), 0, {"positive": 0.0, "negative": 0.0}, LABELS),
    ],
)
def test_where_nobody_can_say_there_are_no_probabilities(
    tokens: tuple[str, ...], at: int, top: dict[str, float], labels: tuple[str, ...]
) -> None:
    assert label_probabilities(reply(*tokens, at=at, top=top), labels) is None


def test_labels_that_share_a_start_are_told_apart_where_the_start_is_unlikely() -> None:
    found = label_probabilities(
        reply("play", at=0, top={"play": 0.995, "turn": 0.005}), ("turn_on", "turn_off", "play")
    )
    assert found == pytest.approx({"turn_on": 0.0, "turn_off": 0.0, "play": 1.0})


def test_a_longer_word_that_begins_like_a_label_is_not_that_label() -> None:
    found = label_probabilities(reply("yes", at=0, top={"yes": 0.5, "not": 0.3, 'no"}': 0.1}), ("yes", "no"))
    assert found == pytest.approx({"yes": 0.5 / 0.6, "no": 0.1 / 0.6})


@pytest.mark.parametrize(
    ("tokens", "logs"), [((), ()), (("positive",), ()), ((), ({"positive": 0.0},)), (("", ""), ({}, {}))]
)
def test_tokens_that_are_missing_give_no_probabilities(
    tokens: tuple[str, ...], logs: tuple[dict[str, float], ...]
) -> None:
    bare = Reply(text="positive", finish="stop", prompt_tokens=1, completion_tokens=1, tokens=tokens, top_logprobs=logs)
    assert label_probabilities(bare, LABELS) is None


def test_probabilities_that_a_teacher_knows_are_taken_as_they_are() -> None:
    known = {"positive": 0.25, "negative": 0.75}
    sure = Reply(text="positive", finish="stop", prompt_tokens=1, completion_tokens=0, probabilities=known)
    assert label_probabilities(sure, LABELS) == known


@given(
    st.dictionaries(
        st.sampled_from(["pos", "positive", "neg", "negative", "p", "n", "", '"', "The", "positively"]),
        st.floats(allow_nan=True, allow_infinity=True),
        max_size=6,
    )
)
def test_probabilities_add_up_to_one_whatever_the_endpoint_sends(top: dict[str, float]) -> None:
    text = json.dumps({"answer": "positive"})
    sent = Reply(
        text=text,
        finish="stop",
        prompt_tokens=1,
        completion_tokens=1,
        tokens=('{"answer": "', 'positive"}'),
        top_logprobs=({}, top),
    )
    found = label_probabilities(sent, LABELS)
    if found is not None:
        assert sum(found.values()) == pytest.approx(1)
        assert all(0 <= share <= 1 for share in found.values())


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("openai", "; set logprobs = 5 if the endpoint returns them"),
        ("gguf", "; set logprobs = 5 to have them"),
        ("transformers", "; set logprobs = 5 to have them"),
        ("anthropic", ""),
    ],
)
def test_a_teacher_without_log_probabilities_is_used_for_less_and_the_remedy_is_said(
    task: Task, kind: str, remedy: str
) -> None:
    teacher: Any = SimpleNamespace(gives=("text", "labels"), identity={"kind": kind})
    signal, why = chosen(task, teacher)
    assert signal == ("labels" if task.has_labels else "text")
    assert why.endswith("probabilities" + remedy)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_log_probabilities_are_used_where_a_teacher_gives_them(task: Task) -> None:
    teacher: Any = SimpleNamespace(gives=TOP, identity={"kind": "openai"})
    assert chosen(task, teacher)[0] == "top-k log-probabilities"


def test_class_probabilities_are_richer_than_log_probabilities_but_say_nothing_of_texts() -> None:
    teacher: Any = SimpleNamespace(gives=(*TOP, "class probabilities"), identity={"kind": "encoder"})
    assert chosen(find("nli"), teacher)[0] == "class probabilities"
    assert chosen(find("qa"), teacher)[0] == "top-k log-probabilities"
