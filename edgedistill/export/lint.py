"""What in an ONNX file throws speed, size or safety away: every finding names the node or tensor, and the cost.

A finding that stops says that the file must not ship; a warning says what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

from edgedistill.types import Recipe

OPSETS = {"": 26, "ai.onnx": 26, "com.microsoft": 1}
"""The newest of each domain that the pinned engine (onnxruntime 1.26) loads."""
IR_VERSION = 13
LARGE = 4096
"""Numbers from which on a float32 tensor counts in a file that should be quantized."""
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
_WIDTHS = {
    TensorProto.FLOAT: ("float32", 4),
    TensorProto.DOUBLE: ("float64", 8),
    TensorProto.FLOAT16: ("float16", 2),
    TensorProto.BFLOAT16: ("bfloat16", 2),
}
"""Name and bytes of what a quantized file should hold none of."""
_PRODUCTS = ("MatMul", "Gemm", "Conv", "Attention")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong with a file.

    Attributes:
        rule: its short name, the same in every report.
        where: the node or tensor.
        cost: what it costs, in words.
    """

    rule: str
    where: str
    cost: str
    severity: Literal["stop", "warning"]


def lint(path: Path, *, recipe: Recipe | None = None, labels: int | None = None) -> tuple[Finding, ...]:
    """Everything that is wrong with a file, what stops it first.

    Args:
        path: an ONNX file; its external data, if any, is only read when it lies in the file's folder.
        recipe: what the file should be; without one, matrices of floats are no fault.
        labels: number of classes in the checkpoint's config; None where the head is another.
    """
    model = onnx.load(path, load_external_data=False)
    outside = list(_outside(model, path.parent))
    if outside:
        return tuple(outside)
    onnx.load_external_data_for_model(model, str(path.parent))
    found = [
        *_versions(model),
        *_not_finite(model),
        *_other_labels(model, labels),
        *_slow_products(model),
        *_left_in_float(model, recipe),
        *_left_in_bytes(model, recipe),
        *_stray_pairs(model),
        *_idle_casts(model),
        *_unfused(model),
        *_fixed_axes(model),
    ]
    return tuple(sorted(found, key=lambda finding: finding.severity != "stop"))


