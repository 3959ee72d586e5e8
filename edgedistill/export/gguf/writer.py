"""A checkpoint folder as a GGUF file: one tensor after the other is read, changed, checked and written."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgedistill.errors import InputError, IntegrityError, StageError
from edgedistill.export.checkpoint import classifies, read_config
from edgedistill.export.gguf import vocabulary
from edgedistill.export.gguf.families import Change, Config, Family, family, tied
from edgedistill.types import Progress, silent

Precision = Literal["f32", "f16", "bf16"]
TYPES: Mapping[Precision, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
}
POOLINGS = {
    "mean": ("pooling_mode_mean_tokens", gguf.PoolingType.MEAN),
    "cls": ("pooling_mode_cls_token", gguf.PoolingType.CLS),
    "lasttoken": ("pooling_mode_lasttoken", gguf.PoolingType.LAST),
}
ALWAYS_FLOAT32 = ("position_embd.weight", "token_types.weight")
"""Two-dimensional, but llama.cpp adds them to activations and has kernels for float32 only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A tensor of the file: where it comes from, and in which type it is kept. `made` is set where it is computed."""

    name: str
    source: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    change: Change | None
    made: Tensor | None = None


def to_gguf(checkpoint: Path, path: Path, *, precision: Precision = "f16", progress: Progress = silent) -> None:
    """Writes a checkpoint as one GGUF file that llama.cpp loads.

    Args:
        checkpoint: a folder with config.json, safetensors and tokenizer.json.
        path: the file to write.
        precision: of the matrices; vectors, norms and positions are float32 always.

    Raises:
        InputError: the folder is not a checkpoint in safetensors.
        StageError: llama.cpp cannot compute this model or cut its texts; a weight is missing, unknown or too large.
        IntegrityError: a weight has values that are not finite; the file is removed.
    """
    config = read_config(checkpoint)
    found = family(config)
    words = vocabulary.read(checkpoint, config["vocab_size"])
    with ExitStack() as opened:
        files = _open(checkpoint, opened)
        plan = list(_plan(files, found, config, TYPES[precision][0], checkpoint))
        writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[found.arch])
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(words.model_name(checkpoint.resolve().name))
        writer.add_size_label(gguf.size_label(sum(int(np.prod(one.shape)) for one in plan), 0, 0, 0))
        found.describe(writer, config)
        _pooling(writer, checkpoint, config)
        writer.add_file_type(TYPES[precision][1])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        words.add_to(writer)
        for one in plan:
            writer.add_tensor_info(one.name, one.shape, np.dtype(np.float32), _bytes(one), raw_dtype=one.type)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for done, one in enumerate(plan, 1):
                weight = files[one.source].get_tensor(one.source) if one.made is None else one.made
                writer.write_tensor_data(_data(one, weight))
                progress(done, len(plan), one.name)
        except BaseException:
            writer.close()
            path.unlink(missing_ok=True)
            raise
        writer.close()


def tensor_name(name: str, found: Family, config: Config) -> str | None:
    """What a checkpoint's tensor is called in the file; None for one that has no place there.

    Raises:
        StageError: the family has no such tensor.
    """
    known = found.name(name, config)
    if known is None or (known == "lm_head.weight" and tied(config)):
        return None
    names = gguf.get_tensor_name_map(found.arch, config["num_hidden_layers"])
    placed = names.get_name(known, try_suffixes=(".weight", ".bias"))
    if placed is None:
        raise StageError(f"{config['model_type']} has no place for the weight {name} in GGUF", hint="export to ONNX")
    return placed


def _open(checkpoint: Path, opened: ExitStack) -> dict[str, Any]:
    """The open file of every tensor of a checkpoint."""
    paths = sorted(checkpoint.glob("model*.safetensors"))
    if not paths:
        raise InputError(
            f"{checkpoint} has no model.safetensors", hint="save the model in safetensors, nothing else is read"
        )
    files: dict[str, Any] = {}
    for path in paths:
        try:
            file = opened.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file: {error}", hint="copy it again") from error
        files |= dict.fromkeys(file.keys(), file)
    return files


def _plan(
    files: Mapping[str, Any], found: Family, config: Config, wanted: GGMLQuantizationType, checkpoint: Path
) -> Iterator[Placed]:
    seen = set()
    for name in sorted(files):
        placed = tensor_name(name, found, config)
        if placed is None:
            continue
        shape = tuple(files[name].get_slice(name).get_shape())
        if placed == "token_embd.weight" and shape[0] != config["vocab_size"]:
            raise StageError(f"{name} has {shape[0]} rows, config.json says {config['vocab_size']}", hint="mend it")
        seen.add(placed)
        kept = _type(placed, shape, wanted)
        yield Placed(name=placed, source=name, shape=shape, type=kept, change=found.change(name, config))
    for name, made in found.only_configured(config).items():
        float32 = GGMLQuantizationType.F32
        yield Placed(name=name, source="", shape=tuple(made.shape), type=float32, change=None, made=made)
    head = found.arch != gguf.MODEL_ARCH.BERT and not tied(config)
    for needed in ("token_embd.weight", *(("output.weight",) if head else ()), *_of_layers(seen, config)):
        if needed not in seen:
            raise StageError(f"{checkpoint} has no weight for {needed}", hint="is the checkpoint complete?")


def _of_layers(seen: Collection[str], config: Config) -> list[str]:
    """What every layer has where any of them has it: in the families that are written all layers are alike."""
    parts = sorted({name.split(".", 2)[2] for name in seen if name.startswith("blk.")})
    return [f"blk.{layer}.{part}" for layer in range(config["num_hidden_layers"]) for part in parts]


def _type(name: str, shape: tuple[int, ...], wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    if len(shape) < 2 or name in ALWAYS_FLOAT32 or not name.endswith(".weight"):
        return GGMLQuantizationType.F32
    return wanted


def _bytes(one: Placed) -> int:
    return int(np.prod(one.shape)) * (4 if one.type == GGMLQuantizationType.F32 else 2)


def _data(one: Placed, weight: Tensor) -> NDArray[Any]:
    """The tensor's bytes as they go into the file."""
    if not torch.isfinite(weight).all():
        raise IntegrityError(f"the weight {one.source} has values that are not finite", hint="train the student again")
    values = weight.to(torch.float32)
    if one.change is not None:
        values = one.change(values)
    if one.type == GGMLQuantizationType.F16:
        half = values.to(torch.float16)
        if not torch.isfinite(half).all():
            raise StageError(
                f"the weight {one.source} has values up to {float(values.abs().max()):.3g}, too large for float16",
                hint='write it with precision "bf16" or "f32"',
            )
        return half.contiguous().numpy()
    if one.type == GGMLQuantizationType.BF16:
        return values.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    return values.contiguous().numpy()


def _pooling(writer: GGUFWriter, checkpoint: Path, config: Config) -> None:
    """How a sentence encoder makes one vector of many, where sentence-transformers' files say it."""
    path = checkpoint / "1_Pooling" / "config.json"
    if classifies(config) or not path.is_file():
        return
    modes = json.loads(path.read_text(encoding="utf-8"))
    # Until version 6 each pooling was a flag; since then there is one name.
    chosen = [name for name, (flag, _) in POOLINGS.items() if modes.get(flag) or modes.get("pooling_mode") == name]
    if len(chosen) != 1:
        raise StageError(f"{path} asks for a pooling that llama.cpp has not", hint=f"it has {', '.join(POOLINGS)}")
    writer.add_pooling_type(POOLINGS[chosen[0]][1])
