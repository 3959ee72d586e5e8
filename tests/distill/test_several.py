"""However a step is split, over parts or over processes, the curve is that of one process that takes it whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
Curve = list[dict[str, float]]


def trained(
    lesson: str, arguments: list[str], folder: Path, teacher: Path, rows: Path, parts: int
) -> tuple[int, Curve]:
    result = folder / "curve.json"
    script = [several.__file__, lesson, str(teacher), str(rows), str(folder / "work"), str(result), str(parts)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(several.__file__).parents[2])}
    subprocess.run([sys.executable, *arguments, *script], check=True, env=environment, timeout=300)
    found = json.loads(result.read_text())
    return found["processes"], found["curve"]


@pytest.fixture(scope="module", params=several.LESSONS)
def lesson(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def alone(lesson: str, tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_rows: Path) -> Curve:
    return trained(lesson, [], tmp_path_factory.mktemp("alone"), tiny_teacher, tiny_rows, 1)[1]


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
    for point, expected in zip(curve, alone, strict=True):
        assert point == pytest.approx(expected, rel=1e-5, abs=1e-4)
