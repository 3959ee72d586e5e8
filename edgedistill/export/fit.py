"""Whether an exported file fits a board: predicted from its size and shape, and checked by loading it here.

A file is in memory as it was read, and what the engine needs beside it depends on what it is. ONNX Runtime packs the
weights of matrix products once more for its kernels. llama.cpp maps the file and computes from it; it keeps, for each
token of the context, keys and values of every layer in 16 bits, and numbers for one batch of 512 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgedistill.plan import COPIES_IN_MEMORY, ENGINE_BYTES, RUNTIME_FILES_BYTES
from edgedistill.types import Device

LLAMA_BYTES = 75e6
"""Resident memory of Python with llama-cpp-python before a model is loaded, on 64-bit Linux."""
LLAMA_FILES_BYTES = 150e6
"""On disk: the runtime's requirements, unpacked."""
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
    """

    parts: Mapping[str, float]
    storage: float
    memory_available: float
    storage_available: float
    measured: float | None = None

    @property
    def memory(self) -> float:
        """Predicted, all parts together."""
        return sum(self.parts.values())

    @property
    def problem(self) -> str | None:
        """What does not fit, with the arithmetic; where it was measured, that counts and not the prediction."""
        needed, how = (self.memory, "is predicted to take") if self.measured is None else (self.measured, "takes")
        if needed > self.memory_available:
            made_of = " + ".join(f"{name} {value / 1e6:.0f}" for name, value in self.parts.items())
            return f"it {how} {needed / 1e6:.0f} MB ({made_of}), and {self.memory_available / 1e6:.0f} MB are free"
        if self.storage > self.storage_available:
            return f"it needs {self.storage / 1e6:.0f} MB of storage, and there are {self.storage_available / 1e6:.0f}"
        return None


def of_encoder(file_bytes: int, bits: int, device: Device) -> Fit:
    """An ONNX file of an encoder.

    Args:
        bits: of the recipe; weights in 16 bits are widened to 32 when the file is loaded.
    """
    weights = file_bytes * (2 if bits == 16 else 1)
    parts = {"runtime": ENGINE_BYTES, "weights": weights, "packed copy": (COPIES_IN_MEMORY - 1) * weights}
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
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    kept = 2 * config["num_hidden_layers"] * (config.get("num_key_value_heads") or heads) * head * 2
    widest = max(config["hidden_size"], config["intermediate_size"])
    parts = {
        "runtime": LLAMA_BYTES,
        "weights": float(file_bytes),
        f"keys and values of {context} tokens": float(kept * context),
        "a batch": float(BUFFERS * 4 * min(BATCH, context) * widest),
    }
    return _on(device, parts, file_bytes + LLAMA_FILES_BYTES)


def _on(device: Device, parts: Mapping[str, float], storage: float) -> Fit:
    return Fit(
        parts=parts,
        storage=storage,
        memory_available=device.ram_usable_bytes,
        storage_available=device.storage_bytes,
    )
