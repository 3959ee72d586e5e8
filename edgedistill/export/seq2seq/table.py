"""One table for reading words and for choosing them, also when the head is quantized.

A quantizer changes the product of the head and leaves the embeddings with the table in float32. Here they are taken out
of what the head has become, so the file holds one table, and the smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgedistill.errors import StageError
from edgedistill.export.graph import FUSED
from edgedistill.export.quantize import BLOCK
from edgedistill.export.seq2seq.graph import TABLE, WORDS

_IDS = "input_ids"
_MADE = "table"
"""What begins the names of what is added here."""
_AXIS = f"{_MADE}.axis"
_SHAPE = f"{_MADE}.shape"


def share(path: Path) -> None:
    """Rewrites a decoder whose head is the table and was quantized; any other stays as it is.

    Raises:
        StageError: the quantized head holds what embeddings cannot be read from.
    """
    model = onnx.load(path)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    columns, rows = f"{TABLE}_quantized", [name for name in (f"{TABLE}_Q4", f"{TABLE}_Q8") if name in tensors]
    if columns in tensors:
        made = _from_columns(columns, tensors)
    elif rows:
        made = _from_blocks(rows[0], tensors)
    else:
        return  # the head is a tensor of its own, or stays as it was
    reader = next(node for node in graph.node if node.op_type == "Gather" and node.input[0] == TABLE)
    old = {reader.output[0], WORDS}  # the columns, and the words that they are turned into
    kept = [node for node in graph.node if old.isdisjoint(node.output)]
    del graph.node[:]
    graph.node.extend([*made, *kept])
    graph.initializer.remove(tensors[TABLE])
    if rows:
        graph.initializer.extend(
            numpy_helper.from_array(np.array(value), name) for name, value in ((_AXIS, [2]), (_SHAPE, [0, 0, -1]))
        )
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))


def _from_columns(small: str, tensors: Mapping[str, TensorProto]) -> list[NodeProto]:
    """Embeddings from [width, vocabulary] in 8 bits, with a scale for each word, or one for all."""
    if np.any(numpy_helper.to_array(tensors[f"{TABLE}_zero_point"])):
        raise StageError("the head has zero points, which embeddings are not read with", hint="use another recipe")
    scales = f"{TABLE}_scale"
    nodes = [
        _node("Gather", [small, _IDS], f"{_MADE}.columns", axis=1),
        _node("Cast", [f"{_MADE}.columns"], f"{_MADE}.cast", to=TensorProto.FLOAT),
    ]
    if tensors[scales].dims:
        nodes.append(_node("Gather", [scales, _IDS], f"{_MADE}.scales", axis=0))
        scales = f"{_MADE}.scales"
    nodes.append(_node("Mul", [f"{_MADE}.cast", scales], f"{_MADE}.scaled"))
    return [*nodes, _node("Transpose", [f"{_MADE}.scaled"], WORDS, perm=[1, 2, 0])]


def _from_blocks(small: str, tensors: Mapping[str, TensorProto]) -> list[NodeProto]:
    """Embeddings from [vocabulary, blocks, bytes], with a scale for each block."""
    bits = 8 * tensors[small].dims[2] // BLOCK
    width = tensors[TABLE].dims[0]
    if width % BLOCK:
        raise StageError(f"a width of {width} fills no blocks of {BLOCK}", hint="use a recipe of the scheme dynamic")
    blocks = {"bits": bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 2}
    return [
        _node("Unsqueeze", [f"{TABLE}_scales", _AXIS], f"{_MADE}.scales"),
        _node("GatherBlockQuantized", [small, _IDS, f"{_MADE}.scales"], f"{_MADE}.blocks", domain=FUSED, **blocks),
        _node("Reshape", [f"{_MADE}.blocks", _SHAPE], WORDS),
    ]


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [output], f"{output}/{operator}", **attributes)
