"""An encoder–decoder in two graphs writes the words of its checkpoint, and what cannot be written is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (
    T5Config,
    T5ForConditionalGeneration,
)

from edgedistill import catalog
from edgedistill.errors import InputError, IntegrityError, StageError
from edgedistill.export.lint import lint
from edgedistill.export.parity import verdict
from edgedistill.export.seq2seq import MODEL, ladder, to_seq2seq
from edgedistill.export.seq2seq import checkpoint as reading
from edgedistill.export.seq2seq import write as writing
from edgedistill.export.seq2seq.parity import Parity, Reference, compare, reference
from edgedistill.runtime.engine_onnx import session
from edgedistill.runtime.engine_seq2seq import DECODER, ENCODER, Model, TextToText
from edgedistill.store import Store
from edgedistill.types import Recipe
from tests.export.seq2seqs import CONTEXT, KINDS, TEXTS, save


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a student of a kind and writes it by a recipe, each once."""
    folders: dict[tuple[str, str], Path] = {}

    def make(kind: str, name: str = "onnx-fp32") -> tuple[Path, Path]:
        if (kind, "") not in folders:
            folders[kind, ""] = tmp_path_factory.mktemp(kind)
            save(folders[kind, ""], kind)
        if (kind, name) not in folders:
            folders[kind, name] = tmp_path_factory.mktemp(f"{kind}-{name}")
            to_seq2seq(folders[kind, ""], folders[kind, name], catalog.recipe(name))
        return folders[kind, ""], folders[kind, name]

    return make


def engine(folder: Path, context: int = CONTEXT) -> TextToText:
    manifest = {
        "engine": {"name": "onnxruntime", "threads": 1},
        "model": {"file": MODEL, "context": context},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return TextToText(folder)


def held(checkpoint: Path, folder: Path, texts: Sequence[str], *, new_tokens: int = 32) -> Parity:
    """What comes of graphs that are held against their checkpoint."""
    return compare(reference(checkpoint, texts, new_tokens=new_tokens), folder)


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_that_of_the_checkpoint(made: Any, kind: str) -> None:
    checkpoint, folder = made(kind)
    found = held(checkpoint, folder, TEXTS, new_tokens=30)
    assert found.same_pieces == 1
    assert found.diverges_at == (None,) * len(TEXTS)
    assert found.max_error < 1e-4
    assert found.positions > 100
    assert verdict(asdict(found), exact=True)["passed"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_along_a_given_answer_is_that_of_the_checkpoint(made: Any, kind: str) -> None:
    """Of words that all differ: in a random model's own answer they repeat, and equal words have no order."""
    checkpoint, folder = made(kind)
    model = reading.load(checkpoint)
    graphs = Model(folder / MODEL, threads=1)
    answer = torch.randperm(45, generator=torch.Generator().manual_seed(1)).tolist()
    start = model.generation_config.decoder_start_token_id
    for length in (1, 2, 37, CONTEXT):
        ids = [4 + number * number % 41 for number in range(length)]
        with torch.inference_mode():
            whole = model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([[start, *answer[:-1]]]))
        assert np.abs(graphs.scores(ids, answer) - whole.logits[0].numpy()).max() < 1e-4


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_texts_filled_up_and_several_new_tokens_at_once_give_the_same(made: Any, kind: str) -> None:
    checkpoint, folder = made(kind)
    model = reading.load(checkpoint)
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 2, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    answer = torch.tensor([[0, 4, 5, 6, 7, 8, 9], [0, 9, 9, 8, 8, 7, 7]])
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask, decoder_input_ids=answer).logits.numpy()
    feeds = {"attention_mask": mask.numpy()}
    read = session(folder / MODEL / ENCODER, 1)
    cross = dict(zip(names(read), read.run(None, {"input_ids": ids.numpy(), **feeds}), strict=True))
    write = session(folder / MODEL / DECODER, 1)
    told = json.loads((folder / MODEL / "seq2seq.json").read_text())
    empty = np.zeros((2, told["heads"], 0, told["head_size"]), np.float32)
    past = {f"past_{part}_{layer}": empty for layer in range(told["layers"]) for part in ("key", "value")}
    for first, last in ((0, 3), (3, 4), (4, 7)):
        given = {"input_ids": answer[:, first:last].numpy(), **feeds, **cross, **past}
        out = dict(zip(names(write), write.run(None, given), strict=True))
        assert np.abs(out.pop("logits") - expected[:, last - 1]).max() < 1e-4
        past = {name.replace("present", "past"): value for name, value in out.items()}


