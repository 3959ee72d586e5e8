"""From files of rows to candidates: what is read, what is left out and why, and what the test keeps to itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgedistill.config import Data, Gates, Label
from edgedistill.errors import InputError
from edgedistill.labeling import gather
from edgedistill.labeling.gather import Gathered
from edgedistill.tasks import find
from edgedistill.types import silent


def gathered(tmp_path: Path, task: str = "classification", near: float = 0.9, **data: Any) -> Gathered:
    """What the files in `rows` come to."""
    (tmp_path / "work").mkdir(exist_ok=True)
    settings = Data(**{"folder": str(tmp_path / "rows"), "max_bad_share": 0.5, **data})
    return gather.gather(find(task), settings, Gates(near_duplicates=near), tmp_path / "work", silent)


def write(tmp_path: Path, **splits: list[Any]) -> None:
    """Files of rows; a string is a line as it stands."""
    (tmp_path / "rows").mkdir(exist_ok=True)
    for split, rows in splits.items():
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (tmp_path / "rows" / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines))


def texts(*said: str) -> list[dict[str, str]]:
    return [{"text": text} for text in said]


def kept(found: Gathered, split: str) -> list[Mapping[str, Any]]:
    return [candidate.row for candidate in gather.candidates(found.files[split])]


ASKED = "could you switch on the light in the kitchen before i come home tonight please and thank you"


def test_a_row_leaves_the_split_that_gives_way_to_the_other(tmp_path: Path) -> None:
    write(
        tmp_path,
        train=texts("one", f"{ASKED} now", ASKED.upper(), "two"),
        validation=texts(ASKED + "!", "two", "three"),
        test=texts(ASKED, ASKED),
    )
    found = gathered(tmp_path, near=0.8)
    assert found.counts == {"train": 1, "validation": 2, "test": 2}
    assert (found.leaks, found.duplicates) == (4, 0)
    assert [(one.file, one.line, one.reason) for one in found.rejected] == [
        ("validation.jsonl", 1, "leak: nearly the same as test:1"),
        ("train.jsonl", 2, "leak: nearly the same as test:1"),
        ("train.jsonl", 3, "leak: nearly the same as test:1"),
        ("train.jsonl", 4, "leak: nearly the same as validation:2"),
    ]


def test_a_training_row_counts_once_and_its_twins_are_named(tmp_path: Path) -> None:
    write(tmp_path, train=[*texts("Hello there", "other"), "", *texts("hello there!", "HELLO  THERE")])
    found = gathered(tmp_path)
    assert [row["text"] for row in kept(found, "train")] == ["Hello there", "other"]
    assert [(one.line, one.reason) for one in found.rejected] == [
        (4, "duplicate: nearly the same as train:1"),
        (5, "duplicate: nearly the same as train:1"),
    ]


def test_with_the_gate_open_every_row_is_a_candidate(tmp_path: Path) -> None:
    write(tmp_path, train=texts("a", "a", "b"), test=texts("a"))
    found = gathered(tmp_path, near=0)
    assert found.counts == {"train": 3, "test": 1}


def test_questions_about_one_long_context_are_different_rows(tmp_path: Path) -> None:
    context = " ".join(f"word{n}" for n in range(400))
    questions = ["Who opened the door?", "When was it closed again?", "who opened the door"]
    write(tmp_path, train=[{"context": context, "question": question} for question in questions])
    found = gathered(tmp_path, "qa")
    assert (found.counts["train"], found.duplicates) == (2, 1)


def test_one_question_to_two_personas_is_two_rows(tmp_path: Path) -> None:
    def talk(system: str, asked: str) -> dict[str, Any]:
        return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": asked}]}

    shared = "You are a helpful assistant of a hotel. " * 30
    write(
        tmp_path,
        train=[
            talk("You are Ann.", "Who are you?"),
            talk("You are Bob.", "Who are you?"),
            talk("You are Ann.", "who are you"),
            talk(shared, "Is there a pool?"),
            talk(shared, "Do you take dogs?"),
        ],
    )
    found = gathered(tmp_path, "conversation")
    assert [(one.line, one.reason) for one in found.rejected] == [(3, "duplicate: nearly the same as train:1")]


def test_the_answer_of_a_test_conversation_is_no_part_of_what_makes_a_leak(tmp_path: Path) -> None:
    asked = {"role": "user", "content": ASKED}
    write(
        tmp_path,
        train=[{"messages": [asked]}, {"messages": [{"role": "user", "content": "Done, it is on."}]}],
        test=[{"messages": [asked, {"role": "assistant", "content": "Done, it is on."}]}],
    )
    found = gathered(tmp_path, "conversation")
    assert (found.leaks, found.counts["train"]) == (1, 1)


def test_unusable_rows_are_named_by_file_and_line(tmp_path: Path) -> None:
    write(
        tmp_path,
        train=[*texts("a", "b", "c", "d"), "not json", "", {"txt": "x"}, {"text": 3}, {"text": "e", "label": 1}],
        test=[*texts("f"), "[]"],
    )
    found = gathered(tmp_path)
    assert [(one.file, one.line) for one in found.rejected] == [
        ("test.jsonl", 2),
        ("train.jsonl", 5),
        ("train.jsonl", 7),
        ("train.jsonl", 8),
        ("train.jsonl", 9),
    ]
    assert [one.reason for one in found.rejected][2:] == [
        "no field 'text' (found 'txt')",
        "field 'text' is int, not a string",
        "field 'label' is int, not a string",
    ]
    assert found.counts == {"train": 4, "test": 1}


def test_too_many_bad_rows_stop_and_the_first_five_are_shown(tmp_path: Path) -> None:
    write(tmp_path, train=[*texts("a", "b"), *({"no": n} for n in range(7))])
    with pytest.raises(InputError, match="7 of 9 rows") as caught:
        gathered(tmp_path)
    assert str(caught.value).count("train.jsonl:") == 5
    assert "max_bad_share" in str(caught.value.hint)


def test_the_share_of_bad_rows_is_one_of_all_rows(tmp_path: Path) -> None:
    write(tmp_path, train=texts(*(f"text {n}" for n in range(97))), test=[*texts("one of two"), "broken"])
    assert len(gathered(tmp_path, max_bad_share=0.02).rejected) == 1
    with pytest.raises(InputError, match="1 of 99 rows"):
        gathered(tmp_path, max_bad_share=0.01)


@pytest.mark.parametrize(
    ("raw", "row"),
    [
        ({"utterance": "hi", "intent": "greet"}, {"text": "hi", "label": "greet"}),
        ({"utterance": "hi", "text": "other", "label": 3}, {"text": "hi"}),
        ({"text": "other", "utterance": "hi", "label": 3, "intent": "greet"}, {"text": "hi", "label": "greet"}),
        ({"id": 7, "utterance": "hi"}, {"id": 7, "text": "hi"}),
    ],
)
def test_the_columns_that_were_named_count_and_no_namesakes(
    tmp_path: Path, raw: dict[str, Any], row: dict[str, Any]
) -> None:
    write(tmp_path, train=[raw])
    assert kept(gathered(tmp_path, text="utterance", label="intent"), "train") == [row]


def test_a_column_that_was_named_and_is_not_there_is_missed(tmp_path: Path) -> None:
    write(tmp_path, train=texts("a"))
    with pytest.raises(InputError, match=r"train\.jsonl:1: no field 'text'"):
        gathered(tmp_path, text="utterance")


def test_labels_are_those_of_every_split_without_the_space_around_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        train=[{"text": "a", "label": " on "}, {"text": "b", "label": "off"}, {"text": "c", "label": ""}],
        test=[{"text": "d", "label": "on"}, {"text": "e", "label": "dim"}],
    )
    assert gathered(tmp_path).labels == ("dim", "off", "on")


def test_rows_of_a_csv_file_have_no_label_where_the_field_is_empty(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nfirst,\nsecond,on\n")
    found = gathered(tmp_path, folder=str(tmp_path / "rows.csv"))
    assert found.counts == {"all": 2}
    assert found.rejected == []
    task = find("classification")
    assert [task.has_answer(row) for row in kept(found, "all")] == [False, True]
    assert [one.source for one in gather.candidates(found.files["all"])] == ["rows.csv:2", "rows.csv:3"]


@pytest.mark.parametrize("rows", [[], ["", " "]])
def test_files_without_rows_are_refused_with_the_fields_that_are_wanted(tmp_path: Path, rows: list[Any]) -> None:
    write(tmp_path, train=rows)
    with pytest.raises(InputError, match="has no rows") as caught:
        gathered(tmp_path, "nli")
    assert "premise, hypothesis" in str(caught.value.hint)


def test_candidates_are_numbered_in_their_order_and_keep_their_letters(tmp_path: Path) -> None:
    write(tmp_path, train=texts("größer 😀", "zwei"))
    found = list(gather.candidates(gathered(tmp_path).files["train"]))
    assert [(one.number, one.source, one.row["text"]) for one in found] == [
        (0, "train.jsonl:1", "größer 😀"),
        (1, "train.jsonl:2", "zwei"),
    ]


def test_a_job_is_the_same_whatever_money_and_goal_and_another_with_other_rows(tmp_path: Path) -> None:
    write(tmp_path, train=texts("a", "b"))
    first = gathered(tmp_path)
    booked = gather.job(Label(budget=1.0, rows=3), first)
    assert booked == gather.job(Label(budget=2.0), first)
    assert booked != gather.job(Label(temperature=1.0), first)
    write(tmp_path, train=texts("a", "c"))
    assert booked != gather.job(Label(), gathered(tmp_path))
