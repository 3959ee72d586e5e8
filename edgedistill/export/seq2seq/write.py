"""From a checkpoint to the folder that `edgedistill.runtime.engine_seq2seq` runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import onnx

from edgedistill.errors import InputError, StageError
from edgedistill.export.quantize import quantize
from edgedistill.export.seq2seq.checkpoint import Checkpoint, read
from edgedistill.export.seq2seq.graph import HEAD, decoder, encoder
from edgedistill.export.seq2seq.table import share
from edgedistill.runtime.engine_seq2seq import DECODER, ENCODER, TOLD
from edgedistill.store import canonical
from edgedistill.teachers.causal import tokenizer_of
from edgedistill.teachers.local import TOKENIZER
from edgedistill.types import Recipe

MODEL = "model"
"""The folder of the two graphs, inside the folder that is written."""
SCHEMES = ("none", "dynamic", "weight-only")
HEAD_BITS = 8
"""Of a head quantized in blocks, at least, since it decides every word."""
MOST_BYTES = 2**31 - 2**20
"""Of a graph's weights in float32: one file holds no more, and the names in it take a little."""
_GRAPHS: dict[str, Callable[[Checkpoint, int | None], onnx.ModelProto]] = {ENCODER: encoder, DECODER: decoder}


def to_seq2seq(
    student: Path, folder: Path, recipe: Recipe, *, context: int | None = None, exclude: Collection[str] = ()
) -> None:
    """Writes a checkpoint of the T5 or BART family as an encoder and a decoder with a cache.

    The folder then holds model/ with encoder.onnx, decoder.onnx and seq2seq.json, and tokenizer.json. Each graph holds
    its weights once; a table of embeddings that is also the head is one tensor of the decoder.

    Args:
        student: the folder of a checkpoint; only safetensors are read.
        folder: an empty folder, or none yet.
        recipe: of one of `SCHEMES`.
        context: tokens that a text, and an answer, may have; None takes what the checkpoint was trained on. Only T5,
            whose distances have no limit, takes more.
        exclude: names of nodes of either graph that stay float32.

    Raises:
        InputError: the checkpoint is not complete, or wants to run its own code.
        IntegrityError: it has weights that are not finite.
        StageError: it is of another family, or too large; the recipe cannot be followed; or the context is too long.
    """
    if recipe.format != "onnx" or recipe.scheme not in SCHEMES:
        raise StageError(
            f"recipe {recipe.name} is of the scheme {recipe.scheme!r}, which is not for an encoder and a decoder",
            hint=f"use an ONNX recipe of one of {', '.join(SCHEMES)}",
        )
    model = read(student)
    limits = [len(side.positions) for side in (model.encoder, model.decoder) if side.positions is not None]
    context = context or model.context
    if context > min(limits, default=context):
        raise StageError(
            f"{student} knows {min(limits)} positions; a context of {context} is asked for",
            hint=f"ask for {min(limits)} or less",
        )
    tokenizer = getattr(tokenizer_of(student), "backend_tokenizer", None)
    if tokenizer is None:
        raise InputError(
            f"the tokenizer of {student} has no form for a device", hint=f"save the checkpoint with a {TOKENIZER}"
        )
    bits = recipe.embedding_bits or (8 if recipe.scheme == "dynamic" else None)
    made = folder / MODEL
    made.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, graph in _GRAPHS.items():
            fused = Path(scratch) / name
            _save(graph(model, bits), fused, student)
            _quantize(fused, made / name, recipe, exclude)
    share(made / DECODER)
    tokenizer.save(str(folder / TOKENIZER))
    (made / TOLD).write_bytes(
        canonical(
            {
                "context": context,
                "decoder_start": model.start,
                "ends": model.ends,
                "first": model.first,
                "head_size": model.decoder.head,
                "heads": model.decoder.heads,
                "layers": len(model.decoder.layers),
            }
        )
    )


def _quantize(fused: Path, path: Path, recipe: Recipe, exclude: Collection[str]) -> None:
    if recipe.scheme != "weight-only" or recipe.bits >= HEAD_BITS:
        quantize(fused, path, recipe, exclude=exclude)
        return
    without = fused.with_suffix(".headless")
    quantize(fused, without, recipe, exclude={*exclude, *HEAD})
    quantize(without, path, replace(recipe, bits=HEAD_BITS), exclude=exclude)


def _save(model: onnx.ModelProto, path: Path, student: Path) -> None:
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > MOST_BYTES:
        raise StageError(
            f"the {path.stem} of {student} has {size / 1e9:.1f} GB in float32; one file holds {MOST_BYTES / 1e9:.1f}",
            hint="distil into a smaller student",
        )
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))