def names(graph: onnxruntime.InferenceSession) -> list[str]:
    return [output.name for output in graph.get_outputs()]


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_distances_are_added_as_transformers_adds_them(side: str) -> None:
    config = T5Config(vocab_size=9, d_model=8, d_kv=4, num_heads=2, num_layers=1, d_ff=8)
    model = T5ForConditionalGeneration(config)
    attention = getattr(model, side).block[0].layer[0].SelfAttention
    buckets = attention.relative_attention_bias.weight.detach().numpy()
    found = reading._distances(config, buckets, both_ways=side == "encoder")
    length = 300
    with torch.inference_mode():
        expected = attention.compute_bias(length, length)[0].numpy()
    away = np.arange(length) - np.arange(length)[:, None]
    furthest = config.relative_attention_max_distance
    here = found[:, np.clip(away, -furthest, found.shape[1] - 1 - furthest) + furthest]
    seen = away <= (length if side == "encoder" else 0)
    assert np.array_equal(here[:, seen], expected[:, seen])


@pytest.mark.parametrize(
    ("kind", "name", "cosine"),
    [
        ("t5", "onnx-int8-dynamic", 0.99),
        ("bart", "onnx-int8-dynamic", 0.99),
        ("t5-gated", "onnx-int8-int4emb", 0.94),
        ("t5-gated", "onnx-int8-weights", 0.995),
        ("bart", "onnx-int8-weights", 0.995),
        ("t5", "onnx-int4", 0.9),
        ("t5", "onnx-fp16", 0.9999),
    ],
)
def test_a_smaller_file_says_nearly_the_same(made: Any, kind: str, name: str, cosine: float) -> None:
    checkpoint, folder = made(kind, name)
    found = held(checkpoint, folder, TEXTS[:4], new_tokens=12)
    assert found.cosine > cosine
    assert found.max_error > 1e-4, "nothing is smaller"


def test_the_head_has_8_bits_where_the_rest_has_4(made: Any) -> None:
    for kind in ("t5", "bart", "t5-gated"):
        nodes = onnx.load(made(kind, "onnx-int4")[1] / MODEL / DECODER).graph.node
        bits = {
            node.output[0]: next(attribute.i for attribute in node.attribute if attribute.name == "bits")
            for node in nodes
            if node.op_type == "MatMulNBits"
        }
        heads = {"logits", "head.product"} & set(bits)
        assert {bits.pop(head) for head in heads} == {8}
        assert set(bits.values()) == {4}


@pytest.mark.parametrize("kind", ["t5", "bart"])
@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-int8-dynamic", "onnx-int8-weights", "onnx-int4"])
def test_each_weight_is_there_once_and_the_linter_finds_nothing(made: Any, kind: str, name: str) -> None:
    checkpoint, folder = made(kind, name)
    tied = {"t5": "shared.weight", "bart": "model.shared.weight"}[kind]
    rows = len(load_file(checkpoint / "model.safetensors")[tied])
    for graph in (ENCODER, DECODER):
        file = folder / MODEL / graph
        assert lint(file, recipe=catalog.recipe(name)) == ()
        dims = [tuple(tensor.dims) for tensor in onnx.load(file).graph.initializer]
        assert sum(rows in shape and len(shape) > 1 and np.prod(shape) >= rows * 16 for shape in dims) == 1


