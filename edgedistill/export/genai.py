"""Decoders as ONNX files with a cache of keys and values, by the builder of onnxruntime-genai."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgedistill.errors import IntegrityError, MissingExtra, StageError
from edgedistill.export.chat import cut
from edgedistill.export.silence import no_advice
from edgedistill.runtime.turns import PIECES
from edgedistill.store import canonical
from edgedistill.teachers.causal import check, tokenizer_of
from edgedistill.teachers.local import TOKENIZER, quiet

MODEL = "model"
"""The folder of the engine's own files, inside the folder that is written."""
FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "phi3", "gemma"})
"""What release 0.14 builds right from checkpoints of transformers 5; its Gemma 2 answers otherwise, and others fail."""
GRAPH = "model.onnx"
HEAD_MULTIPLE = 16
"""The attention operator on the CPU takes no other sizes of heads."""
_INT4 = {
    "int4_block_size": 32,
    # Activations in 8 bits while a product is computed: two to five times faster than the default of float32.
    "int4_accuracy_level": 4,
}
# k-quantization has zero points. Told nothing, the builder writes them, but reads a table of embeddings without them
# where it is the head too: that is another model.
_K_QUANT = {**_INT4, "int4_is_symmetric": False}
FORMS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "fp32": ("fp32", {}),
        # Weights in 4 bits, and the head, which decides every word, in 8.
        "int4": ("int4", {**_K_QUANT, "int4_algo_config": "k_quant_last"}),
        # As well, in 8 bits: values, and the maps back to the model's width, of a third of the layers and of those at
        # both ends, as llama.cpp picks them.
        "int4-mixed": ("int4", {**_K_QUANT, "int4_algo_config": "k_quant_mixed"}),
        "int4-nearest": ("int4", {**_INT4, "int4_algo_config": "rtn_last"}),
    }
)
"""By name: the builder's precision and its options."""
MULTIPLES = {"int4": 64, "int4-mixed": 64, "int4-nearest": 32}
"""Of widths: k-quantization packs the zero points of two blocks of 32 into a byte, and rows share none."""
OFFLINE = {"hf_token": "false", "hf_remote": False}
"""The builder asks no hub, and runs no code of a checkpoint."""
LAST_ONLY = {"prune_lm_head": True}
"""Of a prompt only its last token is scored: the others would cost a row of float32 as wide as the vocabulary each."""


def to_genai(student: Path, folder: Path, form: str = "int4") -> None:
    """Writes a decoder checkpoint as what `edgedistill.runtime.engine_genai` runs.

    The folder then holds model/ with genai_config.json, model.onnx and its weights, tokenizer.json, and chat.json with
    the pieces of the chat template. A table of embeddings that is also the head is stored once.

    Args:
        student: the folder of a checkpoint; only safetensors are read.
        folder: an empty folder, or none yet.
        form: one of `FORMS`.

    Raises:
        InputError: the checkpoint is not complete, or wants to run its own code.
        IntegrityError: it has weights that are not finite.
        MissingExtra: onnxruntime-genai is not installed.
        StageError: the builder does not know the family, or failed; or the chat template cannot be cut.
    """
    if form not in FORMS:
        raise StageError(f"there is no form {form!r}", hint=f"use one of {', '.join(FORMS)}")
    refuse(student)
    _refuse_widths(student, form)
    refuse_not_finite(student)
    try:
        builder: Any = importlib.import_module("onnxruntime_genai.models.builder")
    except ImportError as error:
        raise MissingExtra("onnxruntime-genai", extra="genai") from error
    pieces = cut(tokenizer_of(student))
    precision, options = FORMS[form]
    made = folder / MODEL
    made.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as cache, _silent():
        try:
            settings = {**OFFLINE, **LAST_ONLY, **options}
            builder.create_model(None, str(student), str(made), precision, "cpu", cache, **settings)
        except Exception as error:  # it raises whatever its parts raise
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise StageError(f"onnxruntime-genai cannot build {student}: {said}", hint="export to GGUF") from error
    for file in made.iterdir():  # the tokenizer in forms that the runtime does not read
        if file.name != "genai_config.json" and not file.name.startswith(GRAPH):
            file.unlink()
    shutil.copyfile(student / TOKENIZER, folder / TOKENIZER)
    (folder / PIECES).write_bytes(canonical(pieces))


def refuse(student: Path) -> None:
    """Refuses what the builder or the engine would fail on in the middle, or build as another model, in any form.

    Raises:
        InputError: the checkpoint is not complete, or wants to run its own code.
        StageError: of another family or shape, or its chat template cannot be cut.
    """
    config = _config(student)
    if config.get("model_type") not in FAMILIES:
        raise StageError(
            f"{student} is of the family {config.get('model_type')!r}, which is not built for onnxruntime-genai",
            hint=f"export to GGUF, or use one of {', '.join(sorted(FAMILIES))}",
        )
    if _head(config) % HEAD_MULTIPLE:
        raise StageError(
            f"{student} has heads of {_head(config)} numbers; onnxruntime-genai takes multiples of {HEAD_MULTIPLE}",
            hint="export to GGUF",
        )
    if config.get("use_sliding_window") and config.get("max_window_layers"):
        raise StageError(
            f"{student} looks at a window in some layers only, and onnxruntime-genai's builder takes it for all",
            hint="export to GGUF",
        )
    cut(tokenizer_of(student))


def _refuse_widths(student: Path, form: str) -> None:
    config = _config(student)
    widths = (config["hidden_size"], config["intermediate_size"], config["num_attention_heads"] * _head(config))
    multiple = MULTIPLES.get(form, 1)
    if wrong := [width for width in widths if width % multiple]:
        raise StageError(
            f"{student} has a width of {wrong[0]}; the form {form} takes multiples of {multiple}",
            hint="use the form int4-nearest, or export to GGUF",
        )


def refuse_not_finite(student: Path) -> None:
    """Raises IntegrityError where a weight has values that are not finite."""
    from safetensors import safe_open

    for file in check(student):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                weight = opened.get_tensor(name)
                if weight.is_floating_point() and not bool(weight.isfinite().all()):
                    raise IntegrityError(
                        f"{student}: the weight {name} has values that are not finite", hint="train it again"
                    )


def _config(student: Path) -> dict[str, Any]:
    check(student)
    config: dict[str, Any] = json.loads((student / "config.json").read_text(encoding="utf-8"))
    return config


def _head(config: Mapping[str, Any]) -> int:
    """How many numbers a head has."""
    found: int = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return found


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps the builder, which prints every step, from writing between our own lines."""
    lost = io.StringIO()
    with no_advice(), quiet(), contextlib.redirect_stdout(lost), contextlib.redirect_stderr(lost):
        yield
