"""The arm64 side: made once from public packages where qemu is there, and plainly not measured where it is not."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import pytest

from edgedistill.errors import EngineCrashed, StageError
from edgedistill.links import arm64_root, emulated, local

CAN_BE_MADE = all(shutil.which(tool) for tool in (arm64_root.EMULATOR, "apt-get", "dpkg")) and (
    'VERSION_ID="12"' in Path("/etc/os-release").read_text(encoding="utf-8")
)


def test_without_the_emulator_the_reason_and_the_remedy_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    missing = emulated.missing()
    assert missing is not None
    assert "qemu-aarch64-static is not installed" in missing.reason
    assert missing.remedy is not None
    assert "apt install qemu-user-static" in missing.remedy


@pytest.mark.parametrize(
    ("release", "found"),
    [
        ({"ID": "ubuntu", "VERSION_ID": "24.04", "PRETTY_NAME": "Ubuntu 24.04"}, "Ubuntu 24.04"),
        ({"ID": "debian", "VERSION_ID": "13", "PRETTY_NAME": "Debian GNU/Linux 13"}, "Debian GNU/Linux 13"),
    ],
)
def test_another_system_than_the_one_whose_packages_are_named_is_refused_by_its_name(
    release: dict[str, str], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    with pytest.raises(StageError, match=f"Debian 12, and this is {found}"):
        arm64_root.install()


@pytest.mark.skipif(not CAN_BE_MADE, reason="needs qemu-user-static on Debian 12")
def test_a_root_of_other_versions_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDISTILL_AARCH64_ROOT", str(tmp_path))
    (tmp_path / "ready.json").write_text(json.dumps(arm64_root.wanted() | {"onnxruntime": "1.0.0"}))
    missing = emulated.missing()
    assert missing is not None
    assert "1.0.0" in missing.reason


@pytest.mark.skipif(not CAN_BE_MADE, reason="needs qemu-user-static on Debian 12")
def test_a_root_without_llama_cpp_still_serves_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDISTILL_AARCH64_ROOT", str(tmp_path))
    (tmp_path / "ready.json").write_text(json.dumps(arm64_root.wanted()))
    assert emulated.missing() is None
    missing = emulated.missing(arm64_root.DECODING)
    assert missing is not None
    assert missing.reason.endswith(f"what runs in it is xllamacpp {arm64_root.DECODING['xllamacpp']}")
    assert missing.remedy == "edgedistill doctor --setup-emulator"
    unpacked: list[str] = []
    monkeypatch.setattr(arm64_root, "_unpack_debian", lambda _, names: unpacked.extend(names))
    with monkeypatch.context() as offline:
        offline.setattr(local, "run", refuse)
        with pytest.raises(EngineCrashed):
            arm64_root.install_decoding()
    assert emulated.missing() is None
    assert emulated.missing(arm64_root.DECODING) is not None
    monkeypatch.setattr(arm64_root, "_unpack_wheels", lambda _, pins: unpacked.extend(pins))
    arm64_root.install_decoding()
    assert emulated.missing() is None
    assert emulated.missing(arm64_root.DECODING) is None
    assert unpacked == [*arm64_root.DECODING_PACKAGES, *arm64_root.DECODING_PACKAGES, *arm64_root.DECODING]


def refuse(*_: object, **__: object) -> str:
    raise EngineCrashed("pip ended with status 1: no such package")


@pytest.mark.skipif(not CAN_BE_MADE, reason="needs qemu-user-static on Debian 12")
def test_a_root_is_made_and_runs_arm64_python_with_the_pinned_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTILL_AARCH64_ROOT", str(tmp_path / "root"))
    assert emulated.missing() is not None
    arm64_root.install()
    assert emulated.missing() is None
    program = "import platform, onnxruntime; print(platform.machine(), onnxruntime.__version__)"
    out = emulated.run(["-c", program], cpu="cortex-a72", cwd=tmp_path)
    assert out.split() == ["aarch64", arm64_root.wanted()["onnxruntime"]]
