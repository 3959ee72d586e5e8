from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgedistill import catalog
from edgedistill.errors import EngineCrashed, InputError, IntegrityError
from edgedistill.export.decoder.parity import reference
from edgedistill.export.gguf.parity import compare, compare_encoder
from edgedistill.export.gguf.quantize import quantize
from edgedistill.export.gguf.writer import to_gguf
from tests.export.gguf.checkpoints import PROMPTS


def test_a_file_of_fewer_bits_is_further_away(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = checkpoint("qwen2")
    to_gguf(folder, tmp_path / "full.gguf", precision="f32")
    kls = []
    for scheme in ("q8_0", "q4_0"):
        quantize(tmp_path / "full.gguf", tmp_path / f"{scheme}.gguf", catalog.recipe(f"gguf-{scheme}"))
        found = compare(reference(folder, PROMPTS, new_tokens=16), tmp_path / f"{scheme}.gguf")
        assert found.same_pieces == 1
        assert found.kl_error > 0
        kls.append(found.kl)
    assert 0 < kls[0] < kls[1]


def test_another_checkpoints_file_is_seen_at_once(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    to_gguf(checkpoint("gemma2"), tmp_path / "other.gguf", precision="f32")
    found = compare(reference(checkpoint("gemma"), PROMPTS, new_tokens=8), tmp_path / "other.gguf")
    assert found.same_answers < 0.5  # two answers of one token each may be the same by chance
    assert found.cosine < 0.9
    assert found.top1_agreement < 0.5


def test_swapped_label_ids_are_seen_at_once(encoder: Callable[[bool], Path], tmp_path: Path) -> None:
    right = encoder(True)
    shutil.copytree(right, tmp_path / "swapped")
    weights = load_file(right / "model.safetensors")
    head = {name: np.roll(weights[name], 1, axis=0) for name in ("classifier.weight", "classifier.bias")}
    save_file(weights | head, tmp_path / "swapped" / "model.safetensors", metadata={"format": "pt"})
    to_gguf(tmp_path / "swapped", tmp_path / "swapped.gguf", precision="f32")
    found = compare_encoder(right, tmp_path / "swapped.gguf", PROMPTS)
    assert found["same_pieces"] == 1
    assert found["max_error"] > 0.1
    assert found["top1_agreement"] < 0.5


def test_no_prompts_and_broken_files_are_errors(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = checkpoint("smollm2")
    with pytest.raises(InputError, match="needs texts"):
        compare(reference(folder, []), tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(IntegrityError):
        compare(reference(folder, PROMPTS[:1], new_tokens=1), tmp_path / "x.gguf")
    # Sound by its sizes, and of a family that there is not.
    to_gguf(folder, tmp_path / "y.gguf")
    data = (tmp_path / "y.gguf").read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0llamb", 1)
    (tmp_path / "y.gguf").write_bytes(data)
    with pytest.raises(EngineCrashed):
        compare(reference(folder, PROMPTS[:1], new_tokens=1), tmp_path / "y.gguf")
