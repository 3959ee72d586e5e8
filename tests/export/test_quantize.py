"""8-bit files: smaller, close to the student, and within the range that every processor adds up right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgedistill.catalog import recipe as find_recipe
from edgedistill.errors import StageError
from edgedistill.export.onnx import to_onnx
from edgedistill.export.parity import answers, compare
from edgedistill.export.quantize import quantize
from edgedistill.types import Recipe

INT8, FP32 = "onnx-int8-dynamic", "onnx-fp32"


@pytest.fixture
def fused(student: Path, tmp_path: Path) -> Path:
    to_onnx(student, tmp_path / "fused.onnx")
    return tmp_path / "fused.onnx"


def weights_of(model: Path) -> dict[str, NDArray[np.int8]]:
    """The matrices that are stored as signed bytes."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}
    return {name: value for name, value in found.items() if value.dtype == np.int8 and value.ndim == 2}


def test_an_8_bit_file_is_smaller_and_answers_nearly_the_same(
    fused: Path, texts: list[list[int]], tmp_path: Path
) -> None:
    quantize(fused, tmp_path / "int8.onnx", find_recipe(INT8))
    assert (tmp_path / "int8.onnx").stat().st_size < 0.6 * fused.stat().st_size  # names and scales weigh in a toy
    parity = compare(answers(tmp_path / "int8.onnx", texts), answers(fused, texts))
    assert 0 < parity["max_error"] < 0.5
    assert parity["cosine"] > 0.99
    assert parity["top1_agreement"] >= 0.9


def test_every_matrix_and_the_embedding_table_is_8_bit(fused: Path, tmp_path: Path) -> None:
    quantize(fused, tmp_path / "int8.onnx", find_recipe(INT8))
    kept = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer
    }
    wide = [name for name, value in kept.items() if value.dtype == np.float32 and value.size >= 32 * 32]
    assert wide == []
    assert any(value.shape == (300, 32) and value.dtype.itemsize == 1 for value in kept.values())


def test_a_reduced_range_keeps_weights_within_7_bits(fused: Path, tmp_path: Path) -> None:
    recipe = find_recipe(INT8)
    largest = {}
    for reduced in (True, False):
        path = tmp_path / f"{reduced}.onnx"
        quantize(fused, path, replace(recipe, reduce_range=reduced))
        matrices = weights_of(path)
        assert len(matrices) >= 10
        largest[reduced] = max(int(np.abs(value.astype(np.int16)).max()) for value in matrices.values())
    assert largest[True] <= 64
    assert largest[False] > 64


def test_the_recipe_that_ships_reduces_the_range() -> None:
    assert find_recipe(INT8).reduce_range


def test_one_scale_a_channel_is_nearer_to_the_student_than_one_a_matrix(
    fused: Path, texts: list[list[int]], tmp_path: Path
) -> None:
    errors = []
    for per_channel in (True, False):
        quantize(fused, tmp_path / "int8.onnx", replace(find_recipe(INT8), per_channel=per_channel))
        errors.append(compare(answers(tmp_path / "int8.onnx", texts), answers(fused, texts))["mean_error"])
    assert errors[0] < errors[1]


def test_two_quantizations_are_the_same_bytes(fused: Path, tmp_path: Path) -> None:
    for name in ("first.onnx", "second.onnx"):
        quantize(fused, tmp_path / name, find_recipe(INT8))
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


def test_a_recipe_without_a_scheme_copies_the_file(fused: Path, tmp_path: Path) -> None:
    quantize(fused, tmp_path / "copy.onnx", find_recipe(FP32))
    assert (tmp_path / "copy.onnx").read_bytes() == fused.read_bytes()


@pytest.mark.parametrize("changes", [{"scheme": "static"}, {"scheme": "magic"}, {"bits": 4}])
def test_a_recipe_that_cannot_be_followed_is_named(fused: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    recipe: Recipe = replace(find_recipe(INT8), **changes)  # type: ignore[arg-type]
    with pytest.raises(StageError, match=recipe.name):
        quantize(fused, tmp_path / "model.onnx", recipe)
    assert not (tmp_path / "model.onnx").exists()
