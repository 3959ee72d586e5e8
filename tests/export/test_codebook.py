"""4 bits on disk, bytes in the engine: what it unpacks is what was meant, and little is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgedistill.catalog import recipe as find_recipe
from edgedistill.export import codebook
from edgedistill.export.codebook import LARGEST, REDUCED, encode, with_codebooks
from edgedistill.export.onnx import to_onnx
from edgedistill.export.parity import answers, compare, feed
from edgedistill.export.quantize import base_of, quantize

CHANCE = np.random.default_rng(0)


@pytest.fixture
def random_weights_are_coded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They lose more than those of a student, whose inputs go together."""
    monkeypatch.setattr(codebook, "MOST_LOST", 0.2)


def model_of(weight: NDArray[np.float32]) -> onnx.ModelProto:
    """A model whose only answer is the weight's bytes."""
    tensors = [
        numpy_helper.from_array(np.zeros(weight.shape, dtype=np.int8), "w_quantized"),
        numpy_helper.from_array(np.ones(weight.shape[1], dtype=np.float32), "w_scale"),
    ]
    same = helper.make_node("Identity", ["w_quantized"], ["bytes"])
    output = helper.make_tensor_value_info("bytes", TensorProto.INT8, list(weight.shape))
    graph = helper.make_graph([same], "one", [], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def lost(found: NDArray[np.float32], weight: NDArray[np.float32], inputs: NDArray[np.float32]) -> float:
    """Root mean square of what the results of some inputs lose, as a share of them."""
    return float(np.sqrt(((inputs @ (found - weight)) ** 2).mean() / ((inputs @ weight) ** 2).mean()))


@pytest.mark.usefixtures("random_weights_are_coded")
@pytest.mark.parametrize(("reduce_range", "largest"), [(False, LARGEST), (True, REDUCED)])
def test_the_engine_unpacks_bytes_near_the_weights_and_within_the_range(reduce_range: bool, largest: int) -> None:
    weight = CHANCE.standard_normal((128, 48)).astype(np.float32)
    weight[:, 3] = 0
    weight[:, 5] *= 50  # columns that differ in size
    model = model_of(weight)
    with_codebooks(model, {"w": weight}, {}, reduce_range=reduce_range)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {})[0]
    assert tensors["w_codes"].nbytes * 8 == weight.size * 4
    assert 0.5 * largest < np.abs(found.astype(int)).max() <= largest
    assert lost(found * tensors["w_scale"], weight, np.eye(128, dtype=np.float32)) < 0.11
    assert not (found * tensors["w_scale"])[:, 3].any()


def test_weights_that_are_coded_make_up_for_those_before() -> None:
    mixing = CHANCE.standard_normal((8, 64)) + 0.1
    inputs = (CHANCE.standard_normal((2000, 8)) @ mixing + 0.1 * CHANCE.standard_normal((2000, 64))).astype(np.float32)
    weight = CHANCE.standard_normal((64, 32)).astype(np.float32)
    moments = (inputs[:1000].T @ inputs[:1000]).astype(np.float64) / 1000
    found = {}
    for known in (None, moments):
        codes, book, scales = encode(weight, LARGEST, known)
        found[known is None] = lost(book[codes].reshape(weight.shape) * scales, weight, inputs[1000:])
    assert found[False] < 0.5 * found[True]


def test_a_matrix_of_zeros_and_inputs_that_are_never_there_are_coded_too() -> None:
    for weight in (np.zeros((32, 8), dtype=np.float32), CHANCE.standard_normal((32, 8)).astype(np.float32)):
        codes, book, scales = encode(weight, LARGEST, np.zeros((32, 32)))
        assert codes.shape == (32, 4)
        assert np.isfinite(book[codes].reshape(weight.shape) * scales).all()


def test_a_matrix_that_would_lose_too_much_keeps_its_bytes() -> None:
    weight = (CHANCE.standard_normal((512, 64)) ** 5).astype(np.float32)  # many sizes, none of them rare
    model = model_of(weight)
    with_codebooks(model, {"w": weight}, {}, reduce_range=False)
    assert {"w_quantized", "w_scale"} == {tensor.name for tensor in model.graph.initializer}


def test_an_odd_number_of_columns_keeps_its_bytes() -> None:
    weight = np.ones((8, 5), dtype=np.float32)
    model = model_of(weight)
    with_codebooks(model, {"w": weight}, {}, reduce_range=False)
    assert {"w_quantized", "w_scale"} == {tensor.name for tensor in model.graph.initializer}


@pytest.mark.usefixtures("random_weights_are_coded")
def test_a_file_of_4_bits_answers_nearly_like_one_of_8(student: Path, texts: list[list[int]], tmp_path: Path) -> None:
    small = find_recipe("onnx-w4a8")
    to_onnx(student, tmp_path / "fused.onnx", **base_of(small))
    rows = [feed(text) for text in texts]
    for name, recipe in (("4", small), ("8", replace(small, stored_bits=None))):
        quantize(tmp_path / "fused.onnx", tmp_path / f"{name}.onnx", recipe, rows=rows)
    parity = compare(answers(tmp_path / "4.onnx", texts), answers(tmp_path / "8.onnx", texts))
    assert parity["cosine"] > 0.98
    assert parity["top1_agreement"] >= 0.8
    coded, whole = (
        sum(
            numpy_helper.to_array(tensor).nbytes
            for tensor in onnx.load(tmp_path / f"{name}.onnx").graph.initializer
            if tensor.name.endswith(("_quantized", "_codes")) and not tensor.name.startswith("head")
        )
        for name in "48"
    )
    assert coded == whole / 2
