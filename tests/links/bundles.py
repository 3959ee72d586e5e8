"""A real bundle that any Python with numpy and tokenizers runs: a static student of random numbers."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from edgedistill.bundle import manifest
from edgedistill.bundle.assemble import RUNTIME

LABELS = ["door", "light", "music"]


def static(folder: Path, tokenizer: Path) -> Path:
    """Makes the bundle in a folder and returns it."""
    features, chance = 4, np.random.default_rng(3)
    pieces = Tokenizer.from_file(str(tokenizer)).get_vocab_size() + 1
    (folder / "model").mkdir(parents=True)
    weights = {
        "tables": chance.integers(-127, 128, (pieces, 3, features), dtype=np.int8),
        "table_scales": chance.uniform(0.001, 0.01, (pieces, 3)).astype(np.float32),
        "bias": chance.normal(size=features).astype(np.float32),
        "head": chance.integers(-127, 128, (3, 2 * features), dtype=np.int8),
        "head_scales": chance.uniform(0.001, 0.01, 3).astype(np.float32),
        "head_bias": chance.normal(size=3).astype(np.float32),
    }
    weights["tables"][-1] = 0
    save_file(weights, folder / "model" / "model.safetensors")
    shutil.copy(tokenizer, folder / "tokenizer.json")
    shutil.copytree(RUNTIME, folder / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "tokenizers")}
    (folder / "requirements.txt").write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
    content = {
        "name": "tiny",
        "target": "cpu",
        "task": "classification",
        "engine": {"name": "numpy", "version": versions["numpy"], "threads": 1},
        "model": {"file": "model/model.safetensors", "labels": LABELS, "max_tokens": 16},
    }
    manifest.seal(folder, content)
    return folder