def test_one_scale_for_all_is_shared_too_and_what_is_excluded_stays_in_float(made: Any, tmp_path: Path) -> None:
    checkpoint, _ = made("t5")
    coarse = replace(catalog.recipe("onnx-int8-dynamic"), per_channel=False)
    to_seq2seq(checkpoint, tmp_path / "coarse", coarse)
    assert held(checkpoint, tmp_path / "coarse", TEXTS[:3], new_tokens=8).cosine > 0.99
    products = [node.name for node in onnx.load(made("t5")[1] / MODEL / DECODER).graph.node if node.op_type == "MatMul"]
    to_seq2seq(checkpoint, tmp_path / "float", catalog.recipe("onnx-int8-dynamic"), exclude=products)
    types = {node.op_type for node in onnx.load(tmp_path / "float" / MODEL / DECODER).graph.node}
    assert "MatMul" in types
    assert "MatMulInteger" not in types
    assert "MatMulInteger" in {node.op_type for node in onnx.load(tmp_path / "float" / MODEL / ENCODER).graph.node}


def test_the_checkpoint_is_asked_once_however_many_recipes_are_tried(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[str]] = []
    ask, judge = ladder.reference, ladder.judge_writing

    def counted(checkpoint: Path, texts: Sequence[str], **more: Any) -> Reference:
        asked.append(texts)
        return ask(checkpoint, texts, **more)

    def strict(recipe: Recipe, *given: Any, **more: Any) -> dict[str, Any]:
        return judge(recipe, *given, **more) | ({} if recipe.bits == 32 else {"passed": False, "reason": "not today"})

    monkeypatch.setattr(ladder, "reference", counted)
    monkeypatch.setattr(ladder, "judge_writing", strict)
    original = ladder.Original(made("t5")[0], "0", TEXTS[1:3])
    some = [catalog.recipe(name) for name in ("onnx-int8-dynamic", "onnx-fp32")]
    with Store(tmp_path / "store") as store:
        exported, _ = ladder.export(original, some, store=store)
        alone, _ = ladder.export(original, some[1:], store=store)
    assert [step["passed"] for step in exported.ladder] == [False, True]
    assert alone.parity == exported.parity
    assert asked == [tuple(TEXTS[1:3])]


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_answer_comes_in_pieces_and_ends_at_the_limit(made: Any, kind: str) -> None:
    checkpoint, folder = made(kind)
    found = engine(folder)
    for text in TEXTS:
        tokens = list(found.tokens(text, max_tokens=12))
        assert list(found.tokens(text, max_tokens=5)) == tokens[:5]
        pieces = list(found.stream(text, max_tokens=12))
        expected = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(tokens)
        assert "".join(pieces) == expected == found.answer(text, max_tokens=12)
    assert len(list(found.tokens(TEXTS[2], max_tokens=10_000))) <= CONTEXT
    narrow = engine(folder, context=20)
    assert len(list(narrow.tokens("a", max_tokens=10_000))) <= 20
    with pytest.raises(ValueError, match="1 to 20 are taken"):
        next(narrow.tokens(TEXTS[4], max_tokens=4))
    if kind == "bart":
        assert next(found.tokens("a", max_tokens=1)) == 0  # forced, whatever is likeliest
        told = json.loads((checkpoint / "generation_config.json").read_text())
        assert told["forced_bos_token_id"] == 0


def test_an_answer_ends_where_the_checkpoint_ends_it(made: Any, tmp_path: Path) -> None:
    checkpoint, _ = made("t5")
    said = list(engine(made("t5")[1]).tokens(TEXTS[3], max_tokens=20))
    end = next(token for place, token in enumerate(said) if place >= 2 and token not in said[:place])
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    told = json.loads((checkpoint / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps(told | {"eos_token_id": [1, end]}))
    to_seq2seq(tmp_path, tmp_path / "made", catalog.recipe("onnx-fp32"))
    ended = engine(tmp_path / "made")
    assert list(ended.tokens(TEXTS[3], max_tokens=20)) == said[: said.index(end)]
    timed = list(ended.work(ended.prompt(TEXTS[3]), 20))  # which is as long for every answer
    assert timed[: len(said)] == said
    assert len(timed) == 20
    assert held(tmp_path, tmp_path / "made", TEXTS[3:4], new_tokens=20).diverges_at == (None,)


@pytest.mark.parametrize(
    ("kind", "tensor", "fault"),
    [
        ("t5", "encoder.distances", "turned around"),
        ("t5", "decoder.distances", "turned around"),
        ("bart", "decoder.positions", "shifted"),
        ("bart", "head.bias", "shifted"),
    ],
)
def test_parity_finds_a_graph_that_computes_something_else(
    made: Any, tmp_path: Path, kind: str, tensor: str, fault: str
) -> None:
    checkpoint, folder = made(kind)
    shutil.copytree(folder, tmp_path / "wrong")
    assert parity_of(checkpoint, tmp_path / "wrong")["passed"]
    file = tmp_path / "wrong" / MODEL / (ENCODER if tensor.startswith("encoder") else DECODER)
    model = onnx.load(file)
    weight = next(one for one in model.graph.initializer if one.name == tensor)
    value = numpy_helper.to_array(weight)
    wrong = value[:, ::-1] if fault == "turned around" else np.roll(value, 2, axis=0)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(wrong), tensor))
    onnx.save_model(model, str(file))
    assert not parity_of(checkpoint, tmp_path / "wrong")["passed"]


