"""Rows as users have them: what is wrong is named and set aside, and no test text is ever trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.config import Data
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


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("not json\n", "not JSON"),
        ("[1, 2]\n", "a JSON list, not an object"),
        ('{"label": "a"}\n', "no field 'text'"),
        ('{"text": "x"}\n', "no field 'label'"),
        ('{"text": 7, "label": "a"}\n', "field 'text' is int, not a string"),
        ('{"text": "  ", "label": "a"}\n', "field 'text' is empty"),
        ('{"text": "' + "x" * 1_100_000 + '", "label": "a"}\n', "1000000 is the limit"),
    ],
)
def test_an_unusable_row_is_set_aside_with_its_place_and_reason(tmp_path: Path, bad: str, reason: str) -> None:
    file = write(tmp_path / "rows.jsonl", [*good(20), bad, *good(20, start=20)])
    rows = prepared(tmp_path, file, max_bad_share=0.1)
    assert rows.facts["rejected"] == 1
    (said,) = [json.loads(line) for line in (rows.path / "rejected.jsonl").read_text().splitlines()]
    assert (said["file"], said["line"]) == ("rows.jsonl", 21)
    assert reason in said["reason"]
    assert sum(rows.counts.values()) == 40


def test_too_many_unusable_rows_stop_the_build_and_the_first_are_shown(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [*good(20), "{}\n", "{}\n"])
    with pytest.raises(InputError, match=r"2 of 22 rows.*\n.*rows.jsonl:21: no field 'text'"):
        prepared(tmp_path, file)


def test_a_line_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", list(good(20)))
    file.write_bytes(file.read_bytes() + b'{"text": "caf\xe9", "label": "a"}\n')
    assert prepared(tmp_path, file, max_bad_share=0.1).facts["rejected"] == 1


def test_a_byte_order_mark_and_csv_are_read(tmp_path: Path) -> None:
    lines = [f'"text, number {i}",{"ab"[i % 2]}\n' for i in range(30)]
    write(tmp_path / "rows.csv", ["\ufefftext,label\n", *lines])
    rows = prepared(tmp_path, tmp_path / "rows.csv")
    assert sum(rows.counts.values()) == 30
    assert read(rows, "train")[0].text.startswith("text, number")


def test_a_test_text_leaves_training_and_the_test_stays_whole(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    write(folder / "train.jsonl", [*good(30), {"text": "Shared, TEXT!", "label": "a"}])
    write(folder / "validation.jsonl", [{"text": "shared text", "label": "a"}, *good(4, start=100)])
    test = [{"text": "shared text", "label": "a"}, {"text": "shared text", "label": "a"}, *good(4, start=200)]
    write(folder / "test.jsonl", test)
    rows = prepared(tmp_path, folder)
    assert rows.counts == {"train": 30, "validation": 4, "test": 6}
    assert rows.facts["leaks"] == 2


def test_a_training_text_twice_counts_once_and_two_labels_are_reported(tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl",
        [*good(200), {"text": "Text number 0.", "label": "a"}, {"text": "text number 1", "label": "a"}],
    )
    rows = prepared(tmp_path, file)
    assert rows.facts["duplicates"] == 2
    assert rows.facts["rejected"] == 1
    assert "has label 'b' and not 'a'" in (rows.path / "rejected.jsonl").read_text()


def test_a_single_file_is_split_by_label_and_the_same_way_every_time(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", list(good(100)))
    first, second = prepared(tmp_path / "1", file), prepared(tmp_path / "2", file)
    assert first.counts == {"train": 70, "validation": 10, "test": 20}
    assert first.sha256 == second.sha256
    texts = [{row.text for row in read(first, split)} for split in SPLITS]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 100
    for split, size in (("validation", 5), ("test", 10)):
        assert sum(row.label == "a" for row in read(first, split)) == size


def test_a_label_that_only_the_test_has_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    write(folder / "train.jsonl", list(good(200)))
    write(folder / "test.jsonl", [*good(10, start=300), {"text": "odd one", "label": "z"}])
    rows = prepared(tmp_path, folder)
    assert rows.counts["test"] == 10
    assert "label 'z' has no row in train" in (rows.path / "rejected.jsonl").read_text()


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
    assert sum(rows.counts.values()) + rows.facts["rejected"] >= 60 + len(values) - rows.facts["duplicates"]
