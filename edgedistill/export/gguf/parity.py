"""Whether a GGUF file answers in llama.cpp like the checkpoint that it was written from answers in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from gguf import PoolingType
from numpy.typing import NDArray

from edgedistill.export.checkpoint import classifies, load, read_config
from edgedistill.export.decoder.parity import Parity, Reference, ids_of
from edgedistill.export.decoder.parity import compare as held_against
from edgedistill.export.gguf import engine, header
from edgedistill.export.parity import compare as compare_logits
from edgedistill.teachers.local import TOKENIZER


def compare(expected: Reference, file: Path, *, threads: int = 1) -> Parity:
    """Asks a file in llama.cpp for the same.

    Raises:
        IntegrityError: not a sound GGUF file.
        EngineCrashed: llama.cpp could not load or run it.
        MissingExtra: llama-cpp-python is not installed.
    """
    request = {
        "do": "answer",
        "file": str(file.resolve()),
        "texts": expected.prompts,
        "special": expected.special,
        "prompts": expected.ids,
        "forced": expected.answers,
        "threads": threads,
    }
    with engine.ask(request, bytes_read=header.read(file).file_bytes) as folder:
        pieces = engine.reply(folder)["pieces"]
        logits = (np.load(folder / f"logits-{number}.npy") for number in range(len(expected.ids)))
        return held_against(expected, pieces, logits)


def compare_encoder(checkpoint: Path, file: Path, texts: Sequence[str], *, threads: int = 1) -> dict[str, float]:
    """Class logits, or the mean of the last layer's positions, of an encoder's file against its checkpoint's.

    Returns:
        What `edgedistill.export.parity.compare` returns, and same_pieces.

    Raises:
        InputError: no texts, or an empty one.
        IntegrityError: not a sound GGUF file.
        EngineCrashed: llama.cpp could not load or run it.
        MissingExtra: llama-cpp-python is not installed.
    """
    ids = ids_of(checkpoint / TOKENIZER, texts)
    config = read_config(checkpoint)
    model = load(checkpoint, config)
    with torch.inference_mode():
        found = [model(input_ids=torch.tensor([row])) for row in ids]
    head = classifies(config)
    expected = torch.stack([one.logits[0] if head else one.last_hidden_state[0].mean(dim=0) for one in found]).numpy()
    request = {
        "do": "pool",
        "file": str(file.resolve()),
        "texts": list(texts),
        "rows": ids,
        "width": expected.shape[1],
        "pooling": int(PoolingType.RANK if head else PoolingType.MEAN),
        "threads": threads,
    }
    with engine.ask(request, bytes_read=header.read(file).file_bytes) as folder:
        vectors: NDArray[np.float32] = np.load(folder / "vectors.npy")
        pieces = engine.reply(folder)["pieces"]
    same = sum(a == b for a, b in zip(ids, pieces, strict=True)) / len(ids)
    return {**compare_logits(vectors, expected), "same_pieces": same}
