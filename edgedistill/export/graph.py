"""What every graph here is built with: nodes and weights, in the order in which they are computed."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

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

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Adds an operator with one output and returns that one's name."""
        self._nodes.append(helper.make_node(operator, inputs, [output], f"{output}/{operator}", **attributes))
        return output

    def _fused(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """The same with an operator of the engine's own."""
        return self._node(operator, inputs, output, domain=FUSED, **attributes)
