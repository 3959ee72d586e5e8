"""The written file answers like the student, whatever the batch; a smaller one only ships if it is as accurate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from transformers import BertConfig, BertForSequenceClassification

from edgedistill import catalog
from edgedistill.errors import IntegrityError, StageError
from edgedistill.export.ladder import export
from edgedistill.export.onnx import to_onnx
from edgedistill.export.parity import answers, compare
from edgedistill.export.quantize import quantize
from edgedistill.runtime.engine_onnx import logits, session
from edgedistill.store import Store
from edgedistill.teachers.local import quiet
from edgedistill.types import Recipe, Shape, Student


def student_in(folder: Path, layers: int = 2, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=80, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=40, num_labels=5, initializer_range=0.3, **changes,
    )  # fmt: skip
    model: Any = BertForSequenceClassification(config).eval()
    with quiet():
        model.save_pretrained(folder)
    return model


def rows(count: int) -> list[list[int]]:
    chance = np.random.default_rng(0)
    return [chance.integers(1, 80, size=chance.integers(3, 40)).tolist() for _ in range(count)]


def torch_logits(model: Any, ids: list[list[int]]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return np.concatenate([model(input_ids=torch.tensor([row])).logits.numpy() for row in ids])


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_the_file_answers_like_the_student_alone_and_in_padded_batches(tmp_path: Path, layers: int) -> None:
    model = student_in(tmp_path, layers)
    to_onnx(tmp_path, tmp_path / "m.onnx")
    ids = rows(12)
    expected = torch_logits(model, ids)
    assert np.abs(answers(tmp_path / "m.onnx", ids) - expected).max() < 1e-4
    longest = max(map(len, ids))
    padded = np.array([row + [0] * (longest - len(row)) for row in ids], dtype=np.int64)
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in ids], dtype=np.int64)
    assert np.abs(logits(session(tmp_path / "m.onnx", 1), padded, mask) - expected).max() < 1e-4


def test_only_the_last_layer_asks_for_a_single_position(tmp_path: Path) -> None:
    student_in(tmp_path, 3)
    to_onnx(tmp_path, tmp_path / "m.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert operators.count("Attention") == 2
    assert operators.count("MultiHeadAttention") == operators.count("Slice") == 1


def test_the_same_student_gives_the_same_bytes(tmp_path: Path) -> None:
    student_in(tmp_path)
    for name in ("a", "b"):
        to_onnx(tmp_path, tmp_path / f"{name}.onnx")
        quantize(tmp_path / f"{name}.onnx", tmp_path / f"{name}8.onnx", catalog.recipe("onnx-int8-dynamic"))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert (tmp_path / "a8.onnx").read_bytes() == (tmp_path / "b8.onnx").read_bytes()


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    model = student_in(tmp_path)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[3] = torch.inf
    with quiet():
        model.save_pretrained(tmp_path)
    with pytest.raises(IntegrityError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        to_onnx(tmp_path, tmp_path / "m.onnx")


def test_another_family_or_activation_is_refused(tmp_path: Path) -> None:
    student_in(tmp_path, hidden_act="relu")
    with pytest.raises(StageError, match="hidden_act"):
        to_onnx(tmp_path, tmp_path / "m.onnx")


def test_eight_bit_weights_use_seven_so_that_every_processor_answers_the_same(tmp_path: Path) -> None:
    model = student_in(tmp_path)
    to_onnx(tmp_path, tmp_path / "m.onnx")
    quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", catalog.recipe("onnx-int8-dynamic"))
    assert (tmp_path / "q.onnx").stat().st_size < 0.6 * (tmp_path / "m.onnx").stat().st_size
    weights = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "q.onnx").graph.initializer]
    matrices = [w for w in weights if w.dtype == np.int8 and w.ndim == 2 and w.shape[0] in (32, 48)]
    assert len(matrices) >= 8
    assert max(np.abs(m.astype(int)).max() for m in matrices) <= 64
    found = compare(answers(tmp_path / "q.onnx", rows(50)), torch_logits(model, rows(50)))
    assert found["cosine"] > 0.98


def test_comparing_equal_logits_finds_nothing() -> None:
    same = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    found = compare(same, same)
    assert found["max_error"] == 0
    assert found["top1_agreement"] == 1
    assert found["cosine"] == pytest.approx(1)
    assert found["kl"] == pytest.approx(0, abs=1e-12)
    flipped = same.copy()
    flipped[0] = -flipped[0]
    assert compare(flipped, same)["top1_agreement"] == pytest.approx(6 / 7)


def climb(tmp_path: Path, recipes: list[Recipe], tolerance: float | None) -> Any:
    (tmp_path / "student").mkdir()
    model = student_in(tmp_path / "student")
    ids = rows(40)
    own = torch_logits(model, ids)
    shape = Shape(layers=(0, 1), hidden=32, ffn=48, heads=4, vocabulary=80, positions=40, labels=5)
    student = Student(path=tmp_path / "student", sha256="0", shape=shape, curve=())
    with Store(tmp_path / "store") as store:
        return export(
            student, recipes, ids=ids, truth=own.argmax(axis=1), logits=own, tolerance=tolerance, store=store
        )[0]


def test_the_ladder_falls_to_float32_and_records_each_step(tmp_path: Path) -> None:
    recipes = [catalog.recipe("onnx-int8-dynamic"), catalog.recipe("onnx-fp32")]
    # A negative tolerance asks the 8-bit file to be better than the student, which is always right here.
    impossible = Recipe(**{**{f: getattr(recipes[0], f) for f in recipes[0].__slots__}, "tolerance": -0.1})
    exported = climb(tmp_path, [impossible, recipes[1]], None)
    assert exported.recipe == "onnx-fp32"
    assert [step["passed"] for step in exported.ladder] == [False] * (len(exported.ladder) - 1) + [True]
    assert "may be lost" in exported.ladder[0]["reason"]
    assert json.dumps(exported.ladder)


def test_the_smallest_recipe_that_holds_is_taken(tmp_path: Path) -> None:
    exported = climb(tmp_path, [catalog.recipe("onnx-int8-dynamic"), catalog.recipe("onnx-fp32")], 0.5)
    assert exported.recipe == "onnx-int8-dynamic"
    assert exported.parity["rows"] == 40


def test_a_recipe_that_nobody_implements_is_said(tmp_path: Path) -> None:
    student_in(tmp_path)
    to_onnx(tmp_path, tmp_path / "m.onnx")
    odd = Recipe(
        name="odd", format="onnx", engine="onnxruntime", bits=4, scheme="dynamic", per_channel=False,
        reduce_range=False, needs_isa=(), tolerance=0.1,
    )  # fmt: skip
    with pytest.raises(StageError, match="4 bits"):
        quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", odd)
