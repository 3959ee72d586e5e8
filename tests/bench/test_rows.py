"""What a bundle is asked while it is measured: the fields its task reads, and labels only where they are its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgedistill import catalog
from edgedistill.bench import rows
from edgedistill.bench.rows import Asked
from edgedistill.errors import InputError

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def told(task: str = "classification", *, engine: str = "onnxruntime", **model: Any) -> dict[str, Any]:
    return {"task": task, "engine": {"name": engine}, "model": model}


DECODER = told("decoder", engine="llama-cpp-python")


def write(folder: Path, *found: Any) -> str:
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(folder / "test.jsonl")


@pytest.mark.parametrize(
    ("manifest", "row", "asked"),
    [
        (told(), {"text": "a"}, "a"),
        (told("static classifier", engine="numpy"), {"text": "a"}, "a"),
        (told(pairs=True), {"premise": "a", "hypothesis": "b"}, ("a", "b")),
        (told("reader"), {"question": "a", "context": "b"}, ("a", "b")),
        (told("text-to-text"), {"text": "a"}, "a"),
        (DECODER, {"messages": TURNS}, TURNS[:1]),
        (DECODER, {"messages": TURNS[:1]}, TURNS[:1]),
        (DECODER, {"question": "a"}, "a"),
    ],
)
def test_each_task_reads_its_own_fields(tmp_path: Path, manifest: Any, row: Any, asked: Any) -> None:
    assert rows.read(manifest, write(tmp_path, {"other": 1}, row)).texts == (asked,)


@pytest.mark.parametrize(
    ("manifest", "wanted"),
    [(told(), '"text"'), (told("reader"), '"question" and "context"'), (DECODER, '"messages" or')],
)
def test_rows_without_the_fields_are_refused_and_the_fields_named(tmp_path: Path, manifest: Any, wanted: str) -> None:
    with pytest.raises(InputError, match="has no rows with") as caught:
        rows.read(manifest, write(tmp_path, {"other": "a"}))
    assert wanted in caught.value.message


def test_labels_are_numbers_in_the_bundles_list(tmp_path: Path) -> None:
    file = write(tmp_path, {"text": "a", "label": "on"}, {"text": "b", "label": "off"})
    assert rows.read(told(labels=["off", "on"]), file).labels == (1, 0)
    strange = rows.read(told(labels=["on"]), file)
    assert strange.labels is None
    assert "no label 'off'" in (strange.remark or "")
    assert rows.read(told(labels=["on"]), write(tmp_path, {"text": "a"})).remark is None


def test_a_readers_answers_are_judged_by_the_words_they_share_with_the_rows_own(tmp_path: Path) -> None:
    row = {"question": "where", "context": "it is in the red box", "answer": "the red box"}
    asked = rows.read(told("reader"), write(tmp_path, row, row, row)).spread(2)
    assert asked.metric == "token_f1"
    assert asked.right([[9, 20], [9, 16]]) == [1.0, pytest.approx(2 / 3)]  # of "red box" it said "red"
    unsaid = rows.read(told("reader"), write(tmp_path, row, {"question": "a", "context": "b"}))
    assert (unsaid.metric, unsaid.right([[0, 1], [0, 1]])) == (None, None)


def test_our_own_rows_stand_in_where_none_are_given() -> None:
    for manifest in (told(), told("reader"), DECODER):
        assert len(rows.read(manifest, None).texts) > 50
    with pytest.raises(InputError, match="are no pairs"):
        rows.read(told(pairs=True), None)


def test_rows_and_their_labels_are_taken_from_all_over_together() -> None:
    asked = Asked(texts=tuple("abcdef"), labels=(0, 1, 2, 3, 4, 5)).spread(3)
    assert (asked.texts, asked.labels) == (("a", "c", "e"), (0, 2, 4))


@pytest.mark.parametrize(
    ("manifest", "workload"),
    [
        (told(), "classification"),
        (told(pairs=True), "nli"),
        (told("reader"), "qa"),
        (told("text-to-text"), "summarization"),
        (DECODER, "conversation"),
    ],
)
def test_every_task_has_a_workload_in_the_catalogue(manifest: Any, workload: str) -> None:
    assert rows.workload_of(manifest) == workload
    assert catalog.workload(workload).within


def test_the_catalogue_has_a_workload_for_each_task_and_its_readme_names_their_keys() -> None:
    names = ("classification", "nli", "qa", "math", "summarization", "conversation")
    found = [catalog.workload(name) for name in names]
    assert [one.task for one in found] == list(names)
    assert all(one.rounds >= 5 for one in found)
    assert all(bool(one.prompt_tokens) == (one.task in ("math", "summarization", "conversation")) for one in found)
    readme = Path(catalog.__file__).parents[1] / "benchmarks" / "README.md"
    if readme.is_file():  # it stays in the checkout
        for key in set(catalog._Workload.model_fields):
            assert f"`{key}`" in readme.read_text(encoding="utf-8"), key


def test_a_wrong_workload_is_refused_with_its_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "benchmarks" / "workloads"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text('task = "qa"\nrows = 0\nbatch_rows = 1\nthreads = 1\nrounds = 1\nwithin = 2.0\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"(?s)rows.*within") as caught:
        catalog.workload("mine")
    assert "benchmarks/README.md" in (caught.value.hint or "")
