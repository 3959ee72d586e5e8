"""A classifier learns by the divergence that was asked for, and its control does not know of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from edgedistill import pipeline
from edgedistill.config import Distill, Request
from edgedistill.distill import losses
from edgedistill.distill.classes import Classes, Examples, Teaching
from edgedistill.distill.logits import Signal
from edgedistill.distill.losses import divergence_of


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda q, p: losses.forward_kl(q, p, 2.0)),
        ({"divergence": "reverse"}, lambda q, p: losses.reverse_kl(q, p, 2.0)),
        ({"divergence": "jsd", "beta": 0.3}, lambda q, p: losses.generalised_jsd(q, p, 2.0, 0.3)),
        ({"divergence": "skew", "skew": 0.2}, lambda q, p: losses.skew_kl(q, p, 2.0, 0.2)),
    ],
)
def test_the_divergence_is_the_one_that_was_asked_for(
    settings: dict[str, Any],
    expected: Callable[..., torch.Tensor],
    toy: Examples,
    signal: Signal,
    classifier: Callable[[], PreTrainedModel],
) -> None:
    asked = Distill.model_validate(settings)
    divergence = divergence_of(asked.divergence, beta=asked.beta, alpha=asked.skew)
    teaching = Teaching(
        signal=signal, layers=(), temperature=(2.0, 2.0), kd_weight=1.0, hidden_weight=0.0, divergence=divergence
    )
    lesson, model, rows = Classes(toy, teaching), classifier(), [7, 2, 30]
    with torch.no_grad():
        batch = lesson.batch(rows)
        found = lesson.terms(model, batch, 0.0)["kd"]
        logits = model(**{name: value for name, value in batch.items() if name != "rows"}).logits
        torch.testing.assert_close(found, expected(logits, signal.logits[rows]).sum())
    others = [losses.forward_kl, losses.reverse_kl]
    assert sum(bool(torch.isclose(other(logits, signal.logits[rows], 2.0).sum(), found)) for other in others) <= 1


@pytest.mark.parametrize("kind", ["layers", "static"])
def test_a_divergence_of_the_configuration_changes_the_student_alone(
    kind: str, tmp_path: Path, tiny_rows: Path, tiny_teacher: Path
) -> None:
    curves = []
    for divergence in ("forward", "reverse"):
        request = Request.model_validate(
            {
                "out": tmp_path,
                "data": {"folder": str(tiny_rows), "max_tokens": 32},
                "teacher": {"model": str(tiny_teacher), "epochs": 1},
                "student": {"kind": kind, "vocabulary": 120},
                "distill": {"epochs": 1, "divergence": divergence},
                "goals": {"size_ratio": 1.0},
            }
        )
        curves.append(pipeline.distill(request).training["curves"])
    forward, reverse = curves
    assert forward["control"] == reverse["control"]
    assert [point["kd"] for point in forward["student"]] != [point["kd"] for point in reverse["student"]]
