"""The plan is arithmetic: what fits is chosen and explained, what cannot fit is refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.table import Table

from edgedistill import catalog
from edgedistill.config import Goals, Request, Student
from edgedistill.errors import PlanRefused
from edgedistill.plan import RowFacts, plan
from edgedistill.terminal import plan_tables
from edgedistill.types import Device, Plan, Shape, Teacher

MINILM = Teacher(
    path=Path("minilm"),
    name="minilm",
    sha256="0",
    shape=Shape(layers=tuple(range(6)), hidden=384, ffn=1536, heads=12, vocabulary=30522, positions=512, labels=150),
    weight_bytes=90_900_000,
    has_head=False,
)
ROWS = RowFacts(
    labels=150, tokens=11, vocabulary=6700, teacher_tokenizer_bytes=700_000, student_tokenizer_bytes=150_000
)


def planned(device: Device | None = None, request: Request | None = None) -> Plan:
    board = device or catalog.device("raspberrypi")
    return plan(request or Request(), board, catalog.recipes(), MINILM, ROWS)


def test_a_pi_5_gets_four_layers_of_minilm_in_eight_bits() -> None:
    made = planned()
    assert made.student_shape.layers == (0, 2, 3, 5)
    assert made.student_shape.ffn == 384
    names = [recipe.name for recipe in made.recipes]
    assert (names[0], names[-1]) == ("onnx-int8-dynamic", "onnx-fp32")
    assert not {"onnx-int4", "onnx-int8-static-entropy"} & set(names)  # only when they are asked for
    assert any("4 of 6 layers" in line for line in made.explanation)


def test_every_prediction_is_called_one_and_lies_in_its_rough_range() -> None:
    for prediction in planned().predictions:
        assert prediction.kind == "predicted"
        assert prediction.interval is not None
        assert prediction.interval[0] < prediction.median < prediction.interval[1]


def test_a_slower_board_is_predicted_to_be_slower() -> None:
    latency = {
        name: next(p.median for p in planned(catalog.device(name)).predictions if p.name == "latency")
        for name in ("raspberrypi5", "raspberrypi4", "raspberrypi-zero2w")
    }
    assert latency["raspberrypi5"] < latency["raspberrypi4"] < latency["raspberrypi-zero2w"]


def test_a_latency_budget_buys_a_smaller_student_and_the_bigger_one_is_named() -> None:
    board = catalog.device("raspberrypi4")
    made = planned(replace(board, budget={**board.budget, "latency_ms": 5.0}))
    assert len(made.student_shape.layers) < 4
    assert any(line.startswith("passed over: 4 of 6 layers") for line in made.explanation)


@pytest.mark.parametrize(
    ("change", "arithmetic"),
    [
        ({"ram_usable_bytes": 40_000_000}, r"needs 6\d\.\d MB of memory and 40\.0 MB are free"),
        ({"storage_bytes": 50_000_000}, r"needs 1\d\d\.\d MB of storage and there are 50\.0 MB"),
    ],
)
def test_a_board_that_is_too_small_is_refused_with_the_arithmetic(change: dict[str, int], arithmetic: str) -> None:
    with pytest.raises(PlanRefused, match=arithmetic):
        planned(replace(catalog.device("raspberrypi"), **change))  # type: ignore[arg-type]


def test_a_size_goal_out_of_reach_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(PlanRefused, match=r"91\.6 MB / .* × smaller, goal 1000 ×"):
        planned(request=Request(goals=Goals(size_ratio=1000)))


def test_both_tokenizers_count_for_the_size_goal_as_they_do_in_the_benchmark() -> None:
    made = planned()
    size = next(p.median for p in made.predictions if p.name == "model_size")
    with_tokenizers = (90_900_000 + 700_000) / (size + 150_000)
    assert planned(request=Request(goals=Goals(size_ratio=with_tokenizers - 0.01))).student_shape == made.student_shape
    assert planned(request=Request(goals=Goals(size_ratio=with_tokenizers + 0.01))).student_shape != made.student_shape


def test_ranges_without_calibration_are_not_called_intervals() -> None:
    (numbers,) = (part for part in plan_tables(planned()) if isinstance(part, Table))
    assert numbers.columns[2].header == "rough range"


@pytest.mark.parametrize("name", ["iot-armv7", "browser", "iphone"])
def test_a_board_without_the_engine_is_refused(name: str) -> None:
    with pytest.raises(PlanRefused, match="onnxruntime"):
        planned(catalog.device(name))


def test_what_the_request_fixes_is_kept() -> None:
    made = planned(request=Request(student=Student(layers=2, ffn=512, vocabulary=7000)))
    shape = made.student_shape
    assert (shape.layers, shape.ffn, shape.vocabulary) == ((0, 5), 512, 7000)
