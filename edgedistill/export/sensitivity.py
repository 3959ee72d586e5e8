"""Which matrix products lose the most when quantized: one at a time, measured on rows, in the engine itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistill.export.parity import answers, feed
from edgedistill.export.quantize import products, quantize
from edgedistill.types import Recipe

ROWS = 64
"""Enough to put products in order: their errors differ by factors, not by shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What quantizing one product alone does to the logits.

    Attributes:
        node: its name in the graph.
        layer: the encoder layer it is in, counted from 0; None outside.
        error: root mean square of the change of a logit.
    """

    node: str
    layer: int | None
    error: float


def sensitivity(
    fused: Path, recipe: Recipe, ids: Sequence[Sequence[int]], *, separator: int | None = None, folder: Path
) -> tuple[Sensitivity, ...]:
    """Quantizes each product of a file alone and ranks them by the error of the logits, the largest first.

    Args:
        fused: a float32 file, as `base_of` says for the recipe.
        ids: rows to answer; at most 64, spread evenly, are used.
        separator: of pairs.
        folder: for the files in between.
    """
    rows = list(ids[:: -(-len(ids) // ROWS)])
    given = [feed(row, separator=separator) for row in rows]
    expected = answers(fused, rows, separator=separator)
    nodes = products(fused, recipe)
    found = []
    for node in nodes:
        path = folder / "one.onnx"
        quantize(fused, path, recipe, exclude=[other for other in nodes if other != node], rows=given)
        error = _rms(answers(path, rows, separator=separator) - expected)
        path.unlink()
        found.append(Sensitivity(node=node, layer=_layer(node), error=error))
    return tuple(sorted(found, key=lambda one: -one.error))


def _rms(error: NDArray[np.float32]) -> float:
    """NaN, which a ruined product gives, counts as the worst there is."""
    value = float(np.sqrt((error.astype(np.float64) ** 2).mean()))
    return value if np.isfinite(value) else float(np.finfo(np.float64).max)


def _layer(node: str) -> int | None:
    number = node.split(".")[0]
    return int(number) if number.isdigit() else None
