"""A GGUF file in fewer bits, by llama.cpp's own quantizer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgedistill.errors import EngineCrashed, StageError
from edgedistill.export.gguf import engine, header
from edgedistill.export.gguf.header import Header, TensorInfo
from edgedistill.types import Recipe

SCHEMES: Mapping[str, tuple[LlamaFileType, GGMLQuantizationType]] = {
    "f16": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
    "q6_k": (LlamaFileType.MOSTLY_Q6_K, GGMLQuantizationType.Q6_K),
    "q5_k_m": (LlamaFileType.MOSTLY_Q5_K_M, GGMLQuantizationType.Q5_K),
    "q4_k_m": (LlamaFileType.MOSTLY_Q4_K_M, GGMLQuantizationType.Q4_K),
    "q4_0": (LlamaFileType.MOSTLY_Q4_0, GGMLQuantizationType.Q4_0),
}
FALLBACK = {
    GGMLQuantizationType.Q4_K: GGMLQuantizationType.Q5_0,
    GGMLQuantizationType.Q5_K: GGMLQuantizationType.Q5_1,
    GGMLQuantizationType.Q6_K: GGMLQuantizationType.Q8_0,
}
"""What llama.cpp writes, with a warning in its log only, where blocks of 256 do not divide a row."""
FLOATS = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}


def quantize(
    source: Path,
    path: Path,
    recipe: Recipe,
    *,
    importance: Mapping[str, NDArray[np.float32]] | None = None,
    threads: int = 1,
) -> None:
    """Applies a GGUF recipe.

    Args:
        source: a file in F32, F16 or BF16, from `to_gguf`.
        path: the file to write; removed when it fails.
        recipe: its scheme is one of SCHEMES.
        importance: for each tensor, how much each column of its rows matters, from `importance`. Shape: [width].

    Raises:
        StageError: the source is quantized already, its rows do not fit the blocks, or the quantizer failed.
        IntegrityError: the source is not a sound GGUF file.
        MissingExtra: llama-cpp-python is not installed.
    """
    if recipe.format != "gguf" or recipe.scheme not in SCHEMES:
        raise StageError(f"recipe {recipe.name} is not one for GGUF", hint=f"known schemes: {', '.join(SCHEMES)}")
    found = header.read(source)
    file_type, wanted = SCHEMES[recipe.scheme]
    _fits(found, source, wanted)
    with tempfile.TemporaryDirectory(prefix="edgedistill-importance-") as folder:
        saved = None
        if importance is not None:
            saved = str(Path(folder) / "importance.safetensors")
            save_file(_matching(found, importance), saved)
        request = {
            "do": "quantize",
            "source": str(source.resolve()),
            "target": str(path.resolve()),
            "file_type": int(file_type),
            "importance": saved,
            "threads": threads,
        }
        try:
            with engine.ask(request, bytes_read=found.file_bytes):
                pass
        except EngineCrashed as error:
            path.unlink(missing_ok=True)
            raise StageError(f"llama.cpp could not quantize {source}: {error}", hint="the source is kept") from error


def quantizable(tensor: TensorInfo) -> bool:
    """Whether llama.cpp's quantizer touches a tensor of the families written here."""
    name = tensor.name
    kept = name.endswith("_norm.weight") or name in {"position_embd.weight", "token_types.weight"}
    return len(tensor.shape) >= 2 and name.endswith("weight") and not kept


def _fits(found: Header, source: Path, wanted: GGMLQuantizationType) -> None:
    done = [tensor for tensor in found.tensors if tensor.type not in FLOATS]
    if done:
        raise StageError(
            f"{source} is quantized already: {done[0].name} is {done[0].type.name}", hint="start from F32, F16 or BF16"
        )
    block, size = GGML_QUANT_SIZES[wanted]
    odd = [tensor for tensor in found.tensors if quantizable(tensor) and tensor.width % block]
    if not odd:
        return
    widths = sorted({tensor.width for tensor in odd})
    said = f"{len(odd)} tensors have rows of {', '.join(map(str, widths))}, which blocks of {block} do not divide"
    if wanted in FALLBACK:
        other_block, other_size = GGML_QUANT_SIZES[FALLBACK[wanted]]
        more = other_size / other_block / (size / block) - 1
        # The embedding table falls back to Q8_0 where it is the head, too.
        example = next((tensor.name for tensor in odd if tensor.name.startswith("blk.")), odd[0].name)
        said += (
            f"; llama.cpp would write them as {FALLBACK[wanted].name}, {more:.0%} larger and slower to prefill "
            f"({example} is one)"
        )
    raise StageError(
        f"{wanted.name} does not fit {source.name}: {said}",
        hint="use gguf-q4_0 or gguf-q8_0, or a student with widths that are multiples of 256",
    )


def _matching(found: Header, importance: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The weights of tensors that are in the file, each as long as a row; the quantizer ends where one is not."""
    widths = {tensor.name: tensor.width for tensor in found.tensors}
    kept = {}
    for name, values in importance.items():
        if name in widths:
            if values.shape != (widths[name],) or not np.isfinite(values).all():
                raise StageError(
                    f"the importance of {name} is {values.shape} or not finite, its rows are {widths[name]} wide",
                    hint="compute it from the checkpoint that the file was written from",
                )
            kept[name] = np.ascontiguousarray(values, dtype=np.float32)
    return kept