def parity_of(checkpoint: Path, folder: Path) -> dict[str, Any]:
    return verdict(asdict(held(checkpoint, folder, TEXTS[1:4], new_tokens=6)), exact=True)


def test_parity_finds_another_tokenizer_and_needs_texts(made: Any, tmp_path: Path) -> None:
    checkpoint, folder = made("t5")
    shutil.copytree(folder, tmp_path / "wrong")
    cut = json.loads((folder / "tokenizer.json").read_text())
    (tmp_path / "wrong" / "tokenizer.json").write_text(json.dumps(cut | {"post_processor": None}))  # no end of text
    found = held(checkpoint, tmp_path / "wrong", TEXTS[1:3], new_tokens=4)
    assert found.same_pieces == 0
    assert not verdict(asdict(found), exact=True)["passed"]
    with pytest.raises(InputError, match="needs texts"):
        held(checkpoint, folder, [])


def test_what_cannot_be_written_is_refused_before_it_is_tried(made: Any, tmp_path: Path) -> None:
    folder, fp32 = tmp_path / "student", catalog.recipe("onnx-fp32")
    shutil.copytree(made("t5")[0], folder)
    for wrong in ("onnx-int8-static", "gguf-q8_0"):
        with pytest.raises(StageError, match=wrong):
            to_seq2seq(folder, tmp_path / "made", catalog.recipe(wrong))
    with pytest.raises(StageError, match=f"knows {CONTEXT} positions"):
        to_seq2seq(made("bart")[0], tmp_path / "made", fp32, context=CONTEXT + 1)
    config = json.loads((folder / "config.json").read_text())
    for changes, error, reason in (
        ({"model_type": "umt5"}, StageError, "family 'umt5'"),
        ({"model_type": "llama"}, StageError, "family 'llama'"),
        ({"dense_act_fn": "tanh"}, StageError, "activation 'tanh'"),
        ({"auto_map": {}}, InputError, "own code"),
        ({"num_layers": 9}, InputError, "lacks"),
        ({"d_ff": 50}, InputError, "cannot load"),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(error, match=reason):
            to_seq2seq(folder, tmp_path / "made", fp32)
    (folder / "config.json").write_text(json.dumps(config))
    told = json.loads((folder / "generation_config.json").read_text())
    del told["decoder_start_token_id"]
    (folder / "generation_config.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="starts from"):
        to_seq2seq(folder, tmp_path / "made", fp32)
    weights = load_file(folder / "model.safetensors")
    name = "decoder.block.1.layer.1.EncDecAttention.q.weight"
    weights[name][3, 2] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=re.escape(name)):
        to_seq2seq(folder, tmp_path / "made", fp32)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights are never loaded"):
        to_seq2seq(folder, tmp_path / "made", fp32)
    assert not (tmp_path / "made").exists()


def test_a_graph_too_large_for_its_format_is_refused(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MOST_BYTES", 1000)
    with pytest.raises(StageError, match="one file holds"):
        to_seq2seq(made("t5")[0], tmp_path / "made", catalog.recipe("onnx-fp32"))


def test_a_recipe_in_blocks_refuses_a_table_that_fills_none(tmp_path: Path) -> None:
    save(tmp_path / "student", "t5", d_model=24)
    with pytest.raises(StageError, match="width of 24"):
        to_seq2seq(tmp_path / "student", tmp_path / "made", catalog.recipe("onnx-int8-weights"))
