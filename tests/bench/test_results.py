"""The JSON of a benchmark: what is written is read again, what is not one is refused, and its description is true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedistill import catalog
from edgedistill.bench import harness, results
from edgedistill.bench.course import of_bundle
from edgedistill.bench.rows import Asked
from edgedistill.errors import InputError
from edgedistill.types import Estimate, Ratio, Result
from tests.bench.devices import Emulated, Made, bundle

FOLDER = catalog.ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = bundle(tmp_path_factory.mktemp("results") / "made")
    workload = replace(catalog.workload("classification"), rows=5, rounds=1, answer_rows=4, within=None)
    links = [Made(cores=2), Emulated("emulated://a72"), Made("ssh://b", breaks_at=1)]
    asked = Asked(texts=("a", "b", "c", "d", "é\u2028水"), labels=(0, 1, 0, 1, 0))
    found = harness.bench(folder, [of_bundle(folder, link) for link in links], asked, workload)
    ratio = Ratio(
        name="latency",
        link="local",
        against="teacher",
        kind="measured",
        estimate=Estimate(value=2.0, low=1.9, high=2.1),
    )
    return replace(found, ratios=(ratio,), remarks=("a remark",))


@pytest.fixture
def file(result: Result, tmp_path: Path) -> Path:
    results.write(result, tmp_path / "made.bench.json")
    return tmp_path / "made.bench.json"


def test_what_is_written_is_read_again(result: Result, file: Path) -> None:
    again = results.read(file)
    assert again.runs[0].measurements == result.runs[0].measurements
    assert again.runs[1].stable == result.runs[1].stable
    assert again.ratios == result.ratios
    before = file.read_bytes()
    results.write(again, file)
    assert file.read_bytes() == before


def at(plain: Any, path: str, value: Any) -> Any:
    """The same with another value at a path, or without what is there."""
    *around, last = path.split(".")
    found = plain
    for key in around:
        found = found[int(key) if key.isdigit() else key]
    if value is None:
        del found[last]
    else:
        found[last] = value
    return plain


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("schema", 2, "has schema 2, and this version reads 1"),
        ("schema", None, "is no result of a benchmark"),
        ("created", None, "created: field required"),
        ("runs.0.stable", "yes", "runs.0.stable"),
        ("runs.0.kind", "guessed", "'measured', 'emulated' or 'predicted'"),
        ("runs.0.file_bytes", 1.5, "runs.0.file_bytes"),
        ("runs.0.taken.0.cell.threads", "2", "runs.0.taken.0.cell.threads"),
        ("ratios.0.estimate.low", "x", "ratios.0.estimate.low"),
    ],
)
def test_a_file_with_something_else_in_it_is_refused_and_named(file: Path, path: str, value: Any, said: str) -> None:
    file.write_text(json.dumps(at(json.loads(file.read_text()), path, value)))
    with pytest.raises(InputError) as caught:
        results.read(file)
    assert said in caught.value.message
    assert str(file) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_result_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json is no|x\.json cannot"):
        results.read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        results.read(tmp_path / "nothing.json")


def test_the_schema_in_the_catalogue_is_what_the_types_say() -> None:
    assert (FOLDER / "schema.json").read_text(encoding="utf-8") == results.schema_json(), (
        "write it again with the command in benchmarks/results/README.md"
    )


def test_the_schema_says_what_every_key_is() -> None:
    made = results.schema()
    entries = {"Result": made, **made["$defs"]}
    bare = [
        f"{name}.{key}"
        for name, entry in entries.items()
        for key, of in entry["properties"].items()
        if "description" not in of
    ]
    assert bare == []


def test_every_key_that_is_written_is_in_the_schema(file: Path) -> None:
    made = results.schema()

    def check(plain: Any, entry: Any, where: str) -> None:
        entry = made["$defs"][entry["$ref"].rpartition("/")[2]] if "$ref" in entry else entry
        if isinstance(plain, dict) and "properties" in entry:
            assert plain.keys() <= entry["properties"].keys(), where
            assert set(entry.get("required", ())) <= plain.keys(), where
            for key, value in plain.items():
                check(value, entry["properties"][key], f"{where}.{key}")
        elif isinstance(plain, list) and "$ref" in entry.get("items", {}):
            for value in plain:
                check(value, entry["items"], where)

    check(json.loads(file.read_text()), made, "result")


def test_the_readme_names_every_unit_and_figure() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for word in (
        "latency",
        "throughput",
        "cold_start",
        "memory_peak",
        "answers_equal",
        "decode@",
        "pandas",
        "fromJSON",
    ):
        assert word in readme
