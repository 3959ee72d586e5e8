"""Tables of few bits: what is written is what the engine reads, and finer scales lose less."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgedistill.export.blocks import BLOCK, in_blocks


def as_the_engine_reads(table: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    codes, scales = in_blocks(table, bits)
    node = helper.make_node(
        "GatherBlockQuantized",
        ["codes", "rows", "scales"],
        ["out"],
        domain="com.microsoft",
        bits=bits,
        block_size=BLOCK,
        gather_axis=0,
        quantize_axis=1,
    )
    graph = helper.make_graph(
        [node],
        "table",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, ["rows"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT16, None)],
        [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(scales, "scales")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    engine = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = engine.run(None, {"rows": np.arange(len(table))})[0].astype(np.float32)
    return found


def table_of(width: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(50, width)).astype(np.float32)


def loss(found: NDArray[np.float32], table: NDArray[np.float32]) -> float:
    return float(np.sqrt(((found - table) ** 2).sum() / (table**2).sum()))


@pytest.mark.parametrize("width", [32, 128, 312, 384])
@pytest.mark.parametrize(("bits", "most"), [(4, 0.12), (8, 0.01)])
def test_the_engine_reads_what_was_written(width: int, bits: int, most: float) -> None:
    table = table_of(width)
    assert loss(as_the_engine_reads(table, bits), table) < most


def test_a_row_of_zeros_and_a_block_with_an_outlier_stay_finite() -> None:
    table = table_of(256)
    table[3] = 0
    table[4, 7] = 1000.0
    found = as_the_engine_reads(table, 4)
    assert np.isfinite(found).all()
    assert not found[3].any()
    assert found[4, 7] == pytest.approx(1000.0, rel=0.3)
    np.testing.assert_allclose(found[4, 128:], table[4, 128:], atol=0.4)


def test_two_numbers_share_a_byte() -> None:
    codes, scales = in_blocks(table_of(384), 4)
    assert codes.shape == (50, 192)
    assert scales.shape == (50, 3)
