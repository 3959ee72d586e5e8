from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from edgedistill.errors import InputError, IntegrityError, StageError
from edgedistill.export.decoder.parity import reference
from edgedistill.export.gguf import header
from edgedistill.export.gguf.parity import compare, compare_encoder
from edgedistill.export.gguf.writer import Precision, to_gguf
from tests.export.gguf.checkpoints import FAMILIES, PROMPTS

Make = Callable[[str], Path]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_in_llama_cpp_as_in_transformers(family: str, checkpoint: Make, tmp_path: Path) -> None:
    folder = checkpoint(family)
    to_gguf(folder, tmp_path / "model.gguf", precision="f32")
    found = compare(reference(folder, PROMPTS, new_tokens=24), tmp_path / "model.gguf")
    assert found.same_pieces == 1
    assert found.kl < 1e-4
    assert found.cosine > 0.9999
    # About one position in 300 is a tie to within the difference of the engines; the divergence above is the bound.
    assert found.top1_agreement > 0.95


@pytest.mark.parametrize("classes", [True, False], ids=["classes", "vectors"])
def test_an_encoder_answers_in_llama_cpp_as_in_transformers(
    classes: bool, encoder: Callable[[bool], Path], tmp_path: Path
) -> None:
    folder = encoder(classes)
    to_gguf(folder, tmp_path / "model.gguf", precision="f32")
    found = compare_encoder(folder, tmp_path / "model.gguf", PROMPTS)
    assert found["same_pieces"] == 1
    # Not top-1: two classes of a random model can be closer than the engines are (2e-4; 5e-4 is the most seen).
    assert found["max_error"] < 2e-3
    assert found["cosine"] > 0.9999
    labels = header.read(tmp_path / "model.gguf").metadata.get("bert.classifier.output_labels")
    assert labels == ([f"label {number}" for number in range(5)] if classes else None)


@pytest.mark.parametrize(("precision", "most"), [("f16", 1e-3), ("bf16", 1e-2)])
def test_half_precision_is_close_and_half_as_large(
    precision: Precision, most: float, checkpoint: Make, tmp_path: Path
) -> None:
    folder = checkpoint("smollm2")
    to_gguf(folder, tmp_path / "half.gguf", precision=precision)
    to_gguf(folder, tmp_path / "full.gguf", precision="f32")
    half, full = (header.read(tmp_path / f"{name}.gguf") for name in ("half", "full"))
    assert sum(one.bytes for one in half.tensors) < 0.52 * sum(one.bytes for one in full.tensors)
    assert compare(reference(folder, PROMPTS[:1], new_tokens=8), tmp_path / "half.gguf").kl < most


def test_tensors_and_keys_are_named_as_llama_cpps_converter_names_them(checkpoint: Make, tmp_path: Path) -> None:
    to_gguf(checkpoint("smollm2"), tmp_path / "model.gguf", precision="f16")
    found = header.read(tmp_path / "model.gguf")
    layer = {"attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"}
    layers = {f"blk.{number}.{name}.weight" for number in range(2) for name in layer}
    assert {one.name for one in found.tensors} == layers | {"token_embd.weight", "output_norm.weight"}
    assert found.metadata["general.architecture"] == "llama"
    assert found.metadata["general.file_type"] == 1
    assert found.metadata["llama.attention.head_count_kv"] == 2
    assert found.metadata["tokenizer.ggml.pre"] == "smollm"
    assert found.metadata["tokenizer.ggml.eos_token_id"] == 0
    assert found.metadata["tokenizer.ggml.add_bos_token"] is False


def test_the_gguf_packages_reader_reads_the_same_weights(checkpoint: Make, tmp_path: Path) -> None:
    folder = checkpoint("gemma")
    to_gguf(folder, tmp_path / "model.gguf", precision="f32")
    weights = load_file(folder / "model.safetensors")
    read = {one.name: one.data for one in GGUFReader(tmp_path / "model.gguf").tensors}
    assert np.array_equal(read["token_embd.weight"], weights["model.embed_tokens.weight"].numpy())
    assert np.array_equal(read["output_norm.weight"], weights["model.norm.weight"].numpy() + 1)


def changed(folder: Path, to: Path, name: str, value: torch.Tensor) -> Path:
    """A copy of a checkpoint with one other weight."""
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    save_file(load_file(folder / "model.safetensors") | {name: value}, to / "model.safetensors", {"format": "pt"})
    return to


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_stops_it_with_the_weights_name(
    value: float, checkpoint: Make, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    name = "model.layers.1.mlp.up_proj.weight"
    weight = load_file(checkpoint("smollm2") / "model.safetensors")[name].clone()
    weight[3, 5] = value
    broken = changed(checkpoint("smollm2"), tmp_path / "broken", name, weight)
    with pytest.raises(IntegrityError, match=r"layers\.1\.mlp\.up_proj"):
        to_gguf(broken, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize("family", ["smollm2", "phi3", "gemma2"])
def test_a_weight_that_one_layer_lacks_is_named(family: str, checkpoint: Make, tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    short = changed(checkpoint(family), tmp_path / "short", "model.norm.weight", torch.ones(64))
    weights = load_file(short / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if k != "model.layers.1.self_attn.o_proj.weight"}, short / "model.safetensors"
    )
    with pytest.raises(StageError, match=r"no weight for blk\.1\.attn_output\.weight"):
        to_gguf(short, tmp_path / "model.gguf")


def test_a_weight_beyond_half_precision_is_refused_and_fits_bfloat16(checkpoint: Make, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    name = "model.layers.0.mlp.up_proj.weight"
    weight = load_file(checkpoint("smollm2") / "model.safetensors")[name] * 1e7
    large = changed(checkpoint("smollm2"), tmp_path / "large", name, weight)
    with pytest.raises(StageError, match="too large for float16"):
        to_gguf(large, tmp_path / "model.gguf", precision="f16")
    to_gguf(large, tmp_path / "model.gguf", precision="bf16")


@pytest.mark.parametrize(
    ("family", "key", "value", "what"),
    [
        ("smollm2", "hidden_act", "gelu", "hidden_act"),
        ("smollm2", "model_type", "gpt2", "cannot be written as GGUF"),
        ("qwen3", "rope_parameters", {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, "dynamic"),
        ("gemma2", "query_pre_attn_scalar", 100, "query_pre_attn_scalar"),
        ("gemma3", "layer_types", ["full_attention"] * 2 + ["sliding_attention"] * 4, "windows that slide"),
        ("gemma2", "vocab_size", 999, "config.json says 999"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(
    family: str, key: str, value: object, what: str, checkpoint: Make, tmp_path: Path
) -> None:
    for file in checkpoint(family).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(StageError, match=what):
        to_gguf(tmp_path, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_folder_without_a_checkpoint_is_an_input_error(checkpoint: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a checkpoint"):
        to_gguf(tmp_path, tmp_path / "model.gguf")
    for file in checkpoint("qwen2").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        to_gguf(tmp_path, tmp_path / "model.gguf")
