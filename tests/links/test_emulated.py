"""The arm64 side: made once from public packages where qemu is there, and plainly not measured where it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgedistill.links import emulated

CAN_BE_MADE = all(shutil.which(tool) for tool in (emulated.EMULATOR, "apt-get", "dpkg"))


def test_without_the_emulator_the_reason_and_the_remedy_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    missing = emulated.missing()
    assert missing is not None
    assert "qemu-aarch64-static is not installed" in missing.reason
    assert missing.remedy is not None
    assert "apt install qemu-user-static" in missing.remedy


@pytest.mark.skipif(not CAN_BE_MADE, reason="needs qemu-user-static on Debian or Ubuntu")
def test_a_root_of_other_versions_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDISTILL_AARCH64_ROOT", str(tmp_path))
    (tmp_path / "ready.json").write_text(json.dumps(emulated.wanted() | {"onnxruntime": "1.0.0"}))
    missing = emulated.missing()
    assert missing is not None
    assert "1.0.0" in missing.reason


@pytest.mark.skipif(not CAN_BE_MADE, reason="needs qemu-user-static on Debian or Ubuntu")
def test_a_root_is_made_and_runs_arm64_python_with_the_pinned_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTILL_AARCH64_ROOT", str(tmp_path / "root"))
    assert emulated.missing() is not None
    emulated.install()
    assert emulated.missing() is None
    program = "import platform, onnxruntime; print(platform.machine(), onnxruntime.__version__)"
    out = emulated.run(["-c", program], cpu="cortex-a72", cwd=tmp_path)
    assert out.split() == ["aarch64", emulated.wanted()["onnxruntime"]]
