"""A realistic report: a 12-layer teacher, a small student, a board that nobody had at hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from edgedistill import catalog
from edgedistill.types import (
    Arm,
    Contrast,
    Estimate,
    Goal,
    Measurement,
    NotMeasured,
    Plan,
    Recipe,
    Report,
    Shape,
    Subject,
)

RECIPE = Recipe(
    name="onnx-int8-dynamic",
    format="onnx",
    engine="onnxruntime",
    bits=8,
    scheme="dynamic",
    per_channel=True,
    reduce_range=False,
    needs_isa=("dotprod",),
    tolerance=0.02,
)
SHAPE = Shape(layers=(0, 6, 11), hidden=384, ffn=1536, heads=12, vocabulary=9800, positions=512, labels=150)
TITLES = {
    "teacher": "Teacher (MiniLM-L12, 12 layers)",
    "control": "Control (same size, labels only)",
    "student": "Student (distilled, PyTorch)",
    "exported": "Exported file (int8, ONNX)",
}


def estimate(value: float, low: float, high: float) -> Estimate:
    """An estimate in one line."""
    return Estimate(value=value, low=low, high=high)


def samples(middle: float, spread: float, count: int, *, seed: int) -> tuple[float, ...]:
    """Times as a benchmark finds them: close together, with a tail to the right."""
    draw = random.Random(seed)
    return tuple(middle * math.exp(abs(draw.gauss(0, spread)) + draw.gauss(0, spread / 4)) for _ in range(count))


def measured(name: str, unit: str, values: tuple[float, ...], **more: Any) -> Measurement:
    """A measurement taken on the build machine."""
    return Measurement(name=name, unit=unit, kind="measured", values=values, **more)


def subjects() -> tuple[Subject, ...]:
    """Teacher and exported file, with everything that the benchmark asks for."""
    teacher = (
        measured("latency", "ms", samples(45, 0.06, 400, seed=1), interval=(46.4, 47.2)),
        measured("cold_start", "ms", (3810.0, 3795.0, 3902.0, 3850.0, 3777.0)),
        NotMeasured(name="first_answer", reason="PyTorch answers while it loads", remedy="measure with --split-load"),
        measured("throughput", "rows/s", samples(31.2, 0.02, 9, seed=2)),
        measured("memory_model", "bytes", (152e6, 153e6, 151e6)),
        measured("memory_process", "bytes", (611e6, 614e6, 609e6)),
    )
    exported = (
        measured("latency", "ms", samples(2.1, 0.12, 400, seed=3), interval=(2.22, 2.29)),
        measured("cold_start", "ms", (142.0, 139.0, 151.0, 140.0, 144.0)),
        measured("first_answer", "ms", (146.0, 143.0, 155.0, 144.0, 149.0)),
        measured("throughput", "rows/s", samples(702, 0.03, 9, seed=4), stable=False),
        measured("memory_model", "bytes", (13.1e6, 13.2e6, 13.1e6)),
        measured("memory_process", "bytes", (71.4e6, 71.9e6, 70.8e6)),
    )
    return (
        Subject(
            name="teacher", title="MiniLM-L12", engine="torch 2.13.0", file_bytes=133_500_000, measurements=teacher
        ),
        Subject(
            name="exported",
            title="student.onnx",
            engine="onnxruntime 1.26.0",
            file_bytes=9_410_000,
            measurements=exported,
        ),
    )


def curve(
    start: float, end: float, accuracy: float, *, seed: int, taught: bool = False
) -> tuple[dict[str, float], ...]:
    """A loss that falls and wobbles, with the score on validation rows at every hundredth step."""
    draw = random.Random(seed)
    points = []
    for step in range(10, 2001, 10):
        fallen = math.exp(-step / 450)
        loss = end + (start - end) * fallen * (1 + draw.gauss(0, 0.08))
        terms = {"ce": 0.6 * loss, "kd": 0.4 * loss} if taught else {"ce": loss}
        points.append({"step": float(step), "loss": loss, **terms})
        if step % 100 == 0:
            points.append({"step": float(step), "score": accuracy * (1 - 0.6 * fallen) + draw.gauss(0, 0.003)})
    return tuple(points)


def build(**changes: Any) -> Report:
    """The whole report; `changes` replace its fields."""
    board = catalog.device("raspberrypi")
    content: dict[str, Any] = {
        "name": "intents",
        "device": board,
        "version": "0.1.0",
        "created": "2026-03-02T14:05:11Z",
        "environment": {
            "cpu": "x86_64, 2 cores",
            "python": "3.11.7",
            "torch": "2.13.0",
            "onnxruntime": "1.26.0",
            "threads": "1",
            "seed": "0",
        },
        "data": {
            "source": "rows.jsonl",
            "labels": 150,
            "rejected": 12,
            "duplicates": 231,
            "leaks": 0,
            "counts": {"train": 15_000, "validation": 3_000, "test": 4_500},
        },
        "plan": Plan(
            device=board,
            recipes=(RECIPE,),
            student_shape=SHAPE,
            predictions=(
                Measurement(name="latency", unit="ms", kind="predicted", values=(3.4,), interval=(2.1, 5.6)),
                Measurement(
                    name="model_size", unit="bytes", kind="predicted", values=(9.6e6,), interval=(9.2e6, 10.1e6)
                ),
                Measurement(name="memory", unit="bytes", kind="predicted", values=(72e6,), interval=(60e6, 95e6)),
            ),
            explanation=(
                "The Raspberry Pi 5 has dotprod and no i8mm: dynamic int8 in ONNX Runtime is the fastest route there.",
                "Layers 0, 6 and 11 of the teacher: 3 of 12 layers answer within 5 ms, 4 would not.",
                "The vocabulary is trimmed from 30,522 to 9,800 pieces, which halves the file.",
            ),
        ),
        "arms": tuple(
            Arm(name=name, title=TITLES[name], metrics={"accuracy": estimate(*a), "macro_f1": estimate(*f)})  # type: ignore[arg-type]
            for name, a, f in (
                ("teacher", (0.9391, 0.9318, 0.9460), (0.9384, 0.9309, 0.9455)),
                ("control", (0.9122, 0.9038, 0.9202), (0.9101, 0.9015, 0.9184)),
                ("student", (0.9280, 0.9202, 0.9353), (0.9267, 0.9188, 0.9341)),
                ("exported", (0.9262, 0.9184, 0.9338), (0.9250, 0.9170, 0.9328)),
            )
        ),
        "contrasts": (
            Contrast(
                name="retained",
                title="Exported file, share of the teacher's accuracy",
                estimate=estimate(0.9863, 0.9791, 0.9934),
                unit="ratio",
            ),
            Contrast(
                name="distillation",
                title="Distilled student minus control",
                estimate=estimate(1.58, 0.81, 2.33),
                unit="points",
            ),
            Contrast(
                name="exported_minus_student",
                title="Exported file minus student",
                estimate=estimate(-0.18, -0.44, 0.09),
                unit="points",
            ),
        ),
        "goals": (
            Goal(
                title="Accuracy kept",
                asked=0.97,
                value=0.9863,
                unit="share",
                direction="at least",
                kind="measured",
                held=True,
            ),
            Goal(
                title="Smaller than the teacher",
                asked=10,
                value=14.187,
                unit="times",
                direction="at least",
                kind="measured",
                held=True,
            ),
            Goal(
                title="Faster than the teacher",
                asked=10,
                value=20.8,
                unit="times",
                direction="at least",
                kind="measured",
                held=True,
            ),
            Goal(title="Latency", asked=5.0, value=3.4, unit="ms", direction="at most", kind="predicted", held=True),
            Goal(
                title="Memory", asked=250e6, value=72e6, unit="bytes", direction="at most", kind="predicted", held=True
            ),
            Goal(
                title="Throughput on the board",
                asked=100,
                value=None,
                unit="times",
                direction="at least",
                kind=None,
                held=None,
            ),
        ),
        "subjects": subjects(),
        "ratios": {
            "latency": estimate(20.8, 20.4, 21.1),
            "throughput": estimate(22.4, 21.1, 23.8),
            "size": estimate(14.187, 14.187, 14.187),
            "memory": estimate(8.56, 8.41, 8.71),
        },
        "on_target": (
            Measurement(name="answers_equal", unit="share", kind="emulated", values=(1.0,)),
            Measurement(name="memory_process", unit="bytes", kind="emulated", values=(74.2e6,)),
            NotMeasured(
                name="latency",
                reason="no Raspberry Pi 5 was connected",
                remedy="edgedistill bench BUNDLE --on ssh://pi@host",
            ),
        ),
        "export": {
            "recipe": "onnx-int8-dynamic",
            "file": "student.onnx",
            "ladder": [
                {
                    "recipe": "onnx-int4",
                    "metric": "accuracy",
                    "drop": 0.0331,
                    "passed": False,
                    "reason": "drops more than 0.02",
                    "kept_in_float": ["layer.1.ffn", "head"],
                },
                {
                    "recipe": "onnx-int8-dynamic",
                    "metric": "accuracy",
                    "drop": 0.0018,
                    "passed": True,
                    "reason": "within 0.02",
                },
            ],
            "parity": {"top1_agreement": 0.9951, "largest_logit_difference": 0.213, "rows": 512},
            "lint": [{"rule": "float", "where": "head <b>", "cost": "takes 4 times the memory", "severity": "warning"}],
            "sensitivity": [
                {"recipe": "onnx-int4", "node": f"layer.{number}.ffn", "layer": number, "error": 0.1 * number}
                for number in range(12)
            ],
        },
        "curves": {
            "student": curve(5.1, 0.42, 0.93, seed=5, taught=True),
            "control": curve(4.9, 0.31, 0.912, seed=6),
            "teacher": (),
        },
        "seconds": {"label": 0.0, "distill": 1843.2, "export": 41.7, "bench": 388.0},
        "remarks": ("The rows hold no out-of-scope examples, so nothing is known about texts of other kinds.",),
    }
    return Report(**(content | changes))


@pytest.fixture
def make_report() -> Callable[..., Report]:
    """Builds the realistic report, with fields replaced."""
    return build
