"""How far two sets of answers are apart, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgedistill.export.onnx import to_onnx
from edgedistill.export.parity import answers, compare, kept_answers
from edgedistill.store import Store
from edgedistill.types import Exported


def test_equal_answers_are_no_distance_apart() -> None:
    same = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 3.5]], dtype=np.float32)
    assert compare(same, same) == {
        "max_error": 0.0,
        "mean_error": 0.0,
        "cosine": pytest.approx(1.0),
        "kl": 0.0,
        "kl_error": 0.0,
        "top1_agreement": 1.0,
        "rows": 2.0,
    }


def test_each_distance_is_its_formula() -> None:
    file = np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    student = np.array([[0.0, 1.0], [0.0, 1.0]], dtype=np.float32)
    found = compare(file, student)
    assert found["max_error"] == 1.0
    assert found["mean_error"] == pytest.approx(3 / 4)
    assert found["cosine"] == pytest.approx((0 + 1) / 2)
    assert found["top1_agreement"] == 0.5
    p = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    rows = [(p * np.log(p / (np.exp(q) / np.exp(q).sum()))).sum() for q in ([1.0, 0.0], [0.0, 2.0])]
    assert found["kl"] == pytest.approx(np.mean(rows))


def test_a_constant_added_to_a_row_is_an_error_of_logits_and_none_of_probabilities() -> None:
    student = np.array([[1.0, -2.0, 0.5]], dtype=np.float32)
    found = compare(student + 3, student)
    assert found["max_error"] == pytest.approx(3)
    assert found["kl"] == pytest.approx(0, abs=1e-12)
    assert found["top1_agreement"] == 1.0


def test_huge_logits_do_not_overflow() -> None:
    found = compare(np.array([[1e4, -1e4]], dtype=np.float32), np.array([[-1e4, 1e4]], dtype=np.float32))
    assert found["kl"] == pytest.approx(2e4)


def test_a_files_answers_are_kept_for_the_rows_they_were_given_to(
    student: Path, texts: list[list[int]], tmp_path: Path
) -> None:
    to_onnx(student, tmp_path / "model.onnx")
    exported = Exported(path=tmp_path / "model.onnx", sha256="a", recipe="onnx-fp32", parity={}, ladder=())
    with Store(tmp_path / "store") as store:
        first, made = kept_answers(exported, texts, "rows", store=store)
        second, kept = kept_answers(exported, texts, "rows", store=store)
        other, asked = kept_answers(exported, texts[:3], "other rows", store=store)
    assert (made.cached, kept.cached, asked.cached) == (False, True, False)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, answers(exported.path, texts))
    assert len(other) == 3
    assert onnxruntime.__version__.startswith("1.26")


def test_progress_ends_with_every_row(student: Path, texts: list[list[int]], tmp_path: Path) -> None:
    to_onnx(student, tmp_path / "model.onnx")
    said: list[tuple[int, int]] = []
    answers(tmp_path / "model.onnx", texts, progress=lambda done, total, note="": said.append((done, total)))
    assert said[-1] == (40, 40)
