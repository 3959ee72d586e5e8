"""Weights of 8-bit products kept in 4 bits on disk: the engine makes bytes of them once, while it loads the file.

Products in 4 bits are slow on short texts, since the engine widens their weights at every call; in 8 bits they are
fast and the file is twice as large. Here the file has the one and the engine computes the other. Each byte of the file
stands for two neighbouring weights: it is a row of the matrix's codebook, 256 pairs of bytes that k-means finds
(vector quantization, Gray, 1984), and each column has a scale, as in 8 bits.

The engine looks the pairs up with an ordinary Gather, whose inputs are all constants: so it is folded away before the
first text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

PAIRS = 256
LARGEST, REDUCED = 127, 64
"""Largest byte, and where the range is reduced."""
SAMPLE = 1 << 16
"""Pairs that a codebook is fitted to."""
ITERATIONS = 12
AT_ONCE = 1 << 13
MOST = 16.0
"""Root mean squares of a column that a byte reaches at most: what is larger is cut, for finer steps below."""
MOST_LOST = 0.05
"""Where a matrix's results would lose more, it keeps its bytes: a few weights much larger than all others leave too few
codes for the rest."""
DAMPING = 0.1
"""Added to the second moments' diagonal, as a share of its mean: what few rows say of many inputs is not all true."""

Array = NDArray[Any]


def with_codebooks(
    model: ModelProto, weights: Mapping[str, Array], moments: Mapping[str, Array], *, reduce_range: bool
) -> None:
    """Replaces the 8-bit weights of a model by codes and codebooks.

    Args:
        model: with `<name>_quantized` (int8, [in, out]) and `<name>_scale` ([out]) among its tensors.
        weights: what they were made from, by name: [in, out]. One with an odd number of columns keeps its bytes.
        moments: of their inputs, as far as they are known: [in, in].
        reduce_range: bytes stay within ±64.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    made: list[NodeProto] = []
    for name, weight in weights.items():
        quantized, scale = tensors.get(f"{name}_quantized"), tensors.get(f"{name}_scale")
        if quantized is None or scale is None or quantized.data_type != TensorProto.INT8 or weight.shape[1] % 2:
            continue
        codes, book, scales = encode(weight, REDUCED if reduce_range else LARGEST, moments.get(name))
        found = book[codes].reshape(weight.shape) * scales
        if _lost(found, weight, moments.get(name)) > MOST_LOST:
            continue
        scale.CopyFrom(numpy_helper.from_array(scales, scale.name))
        model.graph.initializer.remove(quantized)
        added = {f"{name}_codes": codes, f"{name}_book": book, f"{name}_shape": np.array(weight.shape)}
        model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in added.items())
        made += _look_up(name)
    nodes = [*made, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def encode(
    weight: Array, largest: int, moments: Array | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int8], NDArray[np.float32]]:
    """The codes, codebook and scales of a matrix.

    Args:
        weight: [in, out], finite, `out` even.
        largest: byte in the codebook.
        moments: mean of x xᵀ over inputs x, [in, in]; without, all inputs count alike and apart.

    Returns:
        Codes, [in, out / 2]; the codebook, [256, 2]; the scale of each column, [out], which makes the squared error of
        that column's results least.
    """
    size = np.sqrt((weight**2).mean(axis=0))
    size = np.where(size == 0, 1, size)
    pairs = (weight / size).reshape(-1, 2).astype(np.float32)
    centres = _fitted(pairs[:: -(-len(pairs) // SAMPLE)])
    unit = (min(float(np.abs(centres).max()), MOST) or 1) / largest
    book = np.clip(np.rint(centres / unit), -largest, largest).astype(np.int8)
    units = weight / (size * unit)
    if moments is None:
        moments, codes = np.eye(len(weight)), _nearest(units.reshape(-1, 2), book).reshape(len(weight), -1)
    else:
        codes = _compensated(units, book, moments)
    found = book[codes].reshape(weight.shape).astype(np.float64)
    seen = moments @ found
    norm = (found * seen).sum(axis=0)
    scales = (seen * weight).sum(axis=0) / np.where(norm == 0, 1, norm)
    return codes.astype(np.uint8), book, scales.astype(np.float32)


def _lost(found: Array, weight: Array, moments: Array | None) -> float:
    """What the products' results lose, as a share of them (root mean square)."""

    def power(matrix: Array) -> float:
        return float((matrix * (matrix if moments is None else moments @ matrix)).sum())

    return math.sqrt(max(power(found - weight), 0) / max(power(weight), 1e-30))


def _compensated(units: Array, book: NDArray[np.int8], moments: Array) -> NDArray[np.int64]:
    """Codes of one row of weights after the other, each time moving the rows not coded yet so that they make up for it.

    GPTQ (Frantar et al., 2022), with pairs from a codebook in place of rounded numbers, the strongest inputs first.
    """
    order = np.argsort(-np.diag(moments), kind="stable")
    damped = moments[np.ix_(order, order)] + DAMPING * (np.diag(moments).mean() or 1) * np.eye(len(order))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = units[order].astype(np.float64)
    codes = np.empty((len(order), units.shape[1] // 2), dtype=np.int64)
    for row, at in enumerate(order):
        codes[at] = _nearest(left[row].reshape(-1, 2), book)
        error = (left[row] - book[codes[at]].ravel()) / upper[row, row]
        left[row + 1 :] -= np.outer(upper[row, row + 1 :], error)
    return codes


def _fitted(pairs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The centres of 256 clusters, by Lloyd's iterations from a grid of 16 × 16 quantiles: [256, 2]."""
    sides = [np.quantile(pairs[:, side], (np.arange(16) + 0.5) / 16) for side in (0, 1)]
    book = np.stack([grid.ravel() for grid in np.meshgrid(*sides, indexing="ij")], axis=1).astype(np.float32)
    for _ in range(ITERATIONS):
        codes = _nearest(pairs, book)
        count = np.bincount(codes, minlength=PAIRS)[:, None]
        sums = np.stack([np.bincount(codes, pairs[:, side], minlength=PAIRS) for side in (0, 1)], axis=1)
        book = np.where(count > 0, sums / np.maximum(count, 1), book).astype(np.float32)
    return book


def _nearest(pairs: Array, book: Array) -> NDArray[np.int64]:
    """The number of the centre that each pair is nearest to."""
    pairs, book = pairs.astype(np.float32), book.astype(np.float32)
    norms = (book**2).sum(axis=1) / 2
    parts = range(0, len(pairs), AT_ONCE)
    return np.concatenate([(norms - pairs[start : start + AT_ONCE] @ book.T).argmin(axis=1) for start in parts])


def _look_up(name: str) -> Iterator[NodeProto]:
    """From codes to bytes."""

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(operator, inputs, [output], f"{output}/{operator}", **attributes)

    yield node("Cast", [f"{name}_codes"], f"{name}_rows", to=TensorProto.INT32)
    yield node("Gather", [f"{name}_book", f"{name}_rows"], f"{name}_pairs", axis=0)
    yield node("Reshape", [f"{name}_pairs", f"{name}_shape"], f"{name}_quantized")
