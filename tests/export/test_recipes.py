"""Every ONNX recipe of the catalogue: exported, loaded, and close to the student; smaller where it says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgedistill import catalog
from edgedistill.errors import StageError
from edgedistill.export.lint import lint
from edgedistill.export.onnx import to_onnx
from edgedistill.export.parity import answers, compare, feed
from edgedistill.export.quantize import base_of, products, quantize
from edgedistill.export.sensitivity import sensitivity

NAMES = sorted(
    recipe.name for recipe in catalog.recipes() if recipe.engine == "onnxruntime" and recipe.scheme != "tables"
)
COSINES = {"onnx-int4": 0.95, "onnx-int8-int4emb": 0.97}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_gives_a_file_that_answers_like_the_student(
    name: str, student: Path, texts: list[list[int]], tmp_path: Path
) -> None:
    recipe = catalog.recipe(name)
    to_onnx(student, tmp_path / "reference.onnx")
    to_onnx(student, tmp_path / "fused.onnx", **base_of(recipe))
    quantize(tmp_path / "fused.onnx", tmp_path / "model.onnx", recipe, rows=[feed(text) for text in texts])
    parity = compare(answers(tmp_path / "model.onnx", texts), answers(tmp_path / "reference.onnx", texts))
    assert parity["cosine"] > COSINES.get(name, 0.99)
    assert (parity["max_error"] == 0) is (recipe.bits == 32)
    assert lint(tmp_path / "model.onnx", recipe=recipe, labels=5) == ()
    if recipe.bits < 32:
        reference = (tmp_path / "reference.onnx").stat().st_size
        assert (tmp_path / "model.onnx").stat().st_size < (0.75 if recipe.bits == 16 else 0.65) * reference


@pytest.mark.parametrize("name", [name for name in NAMES if "static" in name])
def test_a_static_file_quantizes_what_goes_into_each_product_and_the_engine_multiplies_bytes(
    name: str, student: Path, texts: list[list[int]], tmp_path: Path
) -> None:
    recipe = catalog.recipe(name)
    to_onnx(student, tmp_path / "fused.onnx", **base_of(recipe))
    quantize(tmp_path / "fused.onnx", tmp_path / "model.onnx", recipe, rows=[feed(text) for text in texts])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    found = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    # The engine first makes the two products of the head into Gemm with their biases, and leaves those in float.
    assert found.count("MatMulIntegerToFloat") == len(products(tmp_path / "fused.onnx", recipe)) - 2
    assert not {"MatMul", "MatMulNBits"} & set(found)


def test_a_static_recipe_without_rows_is_refused(student: Path, tmp_path: Path) -> None:
    recipe = catalog.recipe("onnx-int8-static")
    to_onnx(student, tmp_path / "fused.onnx", **base_of(recipe))
    with pytest.raises(StageError, match="needs rows to calibrate on"):
        quantize(tmp_path / "fused.onnx", tmp_path / "model.onnx", recipe)


@pytest.mark.parametrize("name", ["onnx-int8-dynamic", "onnx-int8-static", "onnx-int8-weights"])
def test_what_is_excluded_stays_in_float_and_leaving_out_all_changes_nothing(
    name: str, student: Path, texts: list[list[int]], tmp_path: Path
) -> None:
    recipe = catalog.recipe(name)
    fused = tmp_path / "fused.onnx"
    to_onnx(student, fused, **base_of(recipe))
    nodes = products(fused, recipe)
    rows = [feed(text) for text in texts]
    quantize(fused, tmp_path / "none.onnx", recipe, exclude=nodes, rows=rows)
    quantize(fused, tmp_path / "one.onnx", recipe, exclude=nodes[-1:], rows=rows)
    np.testing.assert_allclose(answers(tmp_path / "none.onnx", texts), answers(fused, texts), atol=1e-5)
    assert products(tmp_path / "one.onnx", recipe) == nodes[-1:] or name == "onnx-int8-static"


def test_the_product_with_an_outlier_is_the_most_sensitive(
    student: Path, texts: list[list[int]], tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(student / "model.safetensors")
    weights["bert.pooler.dense.weight"][0, 0] += 60.0
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((student / "config.json").read_text())
    recipe = catalog.recipe("onnx-int8-int4emb")
    per_matrix = type(recipe)(**{name: getattr(recipe, name) for name in recipe.__slots__} | {"per_channel": False})
    to_onnx(tmp_path, tmp_path / "fused.onnx", **base_of(recipe))
    found = sensitivity(tmp_path / "fused.onnx", per_matrix, texts, folder=tmp_path)
    assert found[0].node == "pooled_product/MatMul"
    assert found[0].layer is None
    assert {one.layer for one in found} == {0, 1, None}
    assert [one.error for one in found] == sorted((one.error for one in found), reverse=True)
