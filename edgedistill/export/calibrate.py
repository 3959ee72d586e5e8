"""The range of activations on real rows, so that a static scheme need not look at them while it answers.

The engine's own calibrator stacks a tensor's values over all rows and cannot take rows of different lengths; these are
the same two methods on flattened values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

PERCENTILE = 0.01
"""Percent of the values cut off on each side."""
BINS = 2048
LEVELS = 128
STRIDE = 16
"""Bins by which one candidate of the entropy method is wider than the one before."""


def ranges(
    fused: Path, rows: Sequence[Mapping[str, Any]], method: Literal["percentile", "entropy"]
) -> dict[str, tuple[float, float]]:
    """The range to quantize each input of a matrix product in.

    Args:
        fused: a float32 file.
        rows: inputs by name, one row each.

    Returns:
        Lowest and highest value by the tensor's name; 0 lies between them.
    """
    model = onnx.load(fused)
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = sorted({node.input[0] for node in model.graph.node if node.op_type == "MatMul"} - known)
    engine = _showing(model, inputs)
    find = by_percentile if method == "percentile" else by_entropy
    # One tensor at a time: all of them over all rows can be tens of gigabytes.
    return {name: find(np.concatenate([engine.run([name], dict(row))[0].ravel() for row in rows])) for name in inputs}


def second_moments(fused: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """How the inputs of each weight's product go together: the mean of x xᵀ over all positions of all rows.

    Args:
        fused: a float32 file.
        rows: inputs by name, one row each.

    Returns:
        By the weight's name. Shape: [in, in].
    """
    model = onnx.load(fused)
    known = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Attention") and node.input[1] in known]
    inputs = sorted({node.input[0] for node in products})
    engine = _showing(model, inputs)
    sums: dict[str, Any] = dict.fromkeys(inputs, 0.0)
    counts = dict.fromkeys(inputs, 0)
    for row in rows:
        for name, value in zip(inputs, engine.run(inputs, dict(row)), strict=True):
            vectors = value.reshape(-1, value.shape[-1]).astype(np.float64)
            sums[name] = sums[name] + vectors.T @ vectors
            counts[name] += len(vectors)
    means = {name: sums[name] / counts[name] for name in inputs if counts[name]}
    return {node.input[1]: means[node.input[0]] for node in products if node.input[0] in means}


def _showing(model: onnx.ModelProto, names: Sequence[str]) -> onnxruntime.InferenceSession:
    """The model in the engine, with tensors from its middle among its outputs."""
    there = {value.name for value in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in there
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def by_percentile(values: NDArray[np.float32]) -> tuple[float, float]:
    """All but the outermost values on both sides."""
    low, high = np.percentile(values, [PERCENTILE, 100 - PERCENTILE])
    return min(float(low), 0.0), max(float(high), 0.0)


def by_entropy(values: NDArray[np.float32]) -> tuple[float, float]:
    """The range at which the values' distribution and its quantized one differ least.

    KL(clipped ‖ quantized) over candidate thresholds of the absolute value, in 2048 bins and 128 levels (Migacz, 8-bit
    Inference with TensorRT, GTC 2017).
    """
    counts, edges = np.histogram(np.abs(values), bins=BINS)
    ends = range(LEVELS, BINS + 1, STRIDE)
    threshold = edges[min(ends, key=lambda end: _divergence(counts.astype(np.float64), end))]
    return float(np.clip(values.min(), -threshold, 0)), float(np.clip(values.max(), 0, threshold))


def _divergence(counts: NDArray[np.float64], end: int) -> float:
    """KL of the first bins, with what lies beyond put into the last of them, against the same bins in few levels."""
    clipped = counts[:end].copy()
    clipped[-1] += counts[end:].sum()
    level = np.arange(end) * LEVELS // end
    filled = clipped > 0
    mass = np.bincount(level, weights=counts[:end], minlength=LEVELS)
    bins = np.maximum(np.bincount(level, weights=filled, minlength=LEVELS), 1)
    coarse = np.where(filled, (mass / bins)[level], 0)
    if not coarse.sum():
        return float("inf")
    p, q = clipped[filled] / clipped.sum(), coarse[filled] / coarse.sum()
    return float((p * np.log(p / np.maximum(q, 1e-12))).sum())
