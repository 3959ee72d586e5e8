"""What is written in the file and on the command line becomes one request, or all that is wrong with it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    (folder / "edgedistill.toml").write_text(TEMPLATE, encoding="utf-8")
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
