"""The ladder of onnxruntime-genai: smallest first, held against the checkpoint, linted."""

from __future__ import annotations

import importlib.metadata
import json
import math
from pathlib import Path
from typing import Any

import onnx
import pytest
from safetensors.torch import load_file, save_file

from edgedistill import catalog
from edgedistill.errors import IntegrityError, MissingExtra, StageError
from edgedistill.export import genai
from edgedistill.export.decoder import genai as engine
from edgedistill.export.decoder.ladder import Judged, Original, export
from edgedistill.export.decoder.parity import reference
from edgedistill.export.lint import Finding, lint
from edgedistill.store import Store
from edgedistill.types import silent
from tests.distill.chats import CORPUS, chat_tokenizer
from tests.distill.decoders import decoder

PROMPTS = tuple(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in CORPUS)
INT4 = catalog.recipe("genai-int4")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, tied=False)
    return folder


def save_checkpoint(folder: Path, *, tied: bool) -> None:
    """A random decoder of widths that k-quantization takes."""
    tokenizer = chat_tokenizer()
    tokenizer.save_pretrained(folder)
    decoder(
        "SmolLM2-135M-Instruct",
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def graph(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    genai.to_genai(checkpoint, folder, "int4")
    return folder / genai.MODEL / genai.GRAPH


def original(folder: Path) -> Original:
    return Original(folder, "0" * 64, Judged(prompts=PROMPTS))


def test_the_ladder_ends_at_the_first_recipe_that_answers_alike(checkpoint: Path, tmp_path: Path) -> None:
    recipes = [catalog.recipe(name) for name in ("genai-int4", "genai-fp32")]
    with Store(tmp_path) as store:
        exported, _ = export(engine, original(checkpoint), recipes, tolerance=0.001, store=store)
    first, last = exported.ladder
    assert (first["recipe"], first["passed"]) == ("genai-int4", False)  # random weights have no room for 4 bits
    assert first["metric"] == "likelihood kept"
    assert first["value"] == math.exp(-first["parity"]["kl"]) < 0.999
    assert first["size_bytes"] < 0.6 * last["size_bytes"]
    assert (last["recipe"], last["passed"], last["first_divergence"]) == ("genai-fp32", True, None)
    assert exported.parity["max_error"] < 1e-3
    assert exported.parity["same_pieces"] == exported.parity["same_answers"] == 1
    assert {file.name for file in exported.path.iterdir()} == {"genai_config.json", "model.onnx", "model.onnx.data"}
    assert exported.lint == ()


def test_a_table_that_stays_in_float_is_all_that_the_lint_finds(graph: Path) -> None:
    (finding,) = lint(graph, recipe=INT4)
    assert (finding.rule, finding.where) == ("unquantized", "model.embed_tokens.weight")


def test_a_product_without_an_accuracy_level_is_named(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
    node.attribute.remove(next(found for found in node.attribute if found.name == "accuracy_level"))
    onnx.save_model(model, tmp_path / genai.GRAPH)
    assert planted(engine.lint(original(graph), tmp_path, INT4)) == [("accuracy-level", node.name)]


def test_a_head_that_is_not_quantized_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precision, options = genai.FORMS["int4"]
    spoiled = {"int4": (precision, {**options, "int4_nodes_to_exclude": ["/lm_head/MatMul"]})}
    monkeypatch.setattr(genai, "FORMS", spoiled)
    genai.to_genai(checkpoint, tmp_path, "int4")
    found = engine.lint(original(checkpoint), tmp_path / genai.MODEL, INT4)
    assert planted(found) == [("unquantized", "lm_head.MatMul.weight")]


def test_a_cast_for_nothing_is_named(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    cast = onnx.helper.make_node("Cast", [node.input[0]], ["again"], "stray", to=types[node.input[0]])
    node.input[0] = "again"
    model.graph.node.insert(list(model.graph.node).index(node), cast)
    onnx.save_model(model, tmp_path / genai.GRAPH)
    assert planted(engine.lint(original(graph), tmp_path, INT4)) == [("stray-cast", "stray")]


def planted(found: Any) -> list[tuple[str, str]]:
    plain = [(one["rule"], one["where"]) for one in found if not isinstance(one, Finding)]
    return [one for one in plain if one != ("unquantized", "model.embed_tokens.weight")]


def test_what_the_engine_cannot_take_is_refused_before_the_checkpoint_is_asked(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedistill.export.decoder.ladder.reference", lambda *_, **__: pytest.fail("asked"))
    folder = tmp_path / "spoiled"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with Store(tmp_path / "store") as store:
        with pytest.raises(IntegrityError, match="not finite"):
            export(engine, original(folder), [INT4], store=store)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "gemma2"}))
        with pytest.raises(StageError, match="'gemma2'"):
            export(engine, original(folder), [INT4], store=store)
        (folder / "config.json").write_text(json.dumps(config))

        def missing(_: str) -> str:
            raise importlib.metadata.PackageNotFoundError

        monkeypatch.setattr("edgedistill.export.decoder.ladder.version", missing)
        with pytest.raises(MissingExtra, match="onnxruntime-genai is not installed"):
            engine.versions()


@pytest.mark.parametrize("tied", [False, True])
def test_a_table_that_is_the_head_too_loses_no_more_than_one_of_its_own(tied: bool, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", tied=tied)
    expected = reference(tmp_path / "checkpoint", PROMPTS[:2], special=False, new_tokens=16)
    genai.to_genai(tmp_path / "checkpoint", tmp_path / "made", "int4-mixed")
    found = engine.compare(expected, tmp_path / "made" / genai.MODEL, threads=1, progress=silent)
    assert found.cosine > 0.9


def test_scores_of_an_answer_are_what_the_engine_writes_by(checkpoint: Path, graph: Path) -> None:
    from edgedistill.runtime.engine_genai import Model

    expected = reference(checkpoint, PROMPTS[:1], special=False, new_tokens=8)
    model = Model(graph.parent, threads=1)
    written = list(model.tokens(expected.ids[0], max_tokens=6))
    scores = model.scores(expected.ids[0], written)
    assert scores.argmax(axis=1).tolist() == written