def tensors(model: ModelProto) -> list[TensorProto]:
    """Every tensor that a model holds: its weights and the constants of its nodes, those of inner graphs too."""
    found: list[TensorProto] = []
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        found += graph.initializer
        found += [part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices)]
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            if attribute.type == AttributeProto.TENSOR:
                found.append(attribute.t)
            found += attribute.tensors
            graphs += [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
    return found


def external(model: ModelProto) -> dict[str, str]:
    """Where the tensors that lie in other files say that they lie, by their names."""
    return {
        tensor.name: next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        for tensor in tensors(model)
        if tensor.data_location == TensorProto.EXTERNAL
    }


def _outside(model: ModelProto, folder: Path) -> Iterable[Finding]:
    for name, location in external(model).items():
        rooted = PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive or not location
        # resolve() follows links: a link out of the folder leads outside as well
        if rooted or not (folder / location).resolve().is_relative_to(folder.resolve()):
            cost = f"its data is asked from {location!r}, outside the file's folder: not read"
            yield Finding(rule="external-data", where=name, cost=cost, severity="stop")


def _versions(model: ModelProto) -> Iterable[Finding]:
    if model.ir_version > IR_VERSION:
        cost = f"format version {model.ir_version}; the pinned engine loads up to {IR_VERSION}"
        yield Finding(rule="too-new", where="ir_version", cost=cost, severity="stop")
    for opset in model.opset_import:
        newest = OPSETS.get(opset.domain)
        if newest is not None and opset.version > newest:
            cost = f"version {opset.version}; the pinned engine loads up to {newest}"
            yield Finding(rule="too-new", where=f"operators {opset.domain or 'ai.onnx'}", cost=cost, severity="stop")


def _not_finite(model: ModelProto) -> Iterable[Finding]:
    for tensor in tensors(model):
        if tensor.data_type in (*_FLOATS, TensorProto.FLOAT16, TensorProto.BFLOAT16):
            value = numpy_helper.to_array(tensor).astype(np.float64)
            # A single infinity is what attention masks are filled with.
            bad = int((np.isnan(value) if value.size == 1 else ~np.isfinite(value)).sum())
            if bad:
                cost = f"{bad} values are not finite: answers are no numbers"
                yield Finding(rule="not-finite", where=tensor.name, cost=cost, severity="stop")


def _other_labels(model: ModelProto, labels: int | None) -> Iterable[Finding]:
    for value in model.graph.output[:1] if labels is not None else ():
        dims = value.type.tensor_type.shape.dim
        if dims and dims[-1].HasField("dim_value") and dims[-1].dim_value != labels:
            cost = f"gives {dims[-1].dim_value} scores and the config names {labels} labels: answers get wrong names"
            yield Finding(rule="labels", where=value.name, cost=cost, severity="stop")


def _slow_products(model: ModelProto) -> Iterable[Finding]:
    for node in model.graph.node:
        if node.op_type == "MatMulNBits" and _integer(node, "accuracy_level") != 4:
            cost = "no accuracy_level = 4: weights are widened to float32 at every call, about twice the time or more"
            yield Finding(rule="accuracy-level", where=node.name, cost=cost, severity="warning")


def _left_in_float(model: ModelProto, recipe: Recipe | None) -> Iterable[Finding]:
    if recipe is None or recipe.bits > 8:
        return
    users = {name: node for node in model.graph.node for name in node.input}
    for tensor in model.graph.initializer:
        size = math.prod(tensor.dims)
        user = users.get(tensor.name)
        if tensor.data_type not in _WIDTHS or len(tensor.dims) < 2 or size < LARGE or user is None:
            continue
        if user.op_type.startswith("MatMulNBits") or tensor.name.endswith("_scales"):
            continue  # scales of blocks
        kind, width = _WIDTHS[tensor.data_type]
        saved = size * width - size * recipe.bits / 8
        cost = f"{kind} in {user.op_type} {user.name}, {saved / 1e6:.2f} MB more than in {recipe.bits} bits"
        yield Finding(rule="unquantized", where=tensor.name, cost=cost, severity="warning")


def _left_in_bytes(model: ModelProto, recipe: Recipe | None) -> Iterable[Finding]:
    """Matrices whose results lose too much in 4 bits. The head's are meant to stay."""
    for tensor in model.graph.initializer if recipe is not None and recipe.stored_bits is not None else ():
        name, _, end = tensor.name.rpartition("_")
        size = math.prod(tensor.dims)
        if end == "quantized" and len(tensor.dims) == 2 and size >= LARGE and not name.startswith("head."):
            cost = f"8 bits on disk, {size / 2e6:.2f} MB more than in 4, in which its results would lose too much"
            yield Finding(rule="unquantized", where=name, cost=cost, severity="warning")


def _stray_pairs(model: ModelProto) -> Iterable[Finding]:
    """Conversions that the next node undoes. Before a product a pair is how QDQ files say that it takes bytes."""
    made = {output: node for node in model.graph.node for output in node.output}
    before_products = {name for node in model.graph.node if node.op_type in _PRODUCTS for name in node.input}
    for node in model.graph.node:
        before = made.get(node.input[0]) if node.input else None
        if before is None:
            continue
        undone = (node.op_type, before.op_type) in (_QUANTIZERS, _QUANTIZERS[::-1])
        if undone and before_products.isdisjoint(node.output) and list(node.input[1:]) == list(before.input[1:]):
            cost = f"undoes {before.op_type} {before.name} with the same scale: two passes over the tensor for nothing"
            yield Finding(rule="stray-pair", where=node.name, cost=cost, severity="warning")
        if node.op_type == before.op_type == "Cast":
            cost = f"casts what {before.name} has just cast: one pass over the tensor too many"
            yield Finding(rule="stray-cast", where=node.name, cost=cost, severity="warning")


def _idle_casts(model: ModelProto) -> Iterable[Finding]:
    """Casts to the type that a tensor has already, as far as the graph says what it has."""
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and types.get(node.input[0], 0) == _integer(node, "to"):
            cost = f"casts {node.input[0]} to the type that it has: one pass over the tensor too many"
            yield Finding(rule="stray-cast", where=node.name, cost=cost, severity="warning")


def _unfused(model: ModelProto) -> Iterable[Finding]:
    """Attention and norms in single steps. The engine fuses some of them while loading, hardly ever attention."""
    made = {output: node for node in model.graph.node for output in node.output}
    readers = {name: node for node in model.graph.node for name in node.input}
    for node in model.graph.node:
        after = readers.get(node.output[0]) if node.output else None
        if node.op_type == "Softmax" and after is not None and after.op_type == "MatMul":
            cost = "attention in single steps: each reads and writes all scores; fused it is one operator"
            yield Finding(rule="unfused-attention", where=node.name, cost=cost, severity="warning")
        if node.op_type == "Erf":
            cost = "GELU in single steps: five passes over the widest tensor of a layer instead of one"
            yield Finding(rule="unfused-gelu", where=node.name, cost=cost, severity="warning")
        if node.op_type == "ReduceMean" and after is not None and after.op_type == "Sub":
            cost = "layer norm in single steps: nine operators instead of one"
            yield Finding(rule="unfused-norm", where=node.name, cost=cost, severity="warning")
        if node.op_type == "LayerNormalization" and getattr(made.get(node.input[0]), "op_type", "") == "Add":
            cost = "residual sum and norm apart: one more pass over the tensor than SkipLayerNormalization"
            yield Finding(rule="unfused-norm", where=node.name, cost=cost, severity="warning")


def _fixed_axes(model: ModelProto) -> Iterable[Finding]:
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        fixed = [str(axis) for axis, dim in enumerate(dims) if dim.HasField("dim_value")]
        cache = len(dims) == 4  # of keys and values, heads and their size are fixed
        if value.name not in weights and fixed and not cache:
            cost = f"axis {', '.join(fixed)} has a fixed size: every text is padded to it, and none may be longer"
            yield Finding(rule="fixed-axes", where=value.name, cost=cost, severity="warning")


def _integer(node: NodeProto, name: str) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), None)
