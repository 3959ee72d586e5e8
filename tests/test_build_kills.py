"""A build may be killed at any moment: the next one goes on, and its bundle has the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgedistill.store import hashes
from tests.test_pipeline import write_config

KILLS = 10


@pytest.mark.timeout(900)
def test_a_build_killed_ten_times_ends_in_the_same_bytes(tmp_path: Path, tiny_rows: Path, tiny_teacher: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        write_config(folder, tiny_rows, tiny_teacher, epochs=12)
    started = time.monotonic()
    assert _build(whole).wait() == 0
    duration = time.monotonic() - started
    chance, kills = random.Random(7), 0
    while kills < KILLS:
        child = _build(broken)
        try:
            assert child.wait(timeout=chance.uniform(0.1, 0.6) * duration) == 0
            shutil.rmtree(broken / ".edgedistill")  # finished between two kills: once more from the start
            shutil.rmtree(broken / "dist")
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            kills += 1
    assert _build(broken).wait() == 0
    bundles = [folder / "dist" / "toy-raspberrypi5" for folder in (whole, broken)]
    measured = {"manifest.json", "README.md"}
    expected, found = ({k: v for k, v in hashes(bundle).items() if k not in measured} for bundle in bundles)
    assert {"model/model.onnx", "tokenizer.json", "runtime/__main__.py"} <= expected.keys()
    assert found == expected
    assert not list((broken / ".edgedistill" / "work").iterdir())


def _build(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgedistill.cli", "build"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
