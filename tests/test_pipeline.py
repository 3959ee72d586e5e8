"""Whole builds on a tiny teacher: real training, a real file, real measuring processes, a real bundle."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgedistill import pipeline
from edgedistill.bench.machine import environment
from edgedistill.bundle import manifest
from edgedistill.config import Request, read_request
from edgedistill.errors import EngineCrashed, InputError, StageError
from edgedistill.links import emulated, local
from edgedistill.pipeline import bundling
from edgedistill.stages import UNWATCHED, Run
from edgedistill.store import Output, Store, digest, hashes

CONFIG = """\
name = "toy"
target = "raspberrypi"
[data]
folder = "{rows}"
max_tokens = 32
[teacher]
model = "{teacher}"
epochs = 3
learning_rate = 2e-3
[student]
layers = 2
[distill]
epochs = {epochs}
learning_rate = 2e-3
batch_tokens = 128
checkpoint_steps = 10
[export]
tolerance = 0.2
[goals]
retained = {retained}
latency_ratio = 0.01
size_ratio = 1.0
[bench]
workload = "quick"
"""
WORKLOAD = 'task = "classification"\nrows = 20\nbatch_rows = 8\nthreads = 1\nrounds = 1\n'


def write_config(folder: Path, rows: Path, teacher: Path, *, epochs: int = 4, retained: float = 0.1) -> Path:
    """A working folder with a configuration and, in it, a workload of its own."""
    (folder / "benchmarks" / "workloads").mkdir(parents=True)
    (folder / "benchmarks" / "workloads" / "quick.toml").write_text(WORKLOAD)
    path = folder / "edgedistill.toml"
    path.write_text(CONFIG.format(rows=rows, teacher=teacher, epochs=epochs, retained=retained))
    return path


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_rows: Path, tiny_teacher: Path) -> Path:
    folder = tmp_path_factory.mktemp("project")
    config = write_config(folder, tiny_rows, tiny_teacher)
    config.write_text(config.read_text().replace("tolerance = 0.2", "tolerance = 0.2\napp = true"))
    return folder


@pytest.fixture(scope="module")
def built(project: Path) -> pipeline.Built:
    with working_in(project):
        return pipeline.build(read_request())


@pytest.fixture
def request_in(project: Path, built: pipeline.Built, monkeypatch: pytest.MonkeyPatch) -> Request:
    monkeypatch.chdir(project)
    return read_request()


def test_a_build_ends_in_a_bundle_that_verifies_and_a_report(project: Path, built: pipeline.Built) -> None:
    bundle = manifest.verify(project / built.bundle)
    assert bundle.manifest["engine"]["version"].startswith("1.26")
    assert {number["kind"] for number in bundle.manifest["numbers"]} >= {"measured", "predicted"}
    assert [arm["name"] for arm in built.report["arms"]] == ["teacher", "control", "student", "exported"]
    assert built.report["contrasts"][0]["name"] == "retained"
    page = (project / built.page).read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    card = (project / built.bundle / "README.md").read_text(encoding="utf-8")
    assert "python -m runtime predict" in card
    app = built.report["export"]["app"]
    assert (app["file"], app["rows"]) == ("app.onnx", 240)
    assert app["file"] in card
    assert app["file"] in page
    twin = (project / built.page).with_suffix(".md").read_text(encoding="utf-8")
    assert app["file"] in twin
    assert twin.startswith("# ")
    assert "app.onnx" in bundle.manifest["files"]


def test_the_student_and_its_control_take_the_same_steps(built: pipeline.Built) -> None:
    curves = built.report["curves"]
    assert curves["student"][-1]["step"] == curves["control"][-1]["step"] > 0
    assert "kd" in curves["student"][-1]
    assert "kd" not in curves["control"][-1]


def test_every_measurement_is_there_or_says_why_not(built: pipeline.Built) -> None:
    for subject in built.report["subjects"]:
        for found in subject["measurements"]:
            assert found.get("reason") or all(value > 0 for value in found["values"]), found["name"]
    for found in built.report["on_target"]:
        assert found.get("reason") or found["kind"] == "emulated"


def test_a_second_build_finds_nothing_to_do(request_in: Request) -> None:
    before = hashes(request_in.out / "toy-raspberrypi5")
    again = pipeline.build(request_in)
    assert not again.changed
    assert hashes(again.bundle) == before


def test_a_second_build_does_not_import_torch(project: Path, built: pipeline.Built) -> None:
    program = (
        "import sys, json; from edgedistill import pipeline; from edgedistill.config import read_request\n"
        "built = pipeline.build(read_request())\n"
        "print(json.dumps([built.changed, 'torch' in sys.modules, 'transformers' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=project, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, False, False]


def test_another_version_or_another_machine_is_another_build(
    request_in: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    ask = Store.get

    def get(store: Store, stage: str, inputs: dict[str, Any], produce: Any, **options: Any) -> Output:
        if stage != "build":
            return ask(store, stage, inputs, produce, **options)
        keys.append(digest(inputs))
        raise InputError("that is enough")

    def key() -> str:
        with pytest.raises(InputError, match="that is enough"):
            pipeline.build(request_in)
        return keys[-1]

    monkeypatch.setattr(Store, "get", get)
    before, here = key(), environment()
    assert key() == before
    for name in ("machine", "python", "torch", "transformers", "onnxruntime", "tokenizers", "numpy"):
        with monkeypatch.context() as patch:
            patch.setattr(bundling, "environment", lambda name=name: here | {name: "another"})
            assert key() != before, name
    monkeypatch.setattr(bundling, "hashes", lambda _: {"__main__.py": "another"})
    assert key() != before


def test_a_report_names_the_machine_that_measured(built: pipeline.Built) -> None:
    assert environment().items() <= built.report["environment"].items()


def test_the_size_ratio_is_what_the_user_has_of_the_teacher_over_what_ships(
    built: pipeline.Built, project: Path, tiny_teacher: Path
) -> None:
    of_the_bundle = ("tokenizer.json", "model/model.onnx", "model/model.onnx.data")
    teacher = sum((tiny_teacher / name).stat().st_size for name in ("model.safetensors", "tokenizer.json"))
    bundle = sum((project / built.bundle / name).stat().st_size for name in of_the_bundle)
    assert built.report["ratios"]["size"]["value"] == pytest.approx(teacher / bundle)


def test_the_plan_counts_the_tokenizer_that_will_ship(
    built: pipeline.Built, request_in: Request, project: Path
) -> None:
    with Store(request_in.out.parent / pipeline.STORE) as store:
        facts = pipeline.prepare(Run(request_in, store, UNWATCHED)).facts
    assert facts.student_tokenizer_bytes == (project / built.bundle / "tokenizer.json").stat().st_size


def test_a_vocabulary_without_room_for_every_character_is_refused_by_the_plan(request_in: Request) -> None:
    small = request_in.model_copy(update={"student": request_in.student.model_copy(update={"vocabulary": 64})})
    with pytest.raises(InputError, match="a vocabulary of 64 pieces is too small"):
        pipeline.plan(small)


@pytest.mark.parametrize("out", ["taken", "taken/dist", "taken/deep/dist"])
def test_an_out_that_is_a_file_is_refused_before_anything_is_read(
    out: str, tmp_path: Path, request_in: Request
) -> None:
    (tmp_path / "taken").write_text("a file")
    nothing = request_in.model_copy(update={"out": tmp_path / out, "target": "no such board"})
    for step in (pipeline.plan, pipeline.build):
        with pytest.raises(InputError, match="taken is a file"):
            step(nothing)
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_report_that_cannot_be_published_is_a_clear_error(request_in: Request) -> None:
    page = request_in.out / "toy-raspberrypi5.html"
    good = page.read_bytes()
    page.unlink()
    page.mkdir()
    with pytest.raises(StageError, match="stage 'publish' failed: IsADirectoryError"):
        pipeline.build(request_in)
    page.rmdir()
    page.write_bytes(good)


def test_a_bundle_that_was_changed_is_put_back_without_training(request_in: Request) -> None:
    model = request_in.out / "toy-raspberrypi5" / "model" / "model.onnx"
    good = model.read_bytes()
    model.write_bytes(good[:-1] + b"?")
    again = pipeline.build(request_in)
    assert again.changed
    assert model.read_bytes() == good
    assert not pipeline.build(request_in).changed


def test_a_student_whose_stored_bytes_changed_is_set_aside_and_trained_again(
    project: Path, request_in: Request
) -> None:
    outputs = project / ".edgedistill" / "outputs"
    (build,) = outputs.glob("build-*")
    shutil.rmtree(build)
    (student,) = outputs.glob("student-*")
    weights = student / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    pipeline.build(request_in)
    assert weights.read_bytes() == good
    assert list((project / ".edgedistill" / "damaged").glob("student-*"))


def test_a_folder_that_is_not_ours_is_never_replaced(request_in: Request) -> None:
    bundle = request_in.out / "toy-raspberrypi5"
    aside = bundle.with_name("aside")
    bundle.rename(aside)
    bundle.mkdir()
    (bundle / "thesis.txt").write_text("three years of work")
    with pytest.raises(InputError, match="was not made by edgedistill"):
        pipeline.build(request_in)
    assert (bundle / "thesis.txt").read_text() == "three years of work"
    shutil.rmtree(bundle)
    aside.rename(bundle)


def test_an_emulated_check_that_was_cut_short_is_tried_again_by_the_next_build(
    request_in: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []

    def crash(*_: Any, **__: Any) -> str:
        runs.append("crash")
        raise EngineCrashed("qemu ended with signal SIGILL")

    def answer(arguments: Sequence[Any], *, cwd: Path, **_: Any) -> str:
        runs.append("answer")
        return local.run([sys.executable, *arguments], cwd=cwd)

    for kept in (request_in.out.parent / pipeline.STORE / "outputs").glob("target-*"):
        shutil.rmtree(kept)
    monkeypatch.setattr(emulated, "missing", lambda: None)
    monkeypatch.setattr(bundling, "environment", lambda: environment() | {"test": "nothing that was built before"})
    monkeypatch.setattr(emulated, "run", crash)
    for _ in range(2):
        report = pipeline.build(request_in).report
        assert any("SIGILL" in found.get("reason", "") for found in report["on_target"])
    monkeypatch.setattr(emulated, "run", answer)
    again = pipeline.build(request_in)
    assert again.report["on_target"][0]["values"] == [1.0]
    assert not pipeline.build(request_in).changed
    assert runs == ["crash", "crash", "answer"]


def test_the_runtime_answers_and_leaves_its_bundle_as_it_was(project: Path, built: pipeline.Built) -> None:
    bundle = project / built.bundle
    done = subprocess.run(
        [sys.executable, "-m", "runtime", "predict", "--json", "anything at all"],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["label"] in manifest.read(bundle).manifest["model"]["labels"]
    manifest.verify(bundle)


def test_a_bundle_runs_where_only_its_requirements_are_installed(
    project: Path, built: pipeline.Built, tmp_path: Path
) -> None:
    shutil.copytree(project / built.bundle, tmp_path / "bundle")
    venv.create(tmp_path / "venv")
    python = str(tmp_path / "venv" / "bin" / "python")
    requirements = str(tmp_path / "bundle" / "requirements.txt")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "-r", requirements], check=True, capture_output=True)
    done = subprocess.run(
        [python, "-m", "runtime", "predict", "anything"],
        cwd=tmp_path / "bundle",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\t")[0] in manifest.read(tmp_path / "bundle").manifest["model"]["labels"]
    missing = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert missing.returncode != 0


def test_a_missed_goal_is_said_and_ends_with_status_3(
    tmp_path: Path, tiny_rows: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTILL_AARCH64_ROOT", str(tmp_path / "none"))  # nothing is emulated
    write_config(tmp_path, tiny_rows, tiny_teacher, epochs=1, retained=1.0)
    (tmp_path / "edgedistill.toml").write_text(
        (tmp_path / "edgedistill.toml").read_text().replace("latency_ratio = 0.01", "latency_ratio = 1e9")
    )
    done = subprocess.run(
        [sys.executable, "-m", "edgedistill.cli", "build"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "missed: faster than the teacher" in done.stderr.replace("accuracy kept of the teacher's; ", "")
    assert (tmp_path / "dist" / "toy-raspberrypi5" / "manifest.json").is_file()
