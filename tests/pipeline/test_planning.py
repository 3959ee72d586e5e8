"""A plan of a training is held against the training: what it predicts is what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgedistill import pipeline
from edgedistill.config import Request, Student
from edgedistill.distill import generative
from edgedistill.errors import PlanRefused
from edgedistill.pipeline import STORE
from edgedistill.terminal import plan_tables
from edgedistill.types import TrainingPlan
from tests.pipeline.requests import settings


def planned(request: Request) -> TrainingPlan:
    made = pipeline.plan(request)
    assert isinstance(made, TrainingPlan)
    assert plan_tables(made)
    return made


def kept(request: Request) -> dict[str, int]:
    """Bytes of what the store holds, by stage."""
    sizes: dict[str, int] = {}
    for path in (request.out.parent / STORE).rglob("*.safetensors"):
        stage = path.parent.name.split("-")[0]
        sizes[stage] = sizes.get(stage, 0) + path.stat().st_size
    return sizes


def ends(done: Any) -> int:
    return int(done.training["curves"]["student"][-1]["step"])


def test_a_student_that_writes_comes_out_as_planned(tmp_path: Path, talks: Path, tiny_writer: Path) -> None:
    request = settings(tmp_path, "conversation", talks, tiny_writer, max_tokens=96)
    made = planned(request)
    assert not kept(request)  # nothing was trained or asked
    done = pipeline.distill(request)
    assert made.route == done.training["route"] == "tokens"
    assert made.parameters == done.training["parameters"]
    assert made.steps == pytest.approx(ends(done), rel=0.2)
    found = next(size for stage, size in kept(request).items() if stage.startswith("signals"))
    assert made.signal_bytes == pytest.approx(found, rel=0.1)
    assert any("2 of 4 layers" in line for line in made.explanation)
    assert made.memory_bytes == 16 * made.parameters["teacher"]  # which is fine-tuned here
    assert [one.name for one in made.predictions] == ["decode@256", "prefill@256", "first_token@256", "memory"]
    assert {one.kind for one in made.predictions} == {"predicted"}
    assert any(line.startswith("predicted for Raspberry Pi 5") for line in made.explanation)


@pytest.mark.parametrize(
    "student", [Student(kind="static", vocabulary=120), Student(layers=2)], ids=["static", "layers"]
)
def test_a_student_of_pairs_comes_out_as_planned(
    student: Student, tmp_path: Path, pairs: Path, tiny_teacher: Path
) -> None:
    request = settings(tmp_path, "nli", pairs, tiny_teacher).model_copy(update={"student": student})
    made = planned(request)
    assert not kept(request)
    done = pipeline.distill(request)
    assert made.parameters == done.training["parameters"]
    assert made.rows == done.training["data"]["counts"]["train"]
    assert made.steps == pytest.approx(ends(done), rel=0.35)


def test_a_plan_refuses_what_does_not_fit_with_the_arithmetic(
    tmp_path: Path, talks: Path, tiny_writer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = settings(tmp_path, "conversation", talks, tiny_writer, max_tokens=96)
    student = planned(request).parameters["student"]
    monkeypatch.setattr(generative, "memory_bytes", lambda: 16 * student - 1)
    with pytest.raises(PlanRefused, match="GB of memory"):
        pipeline.plan(request)


def test_a_plan_of_a_named_student_needs_no_teacher(tmp_path: Path, talks: Path, tiny_writer: Path) -> None:
    request = settings(tmp_path, "conversation", talks, tiny_writer, max_tokens=96)
    named = Student(model=str(tiny_writer), lora_rank=2)
    made = planned(request.model_copy(update={"teacher": Request().teacher, "student": named}))
    assert made.route == "sequence"
    assert "teacher" not in made.parameters
    assert made.memory_bytes == 5 * made.parameters["student"]
    assert made.signal_bytes == 0
