"""Which route is taken, which is refused, and that the reason is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from edgedistill.distill.router import RouteName, route, same_tokenizer
from edgedistill.errors import PlanRefused
from edgedistill.types import Signal
from tests.conftest import tiny_tokenizer
from tests.distill.chats import chat_tokenizer

LOCAL: tuple[Signal, ...] = ("text", "logits", "hidden states")
API: tuple[Signal, ...] = ("text",)
GB = 10**9


def chosen(gives: tuple[Signal, ...] = LOCAL, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "task": "conversation",
        "tokenizers_differ": None,
        "teacher_bytes": 6 * GB,
        "student_bytes": 3 * GB,
        "memory_bytes": 16 * GB,
    }
    return route(gives, **{**settings, **changes})


@pytest.mark.parametrize(
    ("gives", "changes", "name", "said"),
    [
        (LOCAL, {}, "tokens", "onpolicy is possible too"),
        (LOCAL, {"task": "nli"}, "tokens", "answers of nli are labels"),
        (LOCAL, {"memory_bytes": 8 * GB}, "tokens", "together need 9.0 GB of memory, and there are 8.0 GB"),
        (LOCAL, {"memory_bytes": 5 * GB}, "sequence", "larger of teacher and student needs 6.0 GB"),
        (LOCAL, {"memory_bytes": 8 * GB, "reads_along": True}, "sequence", "teacher and student together need 9.0 GB"),
        (LOCAL, {"tokenizers_differ": "their merges differ"}, "sequence", "different tokenizers: their merges differ"),
        (API, {}, "sequence", "no log-probability"),
        ((*API, "top-k log-probabilities"), {}, "sequence", "by their text"),
    ],
)
def test_the_richest_possible_route_is_chosen_and_explained(
    gives: tuple[Signal, ...], changes: dict[str, Any], name: RouteName, said: str
) -> None:
    found = chosen(gives, **changes)
    assert found.name == name
    assert said in "\n".join(found.why)


@pytest.mark.parametrize("fixed", ["sequence", "tokens", "onpolicy"])
def test_a_possible_route_that_was_asked_for_is_taken(fixed: RouteName) -> None:
    assert chosen(fixed=fixed).name == fixed


@pytest.mark.parametrize("fixed", ["tokens", "onpolicy"])
@pytest.mark.parametrize(
    ("gives", "changes", "said", "hint"),
    [
        (API, {}, "no log-probability", "sequence"),
        ((*API, "top-k log-probabilities"), {}, "by their text", "sequence"),
        (LOCAL, {"tokenizers_differ": "their merges differ"}, "merges", "sequence"),
        (LOCAL, {"memory_bytes": 5 * GB}, r"6\.0 GB|9\.0 GB", "sequence"),
    ],
)
def test_an_impossible_route_that_was_asked_for_is_refused_with_a_way_out(
    fixed: RouteName, gives: tuple[Signal, ...], changes: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(PlanRefused, match=said) as caught:
        chosen(gives, fixed=fixed, **changes)
    assert f"'{fixed}'" in str(caught.value)
    assert hint in str(caught.value.hint)


def test_on_policy_without_room_for_both_is_sent_to_tokens() -> None:
    with pytest.raises(PlanRefused, match="together") as caught:
        chosen(fixed="onpolicy", memory_bytes=8 * GB)
    assert caught.value.hint == "use the route tokens"


def test_what_fits_exactly_fits() -> None:
    assert chosen(fixed="onpolicy", memory_bytes=9 * GB).name == "onpolicy"
    assert chosen(API, memory_bytes=3 * GB).name == "sequence"


@pytest.mark.parametrize(
    ("gives", "changes", "said"),
    [(("labels",), {}, "writes no text"), (API, {"memory_bytes": GB}, "the student needs 3.0 GB")],
)
def test_no_possible_route_is_refused(gives: tuple[Signal, ...], changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanRefused, match=said):
        chosen(gives, **changes)


def changed(change: Any) -> Tokenizer:
    spec = json.loads(chat_tokenizer().backend_tokenizer.to_str())
    change(spec)
    return Tokenizer.from_str(json.dumps(spec))


def swap(spec: Any) -> None:
    vocabulary = spec["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (swap, "their vocabularies differ: 340 and 340 pieces, of which 338"),
        (lambda spec: spec["model"]["merges"].reverse(), "their merges differ"),
        (lambda spec: spec["added_tokens"][3].update(special=False), "added tokens differ, such as '<|im_end|>'"),
        (lambda spec: spec.update(normalizer={"type": "NFC"}), "normalizers differ"),
        (lambda spec: spec["pre_tokenizer"].update(add_prefix_space=True), "pre-tokenizers differ"),
        (lambda spec: spec["model"].update(ignore_merges=True), "settings of their BPE models differ"),
    ],
)
def test_tokenizers_that_may_write_other_ids_are_told_apart(change: Any, reason: str) -> None:
    first = chat_tokenizer().backend_tokenizer
    for pair in ((first, changed(change)), (changed(change), first)):
        assert reason in str(same_tokenizer(*pair))


def test_tokenizers_that_differ_around_the_text_only_are_the_same() -> None:
    def change(spec: Any) -> None:
        spec["post_processor"] = {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        }
        spec["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        spec["model"]["dropout"] = None

    assert same_tokenizer(chat_tokenizer().backend_tokenizer, changed(change)) is None


def test_tokenizers_of_different_kinds_are_told_apart() -> None:
    assert same_tokenizer(tiny_tokenizer(), chat_tokenizer().backend_tokenizer) == "one is WordPiece, the other BPE"
    assert same_tokenizer(Tokenizer(models.BPE()), Tokenizer(models.BPE())) is None
