"""From the smallest recipe to safer ones, with every step and its reason on record."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edgedistill.catalog import recipe as find_recipe
from edgedistill.errors import IntegrityError, StageError
from edgedistill.export.ladder import export, judge, judge_writing
from edgedistill.export.onnx import to_onnx
from edgedistill.export.parity import answers
from edgedistill.store import Store, canonical, file_sha256
from edgedistill.types import Shape, Student

INT8, FP32 = find_recipe("onnx-int8-dynamic"), find_recipe("onnx-fp32")
SHAPE = Shape(layers=(0, 1), hidden=32, ffn=64, heads=4, vocabulary=300, positions=24, labels=5)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def student_in(folder: Path) -> Student:
    return Student(path=folder, sha256=file_sha256(folder / "model.safetensors"), shape=SHAPE, curve=())


@pytest.fixture
def logits(student: Path, texts: list[list[int]], tmp_path: Path) -> NDArray[np.float32]:
    """What the student says, by way of the float32 file, which other tests compare with PyTorch."""
    to_onnx(student, tmp_path / "reference.onnx")
    return answers(tmp_path / "reference.onnx", texts)


@pytest.fixture
def truth(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Classes to which the student is always right."""
    found: NDArray[np.int64] = logits.argmax(axis=1)
    return found


def test_a_recipe_that_holds_is_the_only_step(
    student: Path, texts: list[list[int]], logits: NDArray[np.float32], truth: NDArray[np.int64], store: Store
) -> None:
    exported, output = export(
        student_in(student), (INT8, FP32), ids=texts, truth=truth, logits=logits, tolerance=0.2, store=store
    )
    assert exported.recipe == INT8.name
    assert [step["passed"] for step in exported.ladder] == [True]
    assert exported.parity["rows"] == 40
    assert exported.size_bytes < 60_000
    assert sorted(path.name for path in output.path.iterdir()) == [
        "entry.json",
        "export.json",
        "model.onnx",
        "model.onnx.data",
    ]


def test_a_recipe_that_loses_too_much_gives_way_to_float32_and_the_reason_stays(
    student: Path, texts: list[list[int]], logits: NDArray[np.float32], truth: NDArray[np.int64], store: Store
) -> None:
    strict = replace(INT8, tolerance=-1.0)
    exported, _ = export(student_in(student), (strict, FP32), ids=texts, truth=truth, logits=logits, store=store)
    assert exported.recipe == FP32.name
    assert [(step["recipe"], step["passed"], len(step["kept_in_float"])) for step in exported.ladder] == [
        *((INT8.name, False, kept) for kept in (0, 1, 2, 4)),
        (FP32.name, True, 0),
    ]
    assert "accuracy 1.0000, before 1.0000; -1.0000 may be lost" in exported.ladder[0]["reason"]
    assert exported.ladder[-1]["size_bytes"] == exported.size_bytes
    assert exported.parity["max_error"] < 1e-5
    np.testing.assert_array_equal(answers(exported.path, texts), logits)


def test_a_student_with_outlier_weights_keeps_the_product_that_has_them_in_float32(
    student: Path, texts: list[list[int]], store: Store, tmp_path: Path
) -> None:
    weights = load_file(student / "model.safetensors")
    # One huge weight a channel, on an input that two opposite units cancel: the small ones round to nothing.
    weights["classifier.weight"][:, :2] = 1000.0
    weights["bert.pooler.dense.weight"][1] = -weights["bert.pooler.dense.weight"][0]
    weights["bert.pooler.dense.bias"][1] = -weights["bert.pooler.dense.bias"][0]
    crafted = tmp_path / "crafted"
    crafted.mkdir()
    save_file(weights, crafted / "model.safetensors")
    (crafted / "config.json").write_text((student / "config.json").read_text())
    to_onnx(crafted, tmp_path / "crafted.onnx")
    said = answers(tmp_path / "crafted.onnx", texts)
    exported, _ = export(
        student_in(crafted), (INT8, FP32), ids=texts, truth=said.argmax(axis=1), logits=said, store=store
    )
    assert exported.ladder[0]["drop"] > INT8.tolerance
    # The measured sensitivity finds the one product that 8 bits ruin, and the rest stays small.
    assert (exported.recipe, exported.ladder[-1]["kept_in_float"]) == (INT8.name, ["logits_product/MatMul"])
    assert exported.ladder[-1]["drop"] <= INT8.tolerance
    first, second = (one["error"] for one in exported.sensitivity[:2])
    assert first > 100 * second


def test_a_step_that_holds_is_found_among_all_recipes_of_the_catalogue_and_says_which(
    student: Path, texts: list[list[int]], logits: NDArray[np.float32], truth: NDArray[np.int64], store: Store
) -> None:
    names = ("onnx-int8-int4emb", "onnx-int8-dynamic", "onnx-int8-static", "onnx-int8-weights", "onnx-fp16")
    # No 8-bit file may pass: each is asked to be better than a student that is always right.
    recipes = [replace(find_recipe(name), tolerance=0.001 if name == "onnx-fp16" else -1.0) for name in names]
    exported, _ = export(
        student_in(student), recipes, ids=texts, truth=truth, logits=logits, calibration=texts, store=store
    )
    tried = list(dict.fromkeys(step["recipe"] for step in exported.ladder))
    assert tried == list(names)
    assert exported.recipe == "onnx-fp16"
    assert [step["passed"] for step in exported.ladder][-2:] == [False, True]
    assert {one["recipe"] for one in exported.sensitivity} == set(names[:2])


