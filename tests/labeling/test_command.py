"""The command `edgedistill label` as people run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.labeling.conftest import Write
from tests.labeling.server import Endpoint

CONFIG = """\
name = "messages"
task = "classification"
[data]
folder = "rows.jsonl"
[label]
labels = ["even", "odd"]
[[label.teachers]]
kind = "openai"
model = "gpt-4o"
base_url = "{url}"
key_env = "SOME_KEY"
price = {{input = 2.5, output = 10.0}}
[gates]
near_duplicates = 0
"""


def edgedistill(folder: Path, *arguments: str, key: str = "k") -> subprocess.CompletedProcess[str]:
    """Runs the command line in a folder."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), **({"SOME_KEY": key} if key else {})}
    command = [sys.executable, "-m", "edgedistill.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def project(tmp_path: Path, rows: Write) -> Path:
    rows(40)
    return tmp_path


def test_estimate_asks_nothing_and_label_stays_within_it(project: Path) -> None:
    with Endpoint().running() as endpoint:
        (project / "edgedistill.toml").write_text(CONFIG.format(url=endpoint.url))
        (forecast,) = json.loads(edgedistill(project, "label", "--estimate", "--json").stdout)
        assert not endpoint.keys
        assert forecast["requests"] == 40
        done = json.loads(edgedistill(project, "label", "--json").stdout)
        assert done["splits"]["all"]["accepted"] == 40
        assert done["spent_usd"] <= forecast["usd"][1]
        (again,) = json.loads(edgedistill(project, "label", "--estimate", "--json").stdout)
        assert (again["requests"], again["known"], again["usd"]) == (0, 40, [0.0, 0.0])


def test_a_goal_is_reached_exactly_and_shown(project: Path) -> None:
    with Endpoint().running() as endpoint:
        (project / "edgedistill.toml").write_text(CONFIG.format(url=endpoint.url))
        done = edgedistill(project, "label", "--rows", "7")
        assert done.returncode == 0, done.stderr
        assert endpoint.accepted.total() == 7
    assert len((project / "dist" / "messages-rows" / "rows.jsonl").read_text().splitlines()) == 7
    assert "rows labelled for classification" in done.stdout
    assert "dist/messages-rows/" in done.stdout


def test_a_budget_that_runs_out_is_exit_status_3_and_a_goal_beyond_the_rows_too(project: Path) -> None:
    with Endpoint().running() as endpoint:
        (project / "edgedistill.toml").write_text(CONFIG.format(url=endpoint.url))
        poor = edgedistill(project, "label", "--budget", "0.004")
        assert (poor.returncode, "of the budget of $0.004 are spent" in poor.stderr) == (3, True)
        many = edgedistill(project, "label", "--rows", "50")
        assert (many.returncode, "40 rows of all accepted of the 50 that are wanted" in many.stderr) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "poetry"], "task"),
        (["--data", "nowhere"], "nowhere"),
        (["--teacher", "missing.gguf"], "missing.gguf"),
    ],
)
def test_wrong_input_is_one_clear_error(project: Path, arguments: list[str], said: str) -> None:
    (project / "edgedistill.toml").write_text(CONFIG.format(url="http://127.0.0.1:9/v1"))
    done = edgedistill(project, "label", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_budget_below_one_request_is_said(project: Path) -> None:
    (project / "edgedistill.toml").write_text(CONFIG.format(url="http://127.0.0.1:9/v1"))
    done = edgedistill(project, "label", "--budget", "0.000001")
    assert (done.returncode, "less than one request may cost" in done.stderr) == (3, True)


def test_an_estimate_needs_no_key_and_a_plan_asks_nothing(project: Path) -> None:
    with Endpoint().running() as endpoint:
        (project / "edgedistill.toml").write_text(CONFIG.format(url=endpoint.url))
        assert edgedistill(project, "label", "--estimate", key="").returncode == 0
        plan = edgedistill(project, "plan", "--target", "raspberrypi")
        assert (plan.returncode, "a plan asks no teacher" in plan.stderr) == (2, True)
        assert not endpoint.keys


def test_a_key_that_stands_in_the_file_is_not_shown(project: Path) -> None:
    for line in ('key = "sk-abc123"', 'key_env = "sk-abc123"'):
        (project / "edgedistill.toml").write_text(CONFIG.format(url="http://x").replace('key_env = "SOME_KEY"', line))
        done = edgedistill(project, "label")
        assert done.returncode == 2
        assert "sk-abc123" not in done.stderr
        assert "the NAME of the variable" in done.stderr


def test_a_missing_key_is_named(project: Path) -> None:
    (project / "edgedistill.toml").write_text(CONFIG.format(url="http://127.0.0.1:9/v1"))
    done = edgedistill(project, "label", key="")
    assert done.returncode == 2
    assert "SOME_KEY is not set" in done.stderr
