"""A decoder's files for llama.cpp: one GGUF file, quantized with the importance of each column."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgedistill.errors import IntegrityError
from edgedistill.export.checkpoint import read_config
from edgedistill.export.decoder.ladder import Original, Write, installed
from edgedistill.export.decoder.parity import Parity, Reference
from edgedistill.export.gguf import parity
from edgedistill.export.gguf.families import family
from edgedistill.export.gguf.lint import lint as look_over
from edgedistill.export.gguf.quantize import quantize
from edgedistill.export.gguf.writer import to_gguf
from edgedistill.teachers.causal import tokenizer_of
from edgedistill.types import Progress, Recipe

MODEL = "model.gguf"
PACKAGE = "llama-cpp-python"
EXTRA = "gguf"
TEMPLATE = "tokenizer.chat_template"
UNTOUCHED = "f16"
"""The scheme that the checkpoint is written in, before any quantization."""


def refuse(checkpoint: Path) -> None:
    """Raises StageError where llama.cpp does not compute the family, or something that the checkpoint asks for."""
    family(read_config(checkpoint))


def versions() -> dict[str, str]:
    """Of the packages that decide over a file. Raises MissingExtra where one is not installed."""
    return {package: installed(package, extra=EXTRA) for package in ("gguf", PACKAGE)}


def writer(original: Original, work: Path) -> Write:
    """Writes the checkpoint in 16 bits, and gives what makes each recipe's file of that.

    Raises:
        StageError: llama.cpp does not compute the family.
        IntegrityError: weights that are not finite.
    """
    whole = work / f"{original.checkpoint.resolve().name}.gguf"
    to_gguf(original.checkpoint, whole, precision="f16", progress=original.progress)

    def write(recipe: Recipe, folder: Path) -> None:
        if recipe.scheme == UNTOUCHED:
            shutil.copyfile(whole, folder / MODEL)
        else:
            quantize(whole, folder / MODEL, recipe, importance=original.importance, threads=os.cpu_count() or 1)

    return write


def compare(expected: Reference, file: Path, *, threads: int, progress: Progress) -> Parity:
    """Asks a file in llama.cpp for what the checkpoint has said. Raises what `gguf.parity.compare` raises."""
    found = parity.compare(expected, file, threads=threads)
    progress(len(expected.ids), len(expected.ids))
    return found


def lint(original: Original, file: Path, _: Recipe) -> Sequence[Mapping[str, Any]]:
    """What throws size and speed away. Raises IntegrityError where the file has a fault that must not ship."""
    findings = look_over(file)
    untemplated = tokenizer_of(original.checkpoint).chat_template is None  # which is no fault of the file
    errors = (one for one in findings if one.severity == "error" and not (untemplated and one.where == TEMPLATE))
    if wrong := next(errors, None):
        raise IntegrityError(f"the exported file's {wrong.where}: {wrong.what}; {wrong.cost}")
    return [asdict(finding) for finding in findings]
