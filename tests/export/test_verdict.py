"""A parity record says whether it is the same model, and why."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill.export.parity import compare, verdict

LOGITS = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)


def test_the_same_answers_pass_and_say_how_far_they_are_apart() -> None:
    found = verdict(compare(LOGITS + 0.0005, LOGITS), exact=True)
    assert found == {"passed": True, "reason": "the largest difference of a logit is 0.0005"}


def test_a_float32_file_may_differ_by_rounding_only_and_a_quantized_one_by_more() -> None:
    parity = compare(LOGITS + 0.01, LOGITS)
    assert not verdict(parity, exact=True)["passed"]
    assert verdict(parity, exact=False)["passed"]


def test_swapped_labels_fail_and_the_reason_is_the_agreement() -> None:
    found = verdict(compare(LOGITS[:, [1, 0, 2, 3, 4]], LOGITS), exact=False)
    assert not found["passed"]
    assert found["reason"].startswith("rows with the same answer: 0.")


def test_answers_that_are_no_numbers_fail() -> None:
    assert not verdict(compare(LOGITS * np.nan, LOGITS), exact=False)["passed"]


def test_the_divergence_has_its_standard_error() -> None:
    noisy = LOGITS + np.random.default_rng(1).normal(size=LOGITS.shape).astype(np.float32) * 0.3
    whole, part = compare(noisy, LOGITS), compare(noisy[:50], LOGITS[:50])
    assert 0 < whole["kl_error"] < whole["kl"] / 5
    assert part["kl_error"] == pytest.approx(2 * whole["kl_error"], rel=0.6)
