"""The command line: what a user types and sees, with exit statuses taken from real processes."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from edgedistill.cli import app, stopping

ROOT = Path(__file__).parent.parent


def edgedistill(arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgedistill.cli", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_help_imports_nothing_heavy_and_is_quick(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = "import sys; from edgedistill.cli import app\ntry: app(['--help'])\nexcept SystemExit: pass\n"
    program += "print([m for m in ('torch', 'transformers', 'onnxruntime', 'numpy', 'altair') if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert out.splitlines()[-1] == "[]"
    # Processor time, which a busy machine does not stretch the way it stretches the wall clock.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.4


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["build", "--target", "rasberrypi"], 2, "did you mean raspberrypi"),
        (["build", "--target", "../../etc/passwd"], 2, "unknown target"),
        (["build", "--data", "nowhere"], 2, "nowhere does not exist"),
        (["build", "--teacher", "./nowhere"], 2, "neither a folder nor a name on the hub"),
        (["build", "--config", "nowhere.toml"], 2, "nowhere.toml does not exist"),
        (["build", "--seed", "x"], 2, "seed"),
        (["plan", "--target", "iot-armv7"], 2, "onnxruntime"),
        (["verify", "."], 2, "is not a bundle"),
        (["bench", "."], 2, "is not a bundle"),
        (["report"], 2, "there is no report"),
        (["targets", "show", "toaster"], 2, "unknown target"),
        (["devices", "add", "mine", "--on", "telnet://board"], 2, "is no address of a device"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_what_is_wrong_is_named_on_standard_error_without_a_traceback(
    tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    done = edgedistill(arguments, tmp_path)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_every_problem_of_a_configuration_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "edgedistill.toml").write_text('seed = -1\ntarget = "raspberrypi"\n[distill]\nepochs = 0\ntypo = 1\n')
    done = edgedistill(["plan"], tmp_path)
    assert done.returncode == 2
    for word in ("edgedistill.toml", "seed", "distill.epochs", "distill.typo", "3 problems"):
        assert word in done.stderr


def test_init_writes_a_file_that_plan_reads_and_never_overwrites_one(tmp_path: Path) -> None:
    assert edgedistill(["init"], tmp_path).returncode == 0
    written = (tmp_path / "edgedistill.toml").read_text()
    assert edgedistill(["init"], tmp_path).returncode == 2
    assert (tmp_path / "edgedistill.toml").read_text() == written
    done = edgedistill(["plan"], tmp_path)
    assert done.returncode == 2
    assert "rows" in done.stderr  # the folder that the file names is the user's to fill


def test_targets_lists_the_boards_and_json_is_json(tmp_path: Path) -> None:
    done = edgedistill(["targets"], tmp_path)
    assert done.returncode == 0
    assert "raspberrypi5" in done.stdout
    found = json.loads(edgedistill(["targets", "--json"], tmp_path).stdout)
    assert found["raspberrypi5"]["gops"]["int8"]["source"]
    shown = json.loads(edgedistill(["targets", "show", "raspberrypi", "--json"], tmp_path).stdout)
    assert shown == found["raspberrypi5"]


def test_doctor_finds_what_this_very_test_runs_with(tmp_path: Path) -> None:
    done = edgedistill(["doctor"], tmp_path)
    assert done.returncode == 0
    for name in ("torch", "onnxruntime", "arm64 emulation"):
        assert name in done.stdout


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = list(typer.main.get_command(app).commands)
    assert {"build", "export", "targets"} <= set(names)
    for name in names:
        assert f"edgedistill {name}" in readme


def test_every_recipe_is_in_its_readme() -> None:
    readme = (ROOT / "export" / "README.md").read_text(encoding="utf-8")
    recipes = sorted(path.stem for path in (ROOT / "export").glob("*.toml"))
    assert recipes
    for name in recipes:
        assert f"`{name}`" in readme


@pytest.mark.parametrize(
    ("command", "said"),
    [("build", "the same command goes on"), ("bench", "stopped\n")],
)
def test_a_command_that_is_stopped_says_what_is_kept(
    command: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["edgedistill", command, "x"])
    monkeypatch.setattr(stopping, "_told", [])
    stopping.check()
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            stopping.stop(2, None)
        assert stopped.value.code == 130
    assert capsys.readouterr().err.count(said) == 1
    with pytest.raises(SystemExit):  # the signal's own may have been lost
        stopping.check()


def test_a_stop_is_a_stop_though_nobody_reads_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setattr(stopping, "_told", [])
    with pytest.raises(SystemExit):
        stopping.stop(2, None)
    with pytest.raises(SystemExit):
        stopping.check()
