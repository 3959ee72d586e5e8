"""A decoder's ladder: the smallest recipe that holds, and the one after it where a student was made fragile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from edgedistill import catalog
from edgedistill.export.decoder import llama
from edgedistill.export.decoder.ladder import Judged, Original, export
from edgedistill.store import Store, file_sha256
from edgedistill.types import Exported
from tests.export.gguf.checkpoints import PROMPTS

RECIPES = [catalog.recipe("gguf-q8_0"), catalog.recipe("gguf-f16")]
TOLERANCE = 0.05
"""8 bits cost the random model about 0.01, and with outliers about 0.3."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def exported(checkpoint: Path, store: Store) -> Exported:
    original = Original(checkpoint, file_sha256(checkpoint / "model.safetensors"), Judged(prompts=tuple(PROMPTS)))
    made, _ = export(llama, original, RECIPES, tolerance=TOLERANCE, store=store)
    return made


def test_a_decoder_with_outlier_weights_ends_at_a_recipe_that_holds_and_says_which(
    checkpoint: Callable[[str], Path], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # llama.cpp's threads wait by turning round, and others work here
    sound = exported(checkpoint("smollm2"), store)
    assert [(step["recipe"], step["passed"]) for step in sound.ladder] == [("gguf-q8_0", True)]
    shutil.copytree(checkpoint("smollm2"), tmp_path / "fragile")
    weights = load_file(tmp_path / "fragile" / "model.safetensors")
    for layer in range(2):
        # Two inputs that are each other's negative, with one huge weight each in every block of 32: nothing changes,
        # but with one scale a block the small weights beside them round to nothing.
        gate, up, down = (weights[f"model.layers.{layer}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
        for first in range(0, down.shape[1], 32):
            gate[first + 1], up[first + 1] = gate[first], -up[first]
            down[:, first] = down[:, first + 1] = 60.0
    save_file(weights, tmp_path / "fragile" / "model.safetensors", metadata={"format": "pt"})
    made = exported(tmp_path / "fragile", store)
    assert [(step["recipe"], step["passed"]) for step in made.ladder] == [("gguf-q8_0", False), ("gguf-f16", True)]
    assert made.recipe == "gguf-f16"
    assert made.ladder[0]["drop"] > TOLERANCE >= made.ladder[1]["drop"]
    assert "may be lost" in made.ladder[0]["reason"]