def test_swapped_label_ids_are_caught_whatever_the_tolerance(
    student: Path, texts: list[list[int]], logits: NDArray[np.float32], truth: NDArray[np.int64], store: Store
) -> None:
    swapped = logits[:, [1, 2, 3, 4, 0]]
    with pytest.raises(StageError, match="no recipe answers like the checkpoint"):
        export(student_in(student), (INT8, FP32), ids=texts, truth=truth, logits=swapped, tolerance=1.0, store=store)


def test_a_vocabulary_that_was_trimmed_wrongly_is_caught_whatever_the_tolerance(
    student: Path,
    texts: list[list[int]],
    logits: NDArray[np.float32],
    truth: NDArray[np.int64],
    store: Store,
    tmp_path: Path,
) -> None:
    weights = load_file(student / "model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    trimmed = tmp_path / "trimmed"
    trimmed.mkdir()
    save_file(weights | {name: np.roll(weights[name], 1, axis=0)}, trimmed / "model.safetensors")
    (trimmed / "config.json").write_text((student / "config.json").read_text())
    with pytest.raises(StageError, match="no recipe answers like the checkpoint"):
        export(student_in(trimmed), (INT8, FP32), ids=texts, truth=truth, logits=logits, tolerance=1.0, store=store)


def test_a_float32_file_that_answers_otherwise_is_never_shipped_however_accurate(
    student: Path, texts: list[list[int]], logits: NDArray[np.float32], truth: NDArray[np.int64], store: Store
) -> None:
    with pytest.raises(StageError, match=r"no recipe answers like the checkpoint: a float32 logit differs by 0\.01"):
        export(student_in(student), (FP32,), ids=texts, truth=truth, logits=logits + 0.01, tolerance=1.0, store=store)


def test_an_export_is_done_once_and_its_record_is_read_back(
    student: Path, texts: list[list[int]], logits: NDArray[np.float32], truth: NDArray[np.int64], store: Store
) -> None:
    def again() -> tuple[object, bool]:
        exported, output = export(
            student_in(student), (INT8, FP32), ids=texts, truth=truth, logits=logits, tolerance=0.2, store=store
        )
        assert json.loads((output.path / "export.json").read_text())["ladder"] == list(exported.ladder)
        return exported, output.cached

    first, second = again(), again()
    assert first == (second[0], False)
    assert second[1]


def test_other_labels_or_another_engine_are_another_export(
    student: Path,
    texts: list[list[int]],
    logits: NDArray[np.float32],
    truth: NDArray[np.int64],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cached(truth: NDArray[np.int64]) -> bool:
        _, output = export(
            student_in(student), (INT8, FP32), ids=texts, truth=truth, logits=logits, tolerance=0.2, store=store
        )
        return output.cached

    assert [cached(truth), cached(truth), cached((truth + 1) % 5)] == [False, True, False]
    monkeypatch.setattr(onnxruntime, "__version__", "0.0")
    assert not cached(truth)
    monkeypatch.setattr(onnx, "__version__", "0.0")
    assert not cached(truth)


def test_a_spoiled_student_leaves_nothing_in_the_store(
    make_student: Callable[[int], Path], texts: list[list[int]], store: Store, tmp_path: Path
) -> None:
    weights = load_file(make_student(2) / "model.safetensors")
    weights["classifier.bias"][0] = np.nan
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((make_student(2) / "config.json").read_text())
    nothing = np.zeros((40, 5), dtype=np.float32)
    with pytest.raises(IntegrityError, match=r"classifier\.bias"):
        export(
            student_in(tmp_path), (FP32,), ids=texts, truth=np.zeros(40, dtype=np.int64), logits=nothing, store=store
        )
    assert not (store.root / "outputs").exists()


@pytest.mark.parametrize(
    ("file", "student", "tolerance", "passed"),
    [
        (0.90, 0.90, 0.0, True),
        (0.895, 0.90, 0.01, True),
        (0.88, 0.90, 0.01, False),
        (0.95, 0.90, 0.0, True),
        (0.88, 0.90, None, False),
        (0.895, 0.90, None, True),
    ],
)
def test_a_file_holds_when_it_loses_no_more_than_it_may(
    file: float, student: float, tolerance: float | None, passed: bool
) -> None:
    step = judge(INT8, {"max_error": 0.3}, file, student, tolerance)
    assert step["passed"] is passed
    assert step["drop"] == pytest.approx(student - file)
    assert f"{file:.4f}" in step["reason"]


def test_a_float32_file_whose_answers_are_no_numbers_does_not_hold() -> None:
    assert not judge(FP32, {"max_error": float("nan")}, 0.9, 0.9, 0.01)["passed"]


@pytest.mark.parametrize(
    ("kl", "top1", "tolerance", "passed"),
    [
        (0.0014, 0.99, None, True),
        (0.05, 0.92, None, True),
        (0.06, 0.92, None, False),
        (0.06, 0.92, 0.1, True),
        (0.0014, 0.99, 0.001, False),
        # It is likely enough on average, and another model.
        (0.01, 0.85, None, False),
        (math.nan, 0.99, None, False),
    ],
)
def test_what_writes_may_lose_a_share_of_the_likelihood(
    kl: float, top1: float, tolerance: float | None, passed: bool
) -> None:
    parity = {"kl": kl, "top1_agreement": top1, "cosine": 0.999, "max_error": 0.4}
    step = judge_writing(find_recipe("gguf-q8_0"), parity, tolerance)
    assert step["passed"] == passed
    assert step["metric"] == "likelihood kept"
    canonical(step)  # is written down


def test_who_allows_no_loss_gets_what_loses_the_last_digits_of_a_mean() -> None:
    parity = {"kl": 3e-10, "top1_agreement": 1.0, "cosine": 1.0, "max_error": 1e-6}
    assert judge_writing(find_recipe("onnx-fp32"), parity, 0.0)["passed"]
