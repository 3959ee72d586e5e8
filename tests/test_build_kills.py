"""A build may be killed at any moment: the next one goes on, and its bundle has the bytes of an uninterrupted one."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgedistill.cli import main
from edgedistill.store import hashes
from tests import forks
from tests.test_pipeline import write_config

KILLS = 10
IMPORTED = ("torch", "transformers", "edgedistill.distill.trainer", "edgedistill.report.render", "edgedistill.pipeline")


@pytest.mark.timeout(900)
def test_a_build_killed_ten_times_ends_in_the_same_bytes(
    tmp_path: Path, tiny_rows: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No bytes of a bundle come from the emulated check, which has tests of its own and takes as long as the training.
    monkeypatch.setenv("EDGEDISTILL_AARCH64_ROOT", str(tmp_path / "nothing"))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        write_config(folder, tiny_rows, tiny_teacher, epochs=12)
    started = time.monotonic()
    # A process of its own, as a user's is: the forks below share what Python draws when it starts, as the hashes' seed.
    command = [sys.executable, "-m", "edgedistill.cli", "build"]
    subprocess.run(command, cwd=whole, check=True, capture_output=True)
    duration = time.monotonic() - started
    chance, kills = random.Random(7), 0
    while kills < KILLS:
        child = forks.start(IMPORTED, broken, build)
        child.join(chance.uniform(0.02, 0.4) * duration)
        if child.is_alive():
            forks.kill(child)
            kills += 1
        else:
            assert child.exitcode == 0
            shutil.rmtree(broken / ".edgedistill")  # finished between two kills: once more from the start
            shutil.rmtree(broken / "dist")
    child = forks.start(IMPORTED, broken, build)
    child.join()
    assert child.exitcode == 0
    bundles = [folder / "dist" / "toy-raspberrypi5" for folder in (whole, broken)]
    measured = {"manifest.json", "README.md"}
    expected, found = ({k: v for k, v in hashes(bundle).items() if k not in measured} for bundle in bundles)
    assert {"model/model.onnx", "tokenizer.json", "runtime/__main__.py"} <= expected.keys()
    assert found == expected
    assert not list((broken / ".edgedistill" / "work").iterdir())


def build() -> None:
    sys.argv = ["edgedistill", "build"]
    main()
