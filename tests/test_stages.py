"""Every stage is announced, timed, and named in what it raises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgedistill.config import Request
from edgedistill.errors import InputError, StageError
from edgedistill.stages import UNWATCHED, Run
from edgedistill.store import Store


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Store(tmp_path / "store") as store:
        yield Run(Request(), store, UNWATCHED)


@pytest.mark.parametrize("error", [OSError("disk"), KeyError("key"), Exception("plain"), ZeroDivisionError("zero")])
def test_whatever_is_raised_by_accident_names_the_stage_and_how_to_go_on(run: Run, error: Exception) -> None:
    with (
        pytest.raises(StageError, match=f"stage 'export' failed: {type(error).__name__}") as caught,
        run.stage("export"),
    ):
        raise error
    assert str(run.store.root) in str(caught.value.hint)


def test_a_library_that_raises_plain_exceptions_is_no_exception(run: Run, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="stage 'plan' failed"), run.stage("plan"):
        Tokenizer.from_file(str(tmp_path / "nowhere.json"))


def test_an_error_meant_for_people_is_left_as_it_is(run: Run) -> None:
    with pytest.raises(InputError, match=r"^mine$"), run.stage("rows"):
        raise InputError("mine")


def test_being_stopped_is_no_failure_of_the_stage(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt), run.stage("rows"):
        raise KeyboardInterrupt
