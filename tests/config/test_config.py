"""What is written in the file and on the command line becomes one request, or all that is wrong with it is said."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgedistill.catalog import read_toml
from edgedistill.config import TEMPLATE, Request, read_request
from edgedistill.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_file_the_defaults_build_the_example(folder: Path) -> None:
    request = read_request(target="raspberrypi")
    assert request.target == "raspberrypi5"
    assert request.data.folder == "demo"
    assert request.name == "smart-home"


def test_the_written_template_states_the_defaults(folder: Path) -> None:
    (folder / "edgedistill.toml").write_bytes(TEMPLATE.read_bytes())
    written, defaults = read_request().model_dump(), Request().model_dump()
    for own in ("name", "target"):
        written.pop(own)
        defaults.pop(own)
    written["data"].pop("folder")
    defaults["data"].pop("folder")
    assert written == defaults


def test_flags_lie_over_the_file_and_paths_in_the_file_are_relative_to_it(folder: Path) -> None:
    (folder / "project" / "rows").mkdir(parents=True)
    file = folder / "project" / "mine.toml"
    file.write_text('name = "x"\nseed = 4\n[data]\nfolder = "rows"\n')
    request = read_request(file, seed=7, out=Path("elsewhere"))
    assert (request.seed, request.out) == (7, Path("elsewhere"))
    assert Path(request.data.folder) == folder / "project" / "rows"


def test_a_folder_of_rows_names_the_bundle(folder: Path) -> None:
    assert read_request(data="some/My Rows.jsonl").name == "my-rows"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("rows", "rows"),
        ("sets/rows-1.0", "rows-1-0"),
        ("rows-1.1", "rows-1-1"),
        ("rows-1.1.csv", "rows-1-1"),
        ("./demo", "demo"),
        ("demo", "smart-home"),
        ("..", "student"),
    ],
)
def test_the_folder_names_the_bundle_from_the_file_as_from_a_flag(folder: Path, data: str, name: str) -> None:
    assert read_request(data=data).name == name
    (folder / "edgedistill.toml").write_text(f'[data]\nfolder = "{data}"\n')
    assert read_request().name == name
    (folder / "edgedistill.toml").write_text(f'name = "mine"\n[data]\nfolder = "{data}"\n')
    assert read_request().name == "mine"


@pytest.mark.parametrize("written", ["demo", "./demo", "demo/"])
def test_demo_is_the_embedded_rows_even_where_a_folder_is_called_so(folder: Path, written: str) -> None:
    (folder / "demo").mkdir()
    (folder / "edgedistill.toml").write_text(f'[data]\nfolder = "{written}"\n')
    (folder / "project").mkdir()
    (folder / "project" / "demo").mkdir()
    (folder / "project" / "mine.toml").write_text(f'[data]\nfolder = "{written}"\n')
    requests = [read_request(), read_request(folder / "project" / "mine.toml"), read_request(data=written)]
    for found in requests:
        assert (found.data.folder == "demo") is (written == "demo")
        assert (found.name == "smart-home") is (written == "demo")
    if written != "demo":
        assert Path(requests[0].data.folder) == Path("demo")
        assert Path(requests[1].data.folder) == folder / "project" / "demo"


def test_every_problem_is_named_with_its_file_and_key(folder: Path) -> None:
    (folder / "edgedistill.toml").write_text('colour = "red"\nseed = "x"\n[goals]\nretained = 2\n')
    with pytest.raises(InputError) as caught:
        read_request()
    for word in ("edgedistill.toml", "3 problems", "colour", "seed", "goals.retained"):
        assert word in caught.value.message


def test_broken_toml_names_its_line(folder: Path) -> None:
    (folder / "edgedistill.toml").write_text("name = \n")
    with pytest.raises(InputError, match="line 1"):
        read_request()


def test_a_section_that_is_no_table_is_said(folder: Path) -> None:
    (folder / "edgedistill.toml").write_text('data = "rows"\n')
    with pytest.raises(InputError, match="must be a table"):
        read_request()
    assert read_toml(folder / "edgedistill.toml") == {"data": "rows"}


def uncommented() -> str:
    """The template with every key that it only shows."""
    text, count = re.subn(r"(?m)^# (?=\[|\w+ = )", "", TEMPLATE.read_text(encoding="utf-8"))
    assert count > 40
    return text


def test_every_commented_key_of_the_template_is_one_that_exists() -> None:
    with pytest.raises(ValidationError) as caught:
        Request.model_validate(tomllib.loads(uncommented()))
    # Some have no effect beside others; none is unknown, nor has a value of another kind.
    assert {problem["type"] for problem in caught.value.errors()} == {"value_error"}


@pytest.mark.parametrize(
    ("section", "following", "task"),
    [("label", "gates", "classification"), ("gates", "judge", "classification"), ("judge", "teacher", "conversation")],
)
def test_a_commented_section_of_the_template_can_be_taken_as_it_is(
    section: str, following: str, task: str, tmp_path: Path
) -> None:
    text = uncommented()
    config = tmp_path / "part.toml"
    config.write_text(text[text.index(f"\n[{section}]") : text.index(f"\n[{following}]")])
    assert getattr(read_request(config, task=task), section) != getattr(Request(), section)


@pytest.mark.parametrize("task", ["classification", "summarization"])
def test_a_request_survives_its_own_json(task: str) -> None:
    request = Request.model_validate({"name": "shop", "task": task})
    assert Request.model_validate_json(request.model_dump_json()) == request
