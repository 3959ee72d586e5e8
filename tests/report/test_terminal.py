"""What the command line shows of a report."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
from rich.console import Console

from edgedistill.report.render import render_json
from edgedistill.terminal import verdict
from edgedistill.types import Goal, Report

Unit = Literal["share", "times", "ms", "bytes"]


def goal_line(report: Report) -> str:
    """The line of the only goal, as it is printed."""
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    for part in verdict(json.loads(render_json(report))):
        console.print(part)
    lines = [" ".join(line.split()) for line in shown.getvalue().splitlines()]  # split() takes no-break spaces too
    (line,) = [line for line in lines if line.startswith("the goal")]
    return line


@pytest.mark.parametrize(
    ("asked", "value", "unit", "said"),
    [
        (0.92, 0.9197, "share", "≥ 92 % 91.97 % measured no"),
        (0.92, 0.91999, "share", "≥ 92 % 91.999 % measured no"),
        (0.9201, 0.92, "share", "≥ 92.01 % 92 % measured no"),
        (0.92, 0.92, "share", "≥ 92 % 92 % measured yes"),
        (6.7, 6.6998, "times", "≥ 6.7× 6.6998× measured no"),
        (6.7, 12.345, "times", "≥ 6.7× 12.3× measured yes"),
        (6.7, None, "times", "≥ 6.7× not measured"),
    ],
)
def test_a_missed_goal_never_looks_as_if_it_was_met(
    make_report: Callable[..., Report], asked: float, value: float | None, unit: Unit, said: str
) -> None:
    held = None if value is None else value >= asked
    kind = None if value is None else "measured"
    goal = Goal(title="the goal", asked=asked, value=value, unit=unit, direction="at least", kind=kind, held=held)
    assert goal_line(replace(make_report(), goals=(goal,))) == f"the goal {said}"
