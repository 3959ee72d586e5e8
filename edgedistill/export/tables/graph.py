"""A static student as an ONNX graph: gather, add, pool, and the head.

    input_ids, attention_mask ─► rows of the tables, in 8 bits ─► × scales ─► own + before + after + bias ─► ReLU
                     ─► maximum and mean over the positions ─► (u, v, |u − v|, u · v) of pairs ─► head ─► logits

Inputs are those of every other classifier, so the same runtime runs it. The texts of a pair are rows of their own, one
after the other, and are read apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgedistill.export.graph import OPSET, Graph

_BEFORE, _OWN, _AFTER = 0, 1, 2
"""Of the three vectors of a piece: for the position after it, for its own, and for the one before it."""

Array = NDArray[Any]


def to_onnx(weights: Mapping[str, Array], path: Path, *, in_8_bits: bool) -> None:
    """Writes a static student as an ONNX file.

    Inputs are input_ids and attention_mask, int64 [texts, tokens], padded at the end; the output is logits, float32
    [rows, labels], where a row is a text, or two of them for pairs.

    Args:
        weights: as `edgedistill.distill.static.save` names them.
        path: the file to write.
        in_8_bits: the tables and the head as they are; otherwise both in float32.
    """
    model = _Graph(weights, in_8_bits=in_8_bits).build()
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))


class _Graph(Graph):
    """The graph of a static student."""

    def __init__(self, weights: Mapping[str, Array], *, in_8_bits: bool) -> None:
        super().__init__()
        self._weights = weights
        self._in_8_bits = in_8_bits

    def build(self) -> onnx.ModelProto:
        vectors = self._pooled(self._features())
        if self._weights["head"].shape[1] > 2 * len(self._weights["bias"]):
            vectors = self._paired(vectors)
        self._node(
            "Add", [self._node("MatMul", [vectors, self._head()], "product"), self._given("head_bias")], "logits"
        )
        labels = len(self._weights["head_bias"])
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"])
            for name in ("input_ids", "attention_mask")
        ]
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", labels])
        graph = helper.make_graph(self._nodes, "tables", inputs, [output], self._tensors)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, producer_name="edgedistill", opset_imports=opsets, ir_version=8)

    def _features(self) -> str:
        """What each position adds up to, 0 where there is none. Shape: [texts, tokens + 1, features]."""
        # Padding reads the last row of the tables, which is zeros, and so do the neighbours of both ends; the position
        # more keeps the maximum over a text of no pieces at 0.
        nothing = self._tensor("nothing", np.array(len(self._weights["tables"]) - 1))
        zero = self._tensor("zero", np.array(0))
        real = self._node("Greater", ["attention_mask", zero], "real")
        places = self._node("Where", [real, "input_ids", nothing], "places")
        around = self._tensor("around", np.array([0, 1, 0, 2]))
        rows = self._rows(self._node("Pad", [places, around, nothing], "rows"))
        sums = [
            self._window(rows, name, position, vector)
            for name, position, vector in (("before", 0, _BEFORE), ("own", 1, _OWN), ("after", 2, _AFTER))
        ]
        value = self._node("Relu", [self._node("Sum", [*sums, self._given("bias")], "sums")], "active")
        behind = self._tensor("behind", np.array([0, 0, 0, 1]))
        mask = self._node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
        mask = self._node("Pad", [mask, behind], "mask_padded")
        mask = self._node("Unsqueeze", [mask, self._tensor("last", np.array([2]))], "mask_wide")
        return self._node("Mul", [value, mask], "features")

    def _rows(self, places: str) -> str:
        """The three vectors of the piece at each place. Shape: [texts, tokens + 3, 3, features]."""
        tables, scales = self._weights["tables"], self._weights["table_scales"][..., None]
        if not self._in_8_bits:
            return self._node("Gather", [self._tensor("tables", tables * scales), places], "given")
        steps = self._node("Gather", [self._tensor("tables", tables), places], "steps")
        scale = self._node("Gather", [self._tensor("table_scales", scales), places], "scale")
        return self._node("Mul", [self._node("Cast", [steps], "steps_32", to=TensorProto.FLOAT), scale], "given")

    def _window(self, rows: str, name: str, position: int, vector: int) -> str:
        """One of the three vectors, of the place that lies so many after the one before the first position."""
        bounds = [
            self._tensor(f"{name}_{part}", np.array(values))
            for part, values in (
                ("from", [position, vector]),
                ("to", [position - 2 or np.iinfo(np.int64).max, vector + 1]),
                ("axes", [1, 2]),
            )
        ]
        cut = self._node("Slice", [rows, *bounds], f"{name}_cut")
        return self._node("Squeeze", [cut, self._tensor(f"{name}_axis", np.array([2]))], name)

    def _pooled(self, features: str) -> str:
        """The maximum and the mean of each text. Shape: [texts, 2 × features]."""
        axis = self._tensor("positions", np.array([1]))
        largest = self._node("ReduceMax", [features], "largest", axes=[1], keepdims=0)
        total = self._node("ReduceSum", [features, axis], "total", keepdims=0)
        length = self._node("ReduceSum", ["mask_padded", axis], "length", keepdims=1)
        length = self._node("Max", [length, self._tensor("one", np.array(1, dtype=np.float32))], "length_1")
        return self._node("Concat", [largest, self._node("Div", [total, length], "mean")], "vectors", axis=1)

    def _paired(self, vectors: str) -> str:
        """(u, v, |u − v|, u · v) of every two texts. Shape: [rows, 8 × features]."""
        width = 2 * len(self._weights["bias"])
        both = self._node("Reshape", [vectors, self._tensor("two", np.array([-1, 2, width]))], "both")
        u, v = (
            self._node("Gather", [both, self._tensor(f"which_{name}", np.array(which))], name, axis=1)
            for which, name in enumerate("uv")
        )
        apart = self._node("Abs", [self._node("Sub", [u, v], "difference")], "apart")
        return self._node("Concat", [u, v, apart, self._node("Mul", [u, v], "times")], "pairs", axis=1)

    def _head(self) -> str:
        """[width, labels]."""
        kernel, scales = np.ascontiguousarray(self._weights["head"].T), self._weights["head_scales"]
        if not self._in_8_bits:
            return self._tensor("head", kernel * scales)
        # Not DequantizeLinear: the engine makes that and the product one operator, which rounds the vectors to 8 bits.
        steps = self._node("Cast", [self._tensor("head", kernel)], "head_32", to=TensorProto.FLOAT)
        return self._node("Mul", [steps, self._tensor("head_scales", scales)], "kernel")

    def _given(self, name: str) -> str:
        return self._tensor(name, self._weights[name])
