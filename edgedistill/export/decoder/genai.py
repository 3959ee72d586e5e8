"""A decoder's files for onnxruntime-genai: a folder with a graph, its weights and how it is run."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import IntegrityError
from edgedistill.export import genai
from edgedistill.export.decoder.ladder import Original, Write, installed
from edgedistill.export.decoder.parity import Parity, Reference, ids_of
from edgedistill.export.decoder.parity import compare as held_against
from edgedistill.export.lint import lint as look_over
from edgedistill.teachers.local import TOKENIZER
from edgedistill.types import Progress, Recipe

MODEL = genai.MODEL
PACKAGE = "onnxruntime-genai"
refuse = genai.refuse


def versions() -> dict[str, str]:
    """Of the packages that decide over a file. Raises MissingExtra where the engine is not installed."""
    return {PACKAGE: installed(PACKAGE, extra="genai"), "onnxruntime": version("onnxruntime")}


def writer(original: Original, _: Path) -> Write:
    """What builds each recipe. Raises IntegrityError where weights are not finite."""
    genai.refuse_not_finite(original.checkpoint)

    def write(recipe: Recipe, folder: Path) -> None:
        shutil.rmtree(folder / MODEL, ignore_errors=True)
        original.progress(0, 1, f"building {recipe.name}")
        genai.to_genai(original.checkpoint, folder, recipe.scheme)

    return write


def compare(expected: Reference, file: Path, *, threads: int, progress: Progress) -> Parity:
    """Asks a file for what the checkpoint has said, token by token, as the bundle's runtime writes."""
    model = importlib.import_module("edgedistill.runtime.engine_genai").Model(file, threads=threads)
    pieces = ids_of(file.parent / TOKENIZER, expected.prompts, special=expected.special)

    def logits() -> Iterator[NDArray[np.float32]]:
        for done, (prompt, answer) in enumerate(zip(expected.ids, expected.answers, strict=True), 1):
            yield model.scores(prompt, answer)
            progress(done, len(expected.ids))

    return held_against(expected, pieces, logits())


def lint(_: Original, file: Path, recipe: Recipe) -> Sequence[Mapping[str, Any]]:
    """What throws size and speed away. Raises IntegrityError where the graph has a fault that must not ship."""
    findings = look_over(file / genai.GRAPH, recipe=recipe)
    if stop := next((finding for finding in findings if finding.severity == "stop"), None):
        raise IntegrityError(f"the exported file's {stop.where} {stop.cost}")
    return [asdict(finding) for finding in findings]
