"""Rows as users have them: what is wrong is named and set aside, and no test text is ever trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.config import Data
from edgedistill.data import smarthome
from edgedistill.data.normal import normal
from edgedistill.data.rows import prepare, read
from edgedistill.errors import InputError
from edgedistill.store import Store
from edgedistill.types import SPLITS, Rows


def prepared(tmp_path: Path, folder: str | Path, **settings: Any) -> Rows:
    with Store(tmp_path / "store") as store:
        return prepare(Data(folder=str(folder), **settings), seed=0, store=store)[0]


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def good(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"text": f"text number {i}", "label": "ab"[i % 2]} for i in range(start, start + count)]


def rejected(rows: Rows) -> list[tuple[str, int, str]]:
    lines = Path(rows.facts["rejected_file"]).read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line).values()) for line in lines]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("not json\n", "not JSON"),
        ("[1, 2]\n", "a JSON list, not an object"),
        ('{"label": "a"}\n', "no field 'text'"),
        ('{"text": "x"}\n', "no field 'label'"),
        ('{"text": 7, "label": "a"}\n', "field 'text' is int, not a string"),
        ('{"text": "  ", "label": "a"}\n', "field 'text' is empty"),
        (r'{"text": "half \ud83d", "label": "a"}' + "\n", "field 'text' has a lone surrogate"),
        (r'{"text": "x", "label": "\ude00"}' + "\n", "field 'label' has a lone surrogate"),
        ('{"text": "' + "x" * 1_100_000 + '", "label": "a"}\n', "1000000 is the limit"),
    ],
)
def test_an_unusable_row_is_set_aside_with_its_place_and_reason(tmp_path: Path, bad: str, reason: str) -> None:
    file = write(tmp_path / "rows.jsonl", [*good(30), bad, *good(30, start=30)])
    rows = prepared(tmp_path, file, max_bad_share=0.1)
    assert rows.facts["rejected"] == 1
    ((name, line, said),) = rejected(rows)
    assert (name, line) == ("rows.jsonl", 31)
    assert reason in said
    assert sum(rows.counts.values()) == 60


def test_too_many_unusable_rows_stop_the_build_and_the_first_are_shown(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [*good(20), "{}\n", "{}\n"])
    with pytest.raises(InputError, match=r"2 of 22 rows.*\n.*rows.jsonl:21: no field 'text'"):
        prepared(tmp_path, file)


def test_a_line_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", list(good(60)))
    file.write_bytes(file.read_bytes() + b'{"text": "caf\xe9", "label": "a"}\n')
    assert prepared(tmp_path, file, max_bad_share=0.1).facts["rejected"] == 1


def test_a_byte_order_mark_and_csv_are_read(tmp_path: Path) -> None:
    lines = [f'"text, number {i}",{"ab"[i % 2]}\n' for i in range(60)]
    write(tmp_path / "rows.csv", ["\ufefftext,label\n", *lines])
    rows = prepared(tmp_path, tmp_path / "rows.csv")
    assert sum(rows.counts.values()) == 60
    assert read(rows, "train")[0].text.startswith("text, number")


def test_a_csv_row_is_named_by_the_line_it_begins_on(tmp_path: Path) -> None:
    lines = [f'"text\nnumber {i}",{"ab"[i % 2]}\n' for i in range(60)]
    write(tmp_path / "rows.csv", ["text,label\n", *lines, "\n", '"no\nlabel"\n'])
    rows = prepared(tmp_path, tmp_path / "rows.csv", max_bad_share=0.1)
    assert rejected(rows) == [("rows.csv", 123, "no field 'label' (found 'text')")]


@pytest.mark.parametrize("broken", ['"open, and never closed,a\n', '"closed" too early,a\n'])
def test_csv_that_breaks_off_stops_the_build_and_names_its_line(tmp_path: Path, broken: str) -> None:
    lines = [f"text number {i},{'ab'[i % 2]}\n" for i in range(120)]
    write(tmp_path / "rows.csv", ["text,label\n", *lines[:60], broken, *lines[60:]])
    with pytest.raises(InputError, match=r"rows\.csv:62: the row that begins here is not CSV") as caught:
        prepared(tmp_path, tmp_path / "rows.csv", max_bad_share=1.0)
    assert caught.value.hint


def test_a_test_text_leaves_training_and_the_test_stays_whole(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    write(folder / "train.jsonl", [*good(30), {"text": "Shared, TEXT!", "label": "a"}])
    write(folder / "validation.jsonl", [{"text": "shared text", "label": "a"}, *good(4, start=100)])
    test = [{"text": "shared text", "label": "a"}, {"text": "shared text", "label": "a"}, *good(9, start=200)]
    write(folder / "test.jsonl", test)
    rows = prepared(tmp_path, folder)
    assert rows.counts == {"train": 30, "validation": 4, "test": 11}
    assert rows.facts["leaks"] == 2


def test_a_training_text_twice_counts_once_and_two_labels_are_reported(tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl",
        [*good(200), {"text": "Text number 0.", "label": "a"}, {"text": "text number 1", "label": "a"}],
    )
    rows = prepared(tmp_path, file)
    assert rows.facts["duplicates"] == 1
    assert rows.facts["rejected"] == 1
    assert rejected(rows) == [("rows.jsonl", 202, "same text as rows.jsonl:2, which has label 'b' and not 'a'")]
    assert sum(rows.counts.values()) == 200


def test_conflicts_are_named_by_their_line_in_the_file_whatever_was_left_out_before(tmp_path: Path) -> None:
    conflict = {"text": "text number 1", "label": "a"}
    file = write(
        tmp_path / "rows.jsonl", ["\n", "not json\n", *good(20), *good(20), "\n", conflict, *good(40, start=20)]
    )
    assert [found[:2] for found in rejected(prepared(tmp_path, file, max_bad_share=0.1))] == [
        ("rows.jsonl", 2),
        ("rows.jsonl", 44),
    ]
    with pytest.raises(InputError, match=r"rows\.jsonl:44: same text as rows\.jsonl:4,"):
        prepared(tmp_path, file)


SAME = [
    ("Switch the light on!", "switch  the light on"),
    ("\u201cHello,\u201d she said\u2026", "hello she said"),
    ("¿Dónde está?", "Do\u0301nde esta\u0301"),
    ("don\u2019t", "don't"),
    ("(really?!)", "really"),
    ("STRASSE.", "straße"),
    ("बत्ती जलाओ।", "बत्ती जलाओ"),
    ("你好。", "你好！"),
    ("Bonjour !", "bonjour"),
    ("... and on", "and on"),
    ("lights ,please", "lights please"),
]
DIFFERENT = [
    ("c++", "c#"),
    ("c", "c#"),
    ("love it 😀", "love it 😡"),
    ("love it 😀", "love it"),
    ("love it :)", "love it :("),
    ("love it :-)", "love it ;-("),
    ("बत्ती", "बत्ता"),
    ("बाल", "बोल"),
    ("ไม่", "ไม้"),
    ("ไม่", "ไม"),
    ("résumé", "resume"),
    ("5%", "5"),
    ("$5", "€5"),
    (".5", "5"),
    ("-5", "5"),
    ("3.5", "35"),
    ("@home", "home"),
    ("re-sign", "resign"),
    ("we're", "were"),
    ("?", "!"),
    ("😀", "😡"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_case_spaces_and_the_punctuation_around_words_make_no_other_text(one: str, other: str) -> None:
    assert normal(one) == normal(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_texts_of_different_meaning_stay_different(one: str, other: str) -> None:
    assert normal(one) != normal(other)


@given(text=st.text(alphabet="aÉß .,:;!?'\"()[]…#-\u0301\u093e😀", min_size=1))
def test_a_normal_text_is_its_own_and_never_nothing(text: str) -> None:
    assert normal(normal(text)) == normal(text)
    assert bool(normal(text)) == bool(text.strip())


def test_the_example_rows_are_all_used_as_they_are_drawn(tmp_path: Path) -> None:
    rows = prepared(tmp_path, "demo")
    assert rows.counts == {split: len(drawn) for split, drawn in smarthome.generate().items()}
    assert rows.counts == {"train": 3000, "validation": 398, "test": 1022}
    assert [rows.facts[key] for key in ("rejected", "duplicates", "leaks")] == [0, 0, 0]


def test_demo_is_the_example_and_a_folder_of_that_name_has_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "demo" / "train.jsonl", list(good(60)))
    assert prepared(tmp_path, "demo").counts["train"] == 3000
    assert sum(prepared(tmp_path, "./demo").counts.values()) == 60


def test_space_around_a_label_makes_no_class_of_its_own(tmp_path: Path) -> None:
    spaced = [{**row, "label": f" {row['label']}\t"} for row in good(30, start=30)]
    rows = prepared(tmp_path, write(tmp_path / "rows.jsonl", [*good(30), *spaced]))
    assert rows.labels == ("a", "b")


def test_a_single_file_is_split_by_label_and_the_same_way_every_time(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", list(good(100)))
    first, second = prepared(tmp_path / "1", file), prepared(tmp_path / "2", file)
    assert first.counts == {"train": 70, "validation": 10, "test": 20}
    assert first.sha256 == second.sha256
    texts = [{row.text for row in read(first, split)} for split in SPLITS]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 100
    for split, size in (("validation", 5), ("test", 10)):
        assert sum(row.label == "a" for row in read(first, split)) == size


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_a_row_of_every_label_stays_for_training_whatever_the_shares(tmp_path: Path, size: int) -> None:
    rare = [{"text": f"rare {i}", "label": "rare"} for i in range(size)]
    file = write(tmp_path / "rows.jsonl", [*good(60), *rare])
    rows = prepared(tmp_path, file, validation_share=0.4, test_share=0.4)
    assert sum(row.label == "rare" for row in read(rows, "train")) >= 1
    assert rows.facts["rejected"] == 0
    assert sum(rows.counts.values()) == 60 + size


def test_a_test_of_a_handful_of_rows_is_refused_with_advice(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    write(folder / "train.jsonl", list(good(60)))
    write(folder / "test.jsonl", list(good(9, start=100)))
    with pytest.raises(InputError, match="has 9 test rows; fewer than 10") as caught:
        prepared(tmp_path, folder)
    assert "test_share" in str(caught.value.hint)
    write(folder / "test.jsonl", list(good(10, start=100)))
    assert prepared(tmp_path, folder).counts["test"] == 10


def test_a_label_that_only_the_test_has_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    write(folder / "train.jsonl", list(good(200)))
    write(folder / "test.jsonl", [*good(10, start=300), {"text": "odd one", "label": "z"}])
    rows = prepared(tmp_path, folder)
    assert rows.counts["test"] == 10
    assert rejected(rows) == [("test.jsonl", 11, "label 'z' has no row in train")]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no train.jsonl"),
        ({"train.jsonl": ""}, "has no rows"),
        ({"train.jsonl": '{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n'}, "needs at least 2"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path, files: dict[str, str], said: str) -> None:
    (tmp_path / "rows").mkdir()
    for name, content in files.items():
        (tmp_path / "rows" / name).write_text(content)
    with pytest.raises(InputError, match=said):
        prepared(tmp_path, tmp_path / "rows")


def test_a_missing_path_and_a_strange_ending_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        prepared(tmp_path, tmp_path / "nowhere")
    (tmp_path / "rows.xlsx").touch()
    with pytest.raises(InputError, match="neither"):
        prepared(tmp_path, tmp_path / "rows.xlsx")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "label", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(values=st.lists(json_values, max_size=12))
@settings(deadline=None, max_examples=40)
def test_whatever_json_comes_every_row_is_used_or_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    file = write(folder / "rows.jsonl", [*good(60), *(json.dumps(value) + "\n" for value in values)])
    rows = prepared(folder, file, max_bad_share=1.0)
    left_out = sum(rows.facts[key] for key in ("rejected", "duplicates", "leaks"))
    assert sum(rows.counts.values()) + left_out == 60 + len(values)
    assert len(rejected(rows)) == rows.facts["rejected"]
