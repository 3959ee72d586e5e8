"""A decoder built for onnxruntime-genai writes the words of its checkpoint, and what cannot be built is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgedistill.errors import InputError, IntegrityError, MissingExtra, StageError
from edgedistill.export.genai import MODEL, to_genai
from edgedistill.runtime.engine_genai import Chat
from tests.distill.chats import chat_tokenizer, turns
from tests.distill.decoders import decoder

CONTEXT = 200
ENDS = [3, 1]
TALK = turns("turn the light on", "ok", "lock the door, 水 é")
WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
"""Heads of 16, and widths that pairs of blocks of 32 divide."""


def student(folder: Path, namesake: str = "SmolLM2-135M-Instruct", **changes: Any) -> tuple[Any, Any]:
    """A random checkpoint on disk, and what is in it."""
    tokenizer = chat_tokenizer()
    settings = {"tie_word_embeddings": False, "eos_token_id": ENDS, "max_position_embeddings": 256, **WIDE, **changes}
    model = decoder(namesake, vocab_size=len(tokenizer), **settings)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def chat(folder: Path) -> Chat:
    engine = {"name": "onnxruntime-genai", "threads": 1}
    manifest = {"engine": engine, "model": {"file": MODEL, "context": CONTEXT}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Chat(folder)


def of_transformers(model: Any, prompt: list[int], most: int) -> list[int]:
    with torch.inference_mode():
        mask = torch.ones(1, len(prompt), dtype=torch.long)
        out = model.generate(torch.tensor([prompt]), attention_mask=mask, do_sample=False, max_new_tokens=most)
    return [token for token in out[0, len(prompt) :].tolist() if token not in ENDS]


@pytest.mark.parametrize(
    "namesake",
    [
        "SmolLM2-135M-Instruct",
        "Llama-3.1-8B-Instruct",
        "Mistral-7B-Instruct",
        "Qwen2.5-0.5B-Instruct",
        "Qwen3-0.6B",
        "Phi-3-mini-4k-instruct",
        "gemma-2b-it",
    ],
)
def test_the_tokens_are_those_of_the_checkpoint(tmp_path: Path, namesake: str) -> None:
    own = {"Phi": {"original_max_position_embeddings": 256}, "Qwen2": {"use_sliding_window": False}}
    model, tokenizer = student(tmp_path / "student", namesake, **own.get(namesake.split("-")[0].split(".")[0], {}))
    to_genai(tmp_path / "student", tmp_path / "made", "fp32")
    found = chat(tmp_path / "made")
    prompt = found.prompt(TALK)
    assert prompt == tokenizer.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)
    tokens = list(found.tokens(prompt, max_tokens=20))
    assert tokens == of_transformers(model, prompt, 20)
    assert "".join(found.stream(TALK, max_tokens=20)) == tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("form", "bits"), [("int4", {4, 8}), ("int4-mixed", {4, 8}), ("int4-nearest", {4, 8}), ("fp32", set())]
)
def test_weights_have_the_bits_of_the_form_and_products_are_computed_in_8(
    tmp_path: Path, form: str, bits: set[int]
) -> None:
    student(tmp_path / "student")
    to_genai(tmp_path / "student", tmp_path / "made", form)
    graph = onnx.load(tmp_path / "made" / MODEL / "model.onnx", load_external_data=False).graph
    told = [
        {attribute.name: attribute.i for attribute in node.attribute}
        for node in graph.node
        if node.op_type == "MatMulNBits"
    ]
    assert {node["bits"] for node in told} == bits
    assert {node["block_size"] for node in told} <= {32}
    assert {node["accuracy_level"] for node in told} <= {4}
    assert all(node.op_type != "MatMul" for node in graph.node) or form == "fp32"
    assert list(chat(tmp_path / "made").stream(TALK, max_tokens=5))


def test_an_answer_ends_at_the_limit_and_a_prompt_without_room_is_refused(tmp_path: Path) -> None:
    student(tmp_path / "student")
    to_genai(tmp_path / "student", tmp_path / "made", "fp32")
    found = chat(tmp_path / "made")
    prompt = found.prompt(TALK)
    long = list(found.tokens(prompt, max_tokens=9))
    assert list(found.tokens(prompt, max_tokens=4)) == long[:4]
    full = (prompt * CONTEXT)[: CONTEXT - 2]
    assert len(list(found.tokens(full, max_tokens=10))) <= 2
    for wrong in ([], full + prompt[:2]):
        with pytest.raises(ValueError, match="tokens"):
            next(found.tokens(wrong, max_tokens=10))
    config = tmp_path / "made" / MODEL / "genai_config.json"
    told = json.loads(config.read_text())
    told["model"]["eos_token_id"] = long[0]  # every answer ends before it begins
    config.write_text(json.dumps(told))
    ended = chat(tmp_path / "made")
    assert list(ended.tokens(prompt, max_tokens=9)) == []
    assert len(list(ended.work(prompt, 9))) == 9  # what is timed is as long for every answer
    assert not ended.holds(CONTEXT - 8, 9)
    with pytest.raises(ValueError, match="tokens"):
        ended.work(full, 9)


def test_what_cannot_be_built_is_refused_before_it_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "student"
    student(folder)
    with pytest.raises(StageError, match="no form"):
        to_genai(folder, tmp_path / "made", "int3")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(StageError, match="'bert'"):
        to_genai(folder, tmp_path / "made")
    for changes, reason in (
        ({"head_dim": 8}, "heads of 8"),
        ({"intermediate_size": 96}, "width of 96"),
        ({"use_sliding_window": True, "max_window_layers": 2}, "window in some layers"),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(StageError, match=reason):
            to_genai(folder, tmp_path / "made")
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {}}))
    with pytest.raises(InputError, match="own code"):
        to_genai(folder, tmp_path / "made")
    (folder / "config.json").write_text(json.dumps(config))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "onnxruntime_genai.models.builder", None)
        with pytest.raises(MissingExtra):
            to_genai(folder, tmp_path / "made")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"model\.norm\.weight"):
        to_genai(folder, tmp_path / "made")
    assert not (tmp_path / "made").exists()
