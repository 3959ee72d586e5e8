"""The number of threads in a bundle is set by the board that it was built for, and the bundle stays whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedistill import catalog
from edgedistill.bench import harness
from edgedistill.bench.course import of_bundle
from edgedistill.bench.rows import Asked
from edgedistill.bundle import manifest, threads
from edgedistill.errors import IntegrityError
from edgedistill.types import Result
from tests.bench.devices import Made, read


def sealed(folder: Path, target: str) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.onnx").write_bytes(b"1")
    (folder / "runtime").mkdir()
    (folder / "runtime" / "cell.py").touch()
    model = {"recipe": "int8", "labels": ["off", "on"]}
    engine = {"name": "onnxruntime", "version": "1", "threads": 1}
    content = {"name": "made", "target": target, "task": "classification", "engine": engine, "model": model}
    manifest.seal(folder, content)
    return folder


def measured(folder: Path, *links: Made) -> Result:
    workload = replace(catalog.workload("classification"), rounds=1, rows=9, answer_rows=4, within=None)
    asked = Asked(texts=tuple("abcdefghi"))
    return harness.bench(folder, [of_bundle(folder, link) for link in links], asked, workload)


@pytest.mark.parametrize(
    ("target", "address", "machine", "wanted", "writes"),
    [
        ("cpu", "local", "a laptop", None, True),
        ("cpu", "local", "a laptop", False, False),
        ("raspberrypi5", "local", "a laptop", None, False),
        ("raspberrypi5", "local", "a laptop", True, True),
        ("raspberrypi5", "ssh://pi", "Raspberry Pi 5 Model B Rev 1.0", None, True),
        ("raspberrypi5", "ssh://pi", "Raspberry Pi 4 Model B Rev 1.2", None, False),
        ("raspberrypi3", "ssh://pi", "Raspberry Pi 3 Model B Plus Rev 1.3", None, True),
        ("raspberrypi3", "ssh://pi", "Raspberry Pi 3 Model B Rev 1.2", None, False),
        ("x86-n100", "local", "Intel(R) N100, 4 cores", None, True),
        ("browser", "browser://", "", None, True),
    ],
)
def test_only_a_run_on_the_target_sets_the_threads(
    tmp_path: Path, target: str, address: str, machine: str, wanted: Any, writes: bool
) -> None:
    folder = sealed(tmp_path / "made", target)
    result = measured(folder, Made(address, cores=4))
    run = replace(result.runs[0], environment={**result.runs[0].environment, "machine": machine})
    told = threads.write(folder, replace(result, runs=(run,)), wanted=wanted)
    chosen = run.in_effect["threads"] if writes else 1
    assert read(folder)["engine"]["threads"] == chosen
    assert bool(told.remarks) == writes
    assert told.bundle["digest"] == read(folder)["digest"]
    manifest.verify(folder)


@pytest.mark.parametrize(("machine", "writes"), [("Orange Pi 5", True), ("Orange Pi 5 Plus", False)])
def test_a_board_that_was_added_is_known_by_what_it_calls_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, writes: bool
) -> None:
    profile = (catalog.ROOT / "devices" / "raspberrypi5.toml").read_text()
    lines = [line for line in profile.splitlines() if not line.startswith(("title", "aliases"))]
    (tmp_path / "devices").mkdir()
    head = ['title = "Orange Pi 5, 8 cores, 8.0 GB"', 'machine = "Orange Pi 5"']
    (tmp_path / "devices" / "mine.toml").write_text("\n".join(head + lines))
    monkeypatch.chdir(tmp_path)
    run = measured(sealed(tmp_path / "made", "mine"), Made("ssh://pi", cores=4)).runs[0]
    assert threads.is_target("mine", replace(run, environment={"machine": machine})) == writes


def test_a_bundle_that_cannot_be_written_costs_a_remark_and_not_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sealed(tmp_path / "made", "cpu")
    result = measured(folder, Made(cores=4))

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(manifest, "set_threads", refused)
    told = threads.write(folder, result, wanted=None)
    assert "cannot be written: Permission denied" in told.remarks[0]
    assert told.bundle == result.bundle


def test_a_run_that_is_not_to_be_believed_sets_nothing_unless_it_is_asked_to(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "made", "cpu")
    result = measured(folder, Made(cores=4))
    unstable = replace(result, runs=(replace(result.runs[0], stable=False),))
    found = threads.write(folder, unstable, wanted=None)
    assert found == replace(unstable, remarks=found.remarks)
    assert found.remarks == ("the bundle still starts 1 threads: the run on its own board is unstable",)
    assert read(folder)["engine"]["threads"] == 1
    threads.write(folder, unstable, wanted=True)
    assert read(folder)["engine"]["threads"] > 1


def test_nothing_was_tried_and_that_is_said(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "made", "cpu")
    told = threads.write(folder, measured(folder, Made(cores=1)), wanted=True)
    assert "no device tried several" in told.remarks[0]


def test_a_bundle_that_was_changed_is_not_sealed_again(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "made", "cpu")
    (folder / "model" / "model.onnx").write_bytes(b"2")
    with pytest.raises(IntegrityError, match=r"model\.onnx: changed"):
        manifest.set_threads(folder, 4)
