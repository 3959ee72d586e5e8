"""Smaller numbers in the same graph: 8-bit weights, activations quantized as they come."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx

from edgedistill.errors import StageError
from edgedistill.types import Recipe


def quantize(fused: Path, path: Path, recipe: Recipe) -> None:
    """Applies a recipe to a fused float32 file.

    Args:
        fused: from `to_onnx`.
        path: the file to write.
        recipe: scheme "none" copies; "dynamic" makes matrix products and the embedding table 8 bit.

    Raises:
        StageError: the recipe's scheme is not known here.
    """
    if recipe.scheme == "none":
        path.write_bytes(fused.read_bytes())
        return
    if recipe.scheme != "dynamic" or recipe.bits != 8:
        raise StageError(f"recipe {recipe.name} asks for {recipe.bits} bits {recipe.scheme}", hint="use another recipe")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it advises a pre-processing that the fused graph does not need
    try:
        quantize_dynamic(
            fused,
            path,
            weight_type=QuantType.QInt8,
            per_channel=recipe.per_channel,
            # 7 of 8 bits: x86 without VNNI adds two products in 16 bits and saturates on full-range weights, so
            # the same file would answer differently there.
            reduce_range=recipe.reduce_range,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    finally:
        logging.disable(logging.NOTSET)
