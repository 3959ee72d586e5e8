"""A static student as `distill` saves it: tables, a head, a tokenizer, and a manifest that names the labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from edgedistill.errors import InputError, IntegrityError
from edgedistill.store import digest, file_sha256

MODEL = "model.safetensors"
TOKENIZER = "tokenizer.json"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """A static student, read and checked.

    Attributes:
        weights: as `edgedistill.distill.static.save` names them.
        max_tokens: of each text.
    """

    path: Path
    sha256: str
    weights: Mapping[str, NDArray[Any]]
    labels: tuple[str, ...]
    max_tokens: int

    @property
    def pairs(self) -> bool:
        """Whether rows are pairs of texts."""
        return int(self.weights["head"].shape[1]) > 2 * len(self.weights["bias"])

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(values.size for values in self.weights.values())


def read(folder: Path) -> Tables:
    """The student in a folder.

    Raises:
        InputError: a file is missing or cannot be read, or they do not fit together.
        IntegrityError: it has weights that are not finite.
    """
    for name in (MODEL, TOKENIZER):
        if not (folder / name).is_file():
            raise InputError(f"static student {folder} has no {name}", hint="give the folder that distill wrote")
    try:
        told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["model"]
        labels, max_tokens = tuple(map(str, told["labels"])), int(told["max_tokens"])
        weights = load_file(folder / MODEL)
        pieces = Tokenizer.from_file(str(folder / TOKENIZER)).get_vocab(with_added_tokens=True)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"static student {folder} cannot be read: {error}", hint="distill it again") from error
    except Exception as error:  # tokenizers raises nothing more precise
        raise InputError(f"{folder} has a {TOKENIZER} that cannot be read: {error}", hint="distill it again") from error
    if problem := _problem(weights, labels, largest=max(pieces.values(), default=-1)):
        raise InputError(f"static student {folder} {problem}", hint="distill it again")
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise IntegrityError(f"{folder}: the weight {name} has values that are not finite", hint="train it again")
    sha256 = digest({name: file_sha256(folder / name) for name in (MODEL, TOKENIZER, MANIFEST)})
    return Tables(path=folder, sha256=sha256, weights=weights, labels=labels, max_tokens=max_tokens)


def _problem(weights: Mapping[str, NDArray[Any]], labels: tuple[str, ...], *, largest: int) -> str | None:
    """What does not fit together, or None.

    Args:
        largest: number of the tokenizer's last piece.
    """
    features = weights["bias"].size if "bias" in weights else 0
    rows = len(weights["tables"]) if "tables" in weights else 0
    width = features * (8 if "head" in weights and weights["head"].shape[-1:] > (2 * features,) else 2)
    expected = {
        "tables": ("int8", (rows, 3, features)),
        "table_scales": ("float32", (rows, 3)),
        "bias": ("float32", (features,)),
        "head": ("int8", (len(labels), width)),
        "head_scales": ("float32", (len(labels),)),
        "head_bias": ("float32", (len(labels),)),
    }
    for name, (kind, shape) in expected.items():
        if name not in weights:
            return f"has no weight {name}"
        if (weights[name].dtype.name, weights[name].shape) != (kind, shape):
            found = f"{weights[name].dtype.name} {list(weights[name].shape)}"
            return f"has a weight {name} that is {found}, and with {len(labels)} labels {kind} {list(shape)} is needed"
    if largest >= rows - 1:
        return f"has a tokenizer with the piece number {largest}, and tables of {rows - 1} pieces"
    return None
