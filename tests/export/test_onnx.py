"""The written graph answers like the student, computes no more than it must, and is the same file every time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import shape_inference
from safetensors.numpy import load_file, save_file
from transformers import BertForSequenceClassification

from edgedistill.distill.batches import collate
from edgedistill.errors import IntegrityError, StageError
from edgedistill.export.onnx import to_onnx
from edgedistill.runtime.engine_onnx import logits, session

Make = Callable[[int], Path]


def of_torch(student: Path, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    model = BertForSequenceClassification.from_pretrained(student).train(False)
    with torch.inference_mode():
        found: NDArray[np.float32] = model(
            input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)
        ).logits.numpy()
    return found


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_the_file_answers_like_the_student_to_each_text_of_any_length(
    make_student: Make, texts: list[list[int]], tmp_path: Path, layers: int
) -> None:
    to_onnx(make_student(layers), tmp_path / "model.onnx")
    engine = session(tmp_path / "model.onnx", threads=1)
    for text in texts[:22]:
        ids = np.array([text])
        expected = of_torch(make_student(layers), ids, np.ones_like(ids))
        np.testing.assert_allclose(logits(engine, ids, np.ones_like(ids)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_the_file_answers_like_the_student_to_a_padded_batch_of_different_lengths(
    make_student: Make, texts: list[list[int]], tmp_path: Path, layers: int
) -> None:
    to_onnx(make_student(layers), tmp_path / "model.onnx")
    engine = session(tmp_path / "model.onnx", threads=1)
    batch = collate(texts, range(len(texts)), 0)
    ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
    found = logits(engine, ids, mask)
    assert found.shape == (40, 5)
    assert found.std() > 0.1
    np.testing.assert_allclose(found, of_torch(make_student(layers), ids, mask), rtol=1e-5, atol=1e-5)


def test_what_stands_in_the_padding_changes_no_answer(student: Path, texts: list[list[int]], tmp_path: Path) -> None:
    to_onnx(student, tmp_path / "model.onnx")
    engine = session(tmp_path / "model.onnx", threads=1)
    zeros, junk = collate(texts, range(40), 0), collate(texts, range(40), 299)
    mask = zeros["attention_mask"].numpy()
    assert np.array_equal(
        logits(engine, zeros["input_ids"].numpy(), mask), logits(engine, junk["input_ids"].numpy(), mask)
    )


def test_both_sides_of_the_input_are_dynamic_and_the_labels_are_not(student: Path, tmp_path: Path) -> None:
    to_onnx(student, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    sizes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert sizes == {
        "input_ids": ["texts", "tokens"],
        "attention_mask": ["texts", "tokens"],
        "logits": ["texts", 5],
    }
    assert {value.type.tensor_type.elem_type for value in graph.input} == {onnx.TensorProto.INT64}


def test_two_exports_are_the_same_bytes(student: Path, tmp_path: Path) -> None:
    for name in ("first.onnx", "second.onnx"):
        to_onnx(student, tmp_path / name)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_every_layer_but_the_last_is_one_fused_attention(make_student: Make, tmp_path: Path, layers: int) -> None:
    to_onnx(make_student(layers), tmp_path / "model.onnx")
    found = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert found.count("Attention") == layers - 1
    assert found.count("MultiHeadAttention") == 1
    assert found.count("EmbedLayerNormalization") == 1
    assert found.count("SkipLayerNormalization") == 2 * layers
    assert found.count("BiasGelu") == layers
    assert not {"Softmax", "LayerNormalization", "Erf", "Transpose", "Reshape"} & set(found)


def test_the_last_layer_computes_its_query_for_one_position_only(student: Path, tmp_path: Path) -> None:
    to_onnx(student, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    names = [node.output[0] for node in model.graph.node if node.op_type == "MatMul"]
    last = next(node for node in model.graph.node if node.op_type == "MultiHeadAttention")
    # ask the engine itself for what goes into and comes out of the last attention
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in (*last.input[:3], last.output[0])
    )
    onnx.save(shape_inference.infer_shapes(model), tmp_path / "open.onnx")
    ids = np.arange(1, 15, dtype=np.int64).reshape(2, 7)
    engine = session(tmp_path / "open.onnx", threads=1)
    query, key, value, out = engine.run(
        [*last.input[:3], last.output[0]], {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    )
    assert set(last.input[:3]) <= set(names)
    assert query.shape == out.shape == (2, 1, 32)
    assert key.shape == value.shape == (2, 7, 32)


@pytest.fixture
def copy(student: Path, tmp_path: Path) -> Path:
    """A student to be spoiled."""
    folder = tmp_path / "copy"
    shutil.copytree(student, folder)
    return folder


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["bert.encoder.layer.1.output.dense.weight", "classifier.bias"])
def test_a_weight_that_is_not_finite_is_named_and_never_exported(copy: Path, name: str, value: float) -> None:
    weights = load_file(copy / "model.safetensors")
    weights[name].flat[-1] = value
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
        to_onnx(copy, copy / "model.onnx")
    assert not (copy / "model.onnx").exists()


@pytest.mark.parametrize("changes", [{"model_type": "roberta"}, {"hidden_act": "relu"}, {"model_type": None}])
def test_a_student_of_another_family_is_refused(copy: Path, changes: dict[str, Any]) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(StageError, match=next(iter(changes))):
        to_onnx(copy, copy / "model.onnx")


def test_a_student_without_a_weight_is_refused_by_its_name(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["bert.pooler.dense.bias"]
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(StageError, match=r"bert\.pooler\.dense\.bias"):
        to_onnx(copy, copy / "model.onnx")
