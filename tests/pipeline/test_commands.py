"""What the commands around a training print: with --json one line that any program can read, and nothing beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgedistill.cli import app
from tests.pipeline.requests import settings


def nothing_but(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def printed(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command writes to standard output, that of libraries in C included."""
    capfd.readouterr()
    app([*arguments, "--json"], standalone_mode=False)
    (line,) = capfd.readouterr().out.splitlines()
    return json.loads(line, parse_constant=nothing_but)


@pytest.mark.parametrize("task", ["classification", "conversation"])
def test_plan_distill_and_evaluate_print_one_line_of_json(
    task: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tiny_rows: Path,
    tiny_teacher: Path,
    talks: Path,
    tiny_writer: Path,
) -> None:
    rows, teacher = (tiny_rows, tiny_teacher) if task == "classification" else (talks, tiny_writer)
    settings(tmp_path, task, rows, teacher, max_tokens=96)
    monkeypatch.chdir(tmp_path)
    assert printed(capfd, "plan")["explanation"]
    made = printed(capfd, "distill")
    assert (made["task"], made["changed"]) == (task, True)
    found = printed(capfd, "evaluate", made["student"])
    assert [arm["name"] for arm in found["arms"]] == ["student"]
    assert found["rows"] == made["data"]["counts"]["test"]
    if task == "conversation":
        beside = printed(capfd, "evaluate", made["student"], "--against", str(teacher))
        assert [arm["name"] for arm in beside["arms"]] == ["teacher", "student"]
