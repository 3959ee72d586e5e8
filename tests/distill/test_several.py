"""However a step is split, over parts or processes, and a model too, the curve is that of one that takes it whole."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgedistill.distill import sharded, trainer
from edgedistill.errors import InputError
from edgedistill.store import ENTRY
from tests.distill import several

LAUNCH = [
    "-m",
    "accelerate.commands.launch",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
]
TWO = [*LAUNCH, "--multi_gpu", "--num_processes", "2"]
"""Without multi_gpu, accelerate starts a single process on a machine that has no card."""
SPLITS: dict[int, tuple[list[str], tuple[int, ...]]] = {1: ([], (1, 3)), 2: (TWO, (1, 2))}
"""How so many processes are started, and in how many parts they take their steps."""
STATES = {"answers": "SHARDED_STATE_DICT"}
"""How a lesson's model is kept in checkpoints, if not whole."""
KILLED_AT = 11
"""A step behind the first checkpoint of each lesson, and before its end."""
Curve = list[dict[str, float]]
Trained = Callable[[str, int, int], Path]
"""The folder of a training: of a lesson, by so many processes, in so many parts."""


def documented(state: str) -> str:
    """The configuration for accelerate that users are given, for two processes."""
    readme = Path(trainer.__file__).with_name("README.md").read_text(encoding="utf-8")
    text = readme.split("```yaml\n")[1].split("```")[0]
    for said, meant in (("processes: 4", "processes: 2"), ("bf16", "'no'"), ("SHARDED_STATE_DICT", state)):
        assert text.count(said) == 1
        text = text.replace(said, meant)
    return text


def launch(
    arguments: list[str], teacher: Path, rows: Path, trainings: Iterable[tuple[str, int, Path]], killed_at: int = 0
) -> None:
    """Has trainings done, one after the other: lessons, in so many parts, in folders."""
    todo = []
    for lesson, parts, folder in trainings:
        folder.mkdir(parents=True, exist_ok=True)
        todo.append(f"{lesson}:{parts}:{folder}")
    command = [sys.executable, *arguments, several.__file__, str(teacher), str(rows), str(killed_at), *todo]
    environment = os.environ | {"PYTHONPATH": str(Path(several.__file__).parents[2])}
    subprocess.run(command, check=True, env=environment, timeout=300)


def read(folder: Path, *, sharded: bool = False, processes: int = 1) -> Curve:
    """The curve of a training that was done as it was asked for."""
    found = json.loads((folder / several.RESULT).read_text())
    assert (found["sharded"], found["processes"]) == ([sharded], processes)
    curve: Curve = found["curve"]
    return curve


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_rows: Path) -> Trained:
    """Trains when it is first asked, each lesson in 1 and in `parts` parts: to start processes takes the longest."""
    base = tmp_path_factory.mktemp("split")

    def folder(lesson: str, processes: int, parts: int) -> Path:
        return base / f"{processes} processes" / f"{parts} parts" / lesson

    @functools.cache
    def all_lessons(processes: int) -> None:
        arguments, parts = SPLITS[processes]
        every = [(lesson, count, folder(lesson, processes, count)) for lesson in several.LESSONS for count in parts]
        launch(arguments, tiny_teacher, tiny_rows, every)

    def one(lesson: str, processes: int, parts: int) -> Path:
        all_lessons(processes)
        return folder(lesson, processes, parts)

    return one


@pytest.fixture(scope="module", params=several.LESSONS)
def lesson(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(lesson: str, trained: Trained) -> Path:
    """The folder of one process that takes every step whole."""
    return trained(lesson, 1, 1)


@pytest.fixture(scope="module")
def alone(whole: Path) -> Curve:
    return read(whole)


@pytest.mark.parametrize(
    ("processes", "parts"),
    [(1, 3), (2, 1), (2, 2)],
    ids=["three parts", "two processes", "two processes, two parts"],
)
def test_a_split_step_gives_the_curve_of_a_whole_one(
    lesson: str, alone: Curve, trained: Trained, processes: int, parts: int
) -> None:
    curve = read(trained(lesson, processes, parts), processes=processes)
    assert len(curve) == len(alone) > 10
    _compare(curve, alone)


@pytest.fixture(scope="module")
def killed(
    tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_rows: Path
) -> dict[str, tuple[Path, list[bool], bool]]:
    """Of each lesson's sharded model: the folder of a training that was killed and then went to its end.

    And whether each checkpoint was complete when it was killed, and whether it had come to its end before.
    """
    base = tmp_path_factory.mktemp("sharded")
    found = {}
    for state in ("FULL_STATE_DICT", "SHARDED_STATE_DICT"):
        settings = base / f"{state}.yaml"
        settings.write_text(documented(state))
        arguments = [*LAUNCH[:2], "--config_file", str(settings)]
        kept_so = [one for one in several.LESSONS if STATES.get(one, "FULL_STATE_DICT") == state]
        folders = {one: base / one for one in kept_so}
        trainings = [(one, 1, folder) for one, folder in folders.items()]
        launch(arguments, tiny_teacher, tiny_rows, trainings, KILLED_AT)
        for one, folder in folders.items():
            kept = sorted((folder / several.WORK).glob("checkpoint-*"))
            complete = [(checkpoint / ENTRY).is_file() for checkpoint in kept]
            found[one] = folder, complete, (folder / several.RESULT).exists()
        launch(arguments, tiny_teacher, tiny_rows, trainings)
    return found


def test_a_sharded_model_learns_as_a_whole_one_does_and_resumes_and_is_whole_in_the_end(
    lesson: str, whole: Path, alone: Curve, killed: dict[str, tuple[Path, list[bool], bool]]
) -> None:
    folder, complete, ended = killed[lesson]
    assert not ended
    assert complete == [True] * len(complete) != []
    _compare(read(folder, sharded=True, processes=2), alone)
    expected = load_file(whole / "weights-0.safetensors")
    for process in range(2):
        weights = load_file(folder / f"weights-{process}.safetensors")
        assert weights.keys() == expected.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-4)


def test_the_first_version_of_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(InputError, match="version 1"):
        sharded.asked_for()


def test_sharded_weights_are_shared_among_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert sharded.processes() == 1  # DDP: each has all of them
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharded.processes() == 4


def _compare(curve: Curve, expected: Curve) -> None:
    for point, other in zip(curve, expected, strict=True):
        assert point == pytest.approx(other, rel=1e-5, abs=1e-4)
