"""The file for apps in a bundle answers like the bundle, or is not made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from edgedistill.bundle import app, manifest
from edgedistill.errors import StageError
from edgedistill.export import app as graph
from edgedistill.export.onnx import to_onnx
from edgedistill.store import Store
from edgedistill.teachers import local
from tests.conftest import LABELS

ROWS = ["turn the lamp on", "louder", "open the door"] * 400


@pytest.fixture
def bundle(tiny_teacher: Path, tmp_path: Path) -> Path:
    """A classifier of random answers, without the runtime."""
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "bundle"
    checkpoint.mkdir()
    (folder / "model").mkdir(parents=True)
    model: Any = local.load(tiny_teacher, list(LABELS))
    with torch.no_grad():
        model.classifier.weight.mul_(60)  # sure of what it says, so that other words have another probability
    local.save(model, checkpoint)
    to_onnx(checkpoint, folder / "model" / "model.onnx")
    shutil.copy(tiny_teacher / "tokenizer.json", folder)
    told = {"file": "model/model.onnx", "labels": list(LABELS), "max_tokens": 16, "pad_id": 0}
    manifest.seal(folder, {"engine": {"name": "onnxruntime", "threads": 1}, "model": told})
    return folder


def test_a_thousand_rows_are_answered_alike_and_a_text_that_is_not_is_named(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = graph.characters(Tokenizer.from_file(str(bundle / "tokenizer.json")))
    monkeypatch.setattr(graph, "characters", lambda _: own)
    with Store(tmp_path / "store") as store:
        found, output = app.make(bundle, ROWS, store=store)
        assert (found.rows, found.traps) == (1000, len(app.TRAPS))
        assert found.max_difference < 1e-5
        assert found.size_bytes == (output.path / app.APP).stat().st_size
        assert app.make(bundle, ROWS, store=store)[1].cached
        # Another program's idea of an accent: the letter is lost with it. No row has one.
        monkeypatch.setattr(graph, "characters", lambda _: own | {"é": ""})
        with pytest.raises(StageError, match=r"does not answer like .* the 4th of 11 texts, 'café', is"):
            app.make(bundle, ROWS[:3], store=store)
