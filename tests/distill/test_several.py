"""However a step is split, over parts or processes, and a model too, the curve is that of one that takes it whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
STATES = {"answers": "SHARDED_STATE_DICT"}
"""How a lesson's model is kept in checkpoints, if not whole."""
RESULT = "curve.json"
KILLED_AT = 11
"""A step behind the first checkpoint of each lesson, and before its end."""
Curve = list[dict[str, float]]


def documented(state: str) -> str:
    """The configuration for accelerate that users are given, for two processes."""
    readme = Path(trainer.__file__).with_name("README.md").read_text(encoding="utf-8")
    text = readme.split("```yaml\n")[1].split("```")[0]
    for said, meant in (("processes: 4", "processes: 2"), ("bf16", "'no'"), ("SHARDED_STATE_DICT", state)):
        assert text.count(said) == 1
        text = text.replace(said, meant)
    return text


def launch(
    lesson: str, arguments: list[str], folder: Path, teacher: Path, rows: Path, parts: int, *killed_at: int
) -> bool:
    """Whether the training went to its end."""
    script = [several.__file__, lesson, str(teacher), str(rows), str(folder / "work"), str(folder / RESULT), str(parts)]
    environment = os.environ | {"PYTHONPATH": str(Path(several.__file__).parents[2])}
    command = [sys.executable, *arguments, *script, *map(str, killed_at)]
    return subprocess.run(command, check=not killed_at, env=environment, timeout=300).returncode == 0


def trained(
    lesson: str, arguments: list[str], folder: Path, teacher: Path, rows: Path, parts: int
) -> tuple[int, Curve]:
    launch(lesson, arguments, folder, teacher, rows, parts)
    found = json.loads((folder / RESULT).read_text())
    assert found["sharded"] == [False]
    return found["processes"], found["curve"]


@pytest.fixture(scope="module", params=several.LESSONS)
def lesson(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(lesson: str, tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_rows: Path) -> Path:
    """The folder of one process that takes every step whole."""
    folder = tmp_path_factory.mktemp("alone")
    launch(lesson, [], folder, tiny_teacher, tiny_rows, 1)
    return folder


@pytest.fixture(scope="module")
def alone(whole: Path) -> Curve:
    found: Curve = json.loads((whole / RESULT).read_text())["curve"]
    return found


@pytest.mark.parametrize(
    ("arguments", "processes", "parts"),
    [([], 1, 3), (TWO, 2, 1), (TWO, 2, 2)],
    ids=["three parts", "two processes", "two processes, two parts"],
)
def test_a_split_step_gives_the_curve_of_a_whole_one(
    lesson: str,
    alone: Curve,
    tmp_path: Path,
    tiny_teacher: Path,
    tiny_rows: Path,
    arguments: list[str],
    processes: int,
    parts: int,
) -> None:
    started, curve = trained(lesson, arguments, tmp_path, tiny_teacher, tiny_rows, parts)
    assert started == processes
    assert len(curve) == len(alone) > 10
    _compare(curve, alone)


def test_a_sharded_model_learns_as_a_whole_one_does_and_resumes_and_is_whole_in_the_end(
    lesson: str, whole: Path, alone: Curve, tmp_path: Path, tiny_teacher: Path, tiny_rows: Path
) -> None:
    settings = tmp_path / "fsdp.yaml"
    settings.write_text(documented(STATES.get(lesson, "FULL_STATE_DICT")))
    arguments = [*LAUNCH[:2], "--config_file", str(settings)]
    assert not launch(lesson, arguments, tmp_path, tiny_teacher, tiny_rows, 1, KILLED_AT)
    kept = sorted((tmp_path / "work").glob("checkpoint-*"))
    assert [(folder / ENTRY).is_file() for folder in kept] == [True] * len(kept) != []
    launch(lesson, arguments, tmp_path, tiny_teacher, tiny_rows, 1)
    found = json.loads((tmp_path / RESULT).read_text())
    assert (found["sharded"], found["processes"]) == ([True], 2)
    _compare(found["curve"], alone)
    expected = load_file(whole / "weights-0.safetensors")
    for process in range(2):
        weights = load_file(tmp_path / f"weights-{process}.safetensors")
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
