"""What goes into a report, and where its figures are said to come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistill.bundle.assemble import numbers
from edgedistill.config import Request
from edgedistill.report.collect import collect, goals
from edgedistill.types import Contrast, Estimate, Exported, Measurement, Report, Rows, Shape, Teacher

SHAPE = Shape(layers=(0,), hidden=8, ffn=8, heads=1, vocabulary=8, positions=8, labels=2)


@pytest.fixture
def collected(make_report: Callable[..., Report], tmp_path: Path) -> Report:
    """Collected on this machine, from a benchmark of another one."""
    made = make_report()
    (tmp_path / "model.onnx").write_bytes(b"model")
    kept, gained = Estimate(value=0.98, low=0.97, high=0.99), Estimate(value=1.0, low=0.5, high=1.5)
    return collect(
        Request(seed=7),
        rows=Rows(path=tmp_path, sha256="0", counts={}, labels=("a", "b"), facts={}),
        teacher=Teacher(path=tmp_path, name="teacher", sha256="0", shape=SHAPE, weight_bytes=1, has_head=False),
        plan=made.plan,
        arms=made.arms,
        contrasts=(
            Contrast(name="retained", title="", estimate=kept, unit="ratio"),
            Contrast(name="distillation", title="", estimate=gained, unit="points"),
        ),
        subjects=made.subjects,
        ratios={"latency": kept, "memory": Estimate(value=8.5, low=8.5, high=8.5)},
        on_target=made.on_target,
        exported=Exported(path=tmp_path / "model.onnx", sha256="0", recipe="int8", parity={}, ladder=()),
        curves={},
        seconds={},
        threads=2,
        environment={"machine": "Cortex-A76, 4 cores", "onnxruntime": "1.26.0"},
    )


def test_figures_are_attributed_to_the_machine_of_the_benchmark(collected: Report) -> None:
    assert collected.environment == {
        "machine": "Cortex-A76, 4 cores",
        "onnxruntime": "1.26.0",
        "seed": "7",
        "threads": "2",
    }


def test_the_manifest_gives_intervals_to_samples_and_rough_ranges_to_predictions(collected: Report) -> None:
    found = {number["name"]: number for number in numbers(collected)}
    assert found["retained"]["interval"] == [0.97, 0.99]
    assert found["latency_ratio"]["interval"] == [0.97, 0.99]
    assert found["memory_ratio"]["interval"] is None
    assert found["answers_equal"]["interval"] is None
    assert found["model_size"]["kind"] == "predicted"
    assert found["model_size"]["rough_range"] == [9.2e6, 10.1e6]
    assert "interval" not in found["model_size"]


def test_a_goal_goes_by_what_was_measured_on_the_board_before_what_is_predicted(
    make_report: Callable[..., Report], tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"model")
    exported = Exported(path=tmp_path / "model.onnx", sha256="0", recipe="int8", parity={}, ladder=())
    plan, kept = make_report().plan, Estimate(value=0.98, low=0.97, high=0.99)
    timed = Measurement(name="latency", unit="ms", kind="measured", values=(0.7,))
    for own, kinds in (((), ("predicted", "predicted")), ((timed,), ("measured", "predicted"))):
        latency, memory = goals(Request(), plan, kept, {}, exported, own)[-2:]
        assert (latency.kind, memory.kind) == kinds
        assert latency.title == "latency on the Raspberry Pi 5 (4 GB)"
    assert latency.value == 0.7
