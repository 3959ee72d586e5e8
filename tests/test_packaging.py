"""What is shipped: a wheel that holds edgedistill and nothing else, and that runs where nothing else is installed."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENOUGH_FOR_TARGETS = ("pydantic", "rich", "typer")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_one_package_and_its_catalogue(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"edgedistill"}
    for needed in (
        "edgedistill/_catalog/devices/raspberrypi5.toml",
        "edgedistill/_catalog/export/onnx-int8-dynamic.toml",
        "edgedistill/_catalog/benchmarks/workloads/classification.toml",
        "edgedistill/data/smarthome.toml",
        "edgedistill/report/page.html.jinja",
        "edgedistill/runtime/__main__.py",
        "edgedistill/py.typed",
    ):
        assert needed in names


def test_the_wheel_lists_targets_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    pip = [sys.executable, "-m", "pip", "--python", str(python), *install]
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True, capture_output=True)
    # Listing boards needs no torch; the rest of the dependencies would only be a gigabyte of waiting.
    subprocess.run([*pip, *ENOUGH_FOR_TARGETS], check=True, capture_output=True)
    done = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "edgedistill"), "targets"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "raspberrypi5" in done.stdout
    assert "Raspberry Pi 5" in done.stdout
