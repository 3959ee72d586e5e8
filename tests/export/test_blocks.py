"""Tables of few bits: what is written is what the engine reads, and finer scales lose less."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgedistill.export.blocks import in_blocks
from edgedistill.export.graph import OPSET, Graph


class Lookup(Graph):
    """A graph that looks rows of a table up and does nothing else."""

    def session(self, table: NDArray[np.float32], bits: int) -> onnxruntime.InferenceSession:
        rows = self._looked_up("table", table, "rows", bits)
        graph = helper.make_graph(
            self._nodes,
            "table",
            [helper.make_tensor_value_info("rows", TensorProto.INT64, ["texts", "tokens"])],
            [helper.make_tensor_value_info(rows, TensorProto.FLOAT, None)],
            self._tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def as_the_engine_reads(table: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    engine = Lookup().session(table, bits)
    found: NDArray[np.float32] = engine.run(None, {"rows": np.arange(len(table)).reshape(2, -1)})[0]
    return found.reshape(table.shape)


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
