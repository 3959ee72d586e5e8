"""Ranges of activations from rows of any length: outliers are cut, zero is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedistill.export.calibrate import by_entropy, by_percentile, ranges
from edgedistill.export.onnx import to_onnx
from edgedistill.export.parity import feed

NORMAL = np.random.default_rng(0).normal(size=100_000).astype(np.float32)


def test_a_percentile_cuts_outliers_and_keeps_the_rest() -> None:
    low, high = by_percentile(np.append(NORMAL, np.float32(1000)))
    assert -5 < low < -3
    assert 3 < high < 5


def test_entropy_cuts_a_far_outlier_and_keeps_nearly_all_of_a_plain_distribution() -> None:
    low, high = by_entropy(np.append(NORMAL, np.float32(50)))
    assert -6 < low < -2
    assert 2 < high < 25
    assert by_entropy(NORMAL)[1] > 2


def test_zero_lies_in_every_range() -> None:
    positive = np.abs(NORMAL) + 1
    assert by_percentile(positive)[0] == by_entropy(positive)[0] == 0
    assert by_percentile(-positive)[1] == by_entropy(-positive)[1] == 0


def test_every_product_has_a_range_taken_from_rows_of_different_lengths(
    student: Path, texts: list[list[int]], tmp_path: Path
) -> None:
    to_onnx(student, tmp_path / "fused.onnx", packed=False)
    found = ranges(tmp_path / "fused.onnx", [feed(text) for text in texts], "percentile")
    assert "embedded" in found
    assert len(found) == 11  # 4 inputs a layer, one more for the first position of the last, and two in the head
    assert all(low <= 0 <= high and low < high for low, high in found.values())
