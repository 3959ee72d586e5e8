"""The page of a training: made of `training.json` alone, and the same for the same training."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgedistill.report.training import SHOWN_CHARACTERS, render
from tests.report.test_render import HOSTILE, Page


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


def training(**changes: Any) -> dict[str, Any]:
    arms = {"teacher": 0.30, "control": 0.21, "student": 0.27}
    return {
        "name": "talks",
        "task": "conversation",
        "version": "0.2.0",
        "route": "tokens",
        "explanation": ["tokens: the teacher's weights are here"],
        "environment": {"cpu": "x86_64", "seed": "0"},
        "settings": {"epochs": 2, "temperature": 1.0, "patience": None},
        "parameters": {"teacher": 1000, "student": 400},
        "arms": [
            {"name": name, "title": f"the {name}", "metrics": {"chrf": figure(value), "kl": figure(value)}}
            for name, value in arms.items()
        ],
        "contrasts": [
            {"name": "retained", "title": "student / teacher", "estimate": figure(0.9), "unit": "ratio"},
            {
                "name": "distillation",
                "title": "student − control",
                "estimate": {"value": 6.0, "low": 4.0, "high": 8.0},
                "unit": "points",
            },
        ],
        "curves": {
            "student": [
                {"step": 1.0, "loss": 3.0, "ce": 2.0, "kd": 1.0},
                {"step": 2.0, "loss": 2.0, "ce": 1.5, "kd": 0.5},
            ],
            "control": [{"step": 1.0, "loss": 2.0, "ce": 2.0}, {"step": 2.0, "loss": 1.0, "ce": 1.0}],
        },
        "examples": [
            {"asked": HOSTILE, "wanted": "yes", "answers": {"student": "no " * SHOWN_CHARACTERS, "teacher": ""}}
        ],
        "data": {"counts": {"train": 9, "validation": 2, "test": 5}, "left_out": 1, "teacher": "big", "labels": 0},
        **changes,
    }


def test_the_page_says_what_is_kept_with_how_many_parameters_and_whether_the_control_is_beaten() -> None:
    page = Page(render(training()))
    assert page.open == []
    assert "Keeps 90 % of the teacher's chrF (88 to 92) with 40 % of its parameters." in page.words
    assert "Beats the control" in page.words
    assert "the same 4 test rows" in page.words
    assert "0.27 nats" in page.words
    assert "Test rows left out: not every arm can read them 1" in " ".join(page.words.split())


def test_every_term_of_the_loss_has_a_chart_and_a_column_of_its_own() -> None:
    html = render(training())
    assert html.count("<svg") == 4  # chrF, KL, cross-entropy of the loss, its divergence
    table = next(table for table in Page(html).tables if table[0][:2] == ["Arm", "Steps"])
    assert [cell.split(" to ") for row in table[1:] for cell in row[2:]] == [
        ["2", "1"], ["not part of it"], ["2", "1.5"], ["1", "0.5"]
    ]  # fmt: skip


def test_texts_of_rows_are_shown_as_text_and_cut() -> None:
    html = render(training())
    assert "<script>alert" not in html
    assert "cut here: 2,700 characters" in Page(html).words


@pytest.mark.parametrize("left", [["student"], ["teacher", "student"]])
def test_a_training_without_a_control_or_a_teacher_has_a_page(left: list[str]) -> None:
    content = training()
    arms = [arm for arm in content["arms"] if arm["name"] in left]
    parameters = {name: count for name, count in content["parameters"].items() if name in left}
    words = Page(render(training(arms=arms, contrasts=[], parameters=parameters))).words
    assert "No control arm" in words
    assert ("no teacher was here" in words) == (left == ["student"])


def test_equal_trainings_have_equal_pages() -> None:
    assert render(training()) == render(json.loads(json.dumps(training(), sort_keys=True)))
