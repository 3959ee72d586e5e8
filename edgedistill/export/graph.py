"""What every graph here is built with: nodes and weights, in the order in which they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgedistill.export.blocks import in_blocks

OPSET = 17
FUSED = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


class Graph:
    """One graph in the making."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._tensors: list[TensorProto] = []

    def _tensor(self, name: str, value: NDArray[Any]) -> str:
        """Adds a weight and returns its name."""
        self._tensors.append(numpy_helper.from_array(value, name))
        return name

    def _node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Adds an operator with one output and returns that one's name."""
        self._nodes.append(helper.make_node(operator, list(inputs), [output], f"{output}/{operator}", **attributes))
        return output

    def _fused(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """The same with an operator of the engine's own."""
        return self._node(operator, inputs, output, domain=FUSED, **attributes)

    def _looked_up(self, name: str, table: NDArray[np.float32], at: str, bits: int, *, axes: int = 2) -> str:
        """Rows of a table that is kept in blocks of few bits. Returns float32, [*axes of `at`, width].

        Written out, since the engine's own operator for it, GatherBlockQuantized, takes twice as long.

        Args:
            at: the tensor with the numbers of the rows, with so many `axes`.
            bits: 4 or 8.
        """
        codes, scales = in_blocks(table, bits)
        value = self._node("Gather", [self._tensor(name, codes), at], f"{name}.codes")
        if bits == 4:
            four = self._tensor(f"{name}.4", np.array(4, dtype=np.uint8))
            upper = self._node("BitShift", [value, four], f"{name}.upper", direction="RIGHT")
            value = self._node("Concat", [value, upper], f"{name}.halves", axis=-1)
            value = self._node("Mod", [value, self._tensor(f"{name}.16", np.array(16, dtype=np.uint8))], f"{name}.low")
        value = self._node("Cast", [value], f"{name}.unsigned", to=TensorProto.FLOAT)
        zero = self._tensor(f"{name}.zero", np.array(2 ** (bits - 1), dtype=np.float32))
        value = self._node("Sub", [value, zero], f"{name}.signed")
        width, blocks = table.shape[1], scales.shape[1]
        cut = self._tensor(f"{name}.cut", np.array([0] * axes + [blocks, width // blocks]))
        value = self._node("Reshape", [value, cut], f"{name}.blocks")
        scale = self._node("Gather", [self._tensor(f"{name}_scales", scales[..., None]), at], f"{name}.scales_16")
        scale = self._node("Cast", [scale], f"{name}.scales", to=TensorProto.FLOAT)
        value = self._node("Mul", [value, scale], f"{name}.scaled")
        whole = self._tensor(f"{name}.whole", np.array([0] * axes + [width]))
        return self._node("Reshape", [value, whole], f"{name}.rows")
