"""Smaller numbers in the same graph: dynamic, static and weight-only schemes, each matrix product by itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_dynamic
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from edgedistill.errors import StageError
from edgedistill.export.calibrate import ranges, second_moments
from edgedistill.export.codebook import with_codebooks
from edgedistill.export.silence import no_advice
from edgedistill.types import BESIDE, Recipe

Feed = dict[str, Any]
"""One row as the engine takes it: the inputs by name."""

BLOCK = 32
INT8_ACTIVATIONS = 4
"""`accuracy_level` of a weight-only product: activations in 8 bits. Left out, the engine widens the weights instead,
at twice the time or more."""
SMALL = 1024
"""Bytes below which a weight stays in the graph."""
_SCHEMES: dict[str, tuple[int, ...]] = {"none": (16, 32), "dynamic": (8,), "static": (8,), "weight-only": (4, 8)}
_PRODUCTS = ("MatMul", "Attention")


def quantize(
    fused: Path, path: Path, recipe: Recipe, *, exclude: Collection[str] = (), rows: Sequence[Feed] = ()
) -> None:
    """Applies a recipe to a fused float32 file.

    Args:
        fused: from `to_onnx`, with the attention and the embedding table that `base_of` says.
        path: the file to write.
        recipe: its scheme, bits and ranges.
        exclude: names of nodes that stay float32.
        rows: for a static scheme, what the ranges of activations are taken from.

    Raises:
        StageError: the recipe cannot be followed.
    """
    if recipe.bits not in _SCHEMES.get(recipe.scheme, ()):
        raise StageError(f"recipe {recipe.name} asks for {recipe.bits} bits {recipe.scheme}", hint="use another recipe")
    with no_advice():  # on a pre-processing that the fused graph does not need
        if recipe.scheme == "none":
            _store(fused, path, recipe.bits)
        elif recipe.scheme == "dynamic":
            _dynamic(fused, path, recipe, exclude, rows)
        elif recipe.scheme == "static":
            _static(fused, path, recipe, exclude, rows)
        else:
            _weight_only(fused, path, recipe, exclude)


def set_apart(path: Path) -> None:
    """Moves a graph's weights into a file beside it, which the engine maps into memory instead of reading it.

    What no text touches, like most rows of a table, then takes no memory, and the rest is there once less.
    """
    model = onnx.load(path)
    beside = path.name + BESIDE
    path.with_name(beside).unlink(missing_ok=True)
    onnx.save_model(model, str(path), save_as_external_data=True, location=beside, size_threshold=SMALL)


def base_of(recipe: Recipe) -> dict[str, Any]:
    """How `to_onnx` must write the file that a recipe is applied to: only the dynamic scheme knows packed attention."""
    return {"packed": recipe.scheme in ("none", "dynamic"), "embedding_bits": recipe.embedding_bits}


def products(fused: Path, recipe: Recipe) -> list[str]:
    """The nodes that a recipe would quantize, in the order in which they are computed."""
    wanted = _quantized(recipe)
    return [node.name for node in onnx.load(fused).graph.node if node.op_type in wanted]


def _quantized(recipe: Recipe) -> tuple[str, ...]:
    if recipe.scheme != "dynamic":
        return ("MatMul",)
    return _PRODUCTS if recipe.embedding_bits else (*_PRODUCTS, "EmbedLayerNormalization")


def _store(fused: Path, path: Path, bits: int) -> None:
    """Float weights as they are, or in 16 bits with a cast behind each, which the engine folds when it loads."""
    if bits == 32:
        path.write_bytes(fused.read_bytes())
        return
    model = onnx.load(fused)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        value = numpy_helper.to_array(tensor)
        if np.abs(value).max(initial=0) > np.finfo(np.float16).max:
            continue  # it would become infinite
        name = f"{tensor.name}_16"
        casts.append(helper.make_node("Cast", [name], [tensor.name], f"{name}/Cast", to=TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), name))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save_model(model, str(path))


def _dynamic(fused: Path, path: Path, recipe: Recipe, exclude: Collection[str], rows: Sequence[Feed]) -> None:
    quantize_dynamic(
        fused,
        path,
        op_types_to_quantize=list(_quantized(recipe)),
        weight_type=QuantType.QInt8,
        per_channel=recipe.per_channel,
        # 7 of 8 bits: x86 without VNNI adds two products in 16 bits and saturates on full-range weights, so
        # the same file would answer differently there.
        reduce_range=recipe.reduce_range,
        nodes_to_exclude=sorted(exclude),
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )
    if recipe.stored_bits is not None:
        model = onnx.load(path)
        with_codebooks(model, _matrices(fused), second_moments(fused, rows), reduce_range=recipe.reduce_range)
        onnx.save_model(model, str(path))


def _matrices(fused: Path) -> dict[str, Any]:
    """The float matrices of the layers. Those of the head are small, and decide every answer."""
    tensors = onnx.load(fused).graph.initializer
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in tensors
        if len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT and not tensor.name.startswith("head.")
    }


def _static(fused: Path, path: Path, recipe: Recipe, exclude: Collection[str], rows: Sequence[Feed]) -> None:
    if not rows:
        raise StageError(f"recipe {recipe.name} needs rows to calibrate on", hint="give training rows, or drop it")
    found = ranges(fused, rows, recipe.calibration or "percentile")
    data = {name: tuple(np.array(bound, dtype=np.float32) for bound in bounds) for name, bounds in found.items()}
    model = onnx.load(fused)
    # Shape inference stops at fused operators, and the quantizer passes over whatever has no type.
    model.graph.value_info.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in found)
    quantizer = QDQQuantizer(
        model,
        recipe.per_channel,
        recipe.reduce_range,
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, data),
        [],
        sorted(exclude),
        ["MatMul"],
        {
            "DefaultTensorType": TensorProto.FLOAT,
            # Sums stay float32: what follows a product (norm, softmax, GELU) has no 8-bit kernel, so quantizing its
            # result would only be undone again.
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
        },
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(path))


def _weight_only(fused: Path, path: Path, recipe: Recipe, exclude: Collection[str]) -> None:
    settings = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=True, accuracy_level=INT8_ACTIVATIONS, bits=recipe.bits
    )
    quantizer = MatMulNBitsQuantizer(
        onnx.load(fused),
        bits=recipe.bits,
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=INT8_ACTIVATIONS,
        nodes_to_exclude=sorted(exclude),
        algo_config=settings,
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))
