"""Whether an exported file fits a board: predicted from its size and shape, and checked by loading it here.

A file is mapped or read into memory, and counted as a whole; what the engine needs beside it depends on what it is.
ONNX Runtime packs the weights of matrix products once more for its kernels, but not those of 8 bits, which it maps.
llama.cpp computes from the file; it keeps, for each token of the context, keys and values of every layer in 16 bits,
and numbers for one batch of 512 tokens.
onnxruntime-genai keeps them in 32 bits, and numbers for a whole prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgedistill.plan import RUNTIME_FILES_BYTES
from edgedistill.predictor.decoder import LLAMA_BYTES
from edgedistill.predictor.encoder import ENGINE_BYTES, in_memory
from edgedistill.types import Device, Recipe

LLAMA_FILES_BYTES = 150e6
"""On disk: the runtime's requirements, unpacked."""
GENAI_BYTES = 70e6
"""The same of Python with onnxruntime-genai, and of onnxruntime once it runs."""
GENAI_FILES_BYTES = 340e6
"""On disk: onnxruntime-genai and what it needs, unpacked."""
GENAI_BUFFERS = 16
"""As `BUFFERS`, of onnxruntime, with what its memory arena takes too much; from prompts of 1,500 tokens."""
NUMPY_BYTES = 36e6
"""Resident memory of Python with numpy and tokenizers, on 64-bit Linux."""
NUMPY_FILES_BYTES = 75e6
"""On disk: the runtime's requirements, unpacked."""
BATCH = 512
"""Tokens that llama.cpp computes at once."""
BUFFERS = 4
"""Rows of float32 numbers, as wide as the widest layer, that are alive at once for each token of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a file takes of a board, in bytes.

    Attributes:
        parts: of the predicted memory, by name.
        storage: the bundle and what it needs installed.
        measured: resident memory of the runtime on this machine with the file loaded, all of its context set aside,
            and some rows answered; None before it was.
        unseen: part of the predicted memory that this does not come to, because no row fills the context.
    """

    parts: Mapping[str, float]
    storage: float
    memory_available: float
    storage_available: float
    measured: float | None = None
    unseen: float = 0.0

    @property
    def memory(self) -> float:
        """Predicted, all parts together."""
        return sum(self.parts.values())

    @property
    def problem(self) -> str | None:
        """What does not fit, with the arithmetic; where it was measured, that counts and not the prediction."""
        free = f"and {self.memory_available / 1e6:.0f} MB are free"
        if self.measured is None and self.memory > self.memory_available:
            made_of = " + ".join(f"{name} {value / 1e6:.0f}" for name, value in self.parts.items())
            return f"it is predicted to take {self.memory / 1e6:.0f} MB ({made_of}), {free}"
        if self.measured is not None and self.measured + self.unseen > self.memory_available:
            more = f", and {self.unseen / 1e6:.0f} MB more are predicted for a prompt that fills its context"
            return f"it takes {self.measured / 1e6:.0f} MB{more if self.unseen else ''}, {free}"
        if self.storage > self.storage_available:
            return f"it needs {self.storage / 1e6:.0f} MB of storage, and there are {self.storage_available / 1e6:.0f}"
        return None


def of_encoder(file_bytes: int, recipe: Recipe, device: Device) -> Fit:
    """An ONNX file of an encoder. When it is loaded, weights in 16 bits become 32, and those stored in 4 become 8."""
    parts = {"runtime": ENGINE_BYTES, **in_memory(file_bytes * recipe.bits / recipe.file_bits, recipe)}
    return _on(device, parts, file_bytes + RUNTIME_FILES_BYTES)


def of_tables(file_bytes: int, device: Device) -> Fit:
    """The tables of a static student, which numpy reads as they are."""
    parts = {"runtime": NUMPY_BYTES, "tables": float(file_bytes)}
    return _on(device, parts, file_bytes + NUMPY_FILES_BYTES)


def of_decoder(file_bytes: int, config: Mapping[str, Any], context: int, device: Device) -> Fit:
    """A GGUF file of a decoder.

    Args:
        config: of its checkpoint.
        context: tokens that the runtime keeps at most.
    """
    parts = {
        "runtime": LLAMA_BYTES,
        "weights": float(file_bytes),
        _kept_name(context): kept_bytes(config) * context,
        "a batch": float(BUFFERS * 4 * min(BATCH, context) * _widest(config)),
    }
    return _on(device, parts, file_bytes + LLAMA_FILES_BYTES)


def of_genai(file_bytes: int, bits: int, config: Mapping[str, Any], context: int, device: Device) -> Fit:
    """A folder of a decoder for onnxruntime-genai.

    Args:
        bits: of the recipe. Products of few bits are packed once more; of floats, a table that is the head too is.
        config: of its checkpoint.
        context: tokens that the runtime keeps at most.
    """
    table = 4.0 * config["vocab_size"] * config["hidden_size"] if config.get("tie_word_embeddings") else 0.0
    # A prompt is read whole: a score for each pair of its tokens and head, and the rows of a layer.
    scores = 4.0 * config["num_attention_heads"] * context * context
    prompt = scores + GENAI_BUFFERS * 4.0 * context * _widest(config)
    parts = {
        "runtime": GENAI_BYTES,
        "weights": float(file_bytes),
        "packed copy": table if bits == 32 else file_bytes / 2,
        _kept_name(context): 4.0 * _kept(config) * context,
        "a prompt that fills them": prompt,
    }
    return replace(_on(device, parts, file_bytes + GENAI_FILES_BYTES), unseen=prompt)


def kept_bytes(config: Mapping[str, Any]) -> float:
    """Keys and values of a token, in all layers, as llama.cpp keeps them."""
    return 2.0 * _kept(config)


def _kept(config: Mapping[str, Any]) -> int:
    """Numbers of keys and values of a token, in all layers."""
    heads: int = config["num_attention_heads"]
    head: int = config.get("head_dim") or config["hidden_size"] // heads
    return 2 * int(config["num_hidden_layers"]) * int(config.get("num_key_value_heads") or heads) * head


def _kept_name(context: int) -> str:
    return f"keys and values of {context} tokens"


def _widest(config: Mapping[str, Any]) -> int:
    return max(int(config["hidden_size"]), int(config["intermediate_size"]))


def _on(device: Device, parts: Mapping[str, float], storage: float) -> Fit:
    return Fit(
        parts=parts,
        storage=storage,
        memory_available=device.ram_usable_bytes,
        storage_available=device.storage_bytes,
    )
