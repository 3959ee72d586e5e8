"""Rows on both sides of LongRoPE's border are never read together."""

from __future__ import annotations

import pytest

from edgedistill.distill import longrope
from edgedistill.errors import InputError
from tests.distill.decoders import NAMESAKES, decoder

LENGTHS = [20, 3, 16, 17, 9, 30]


def test_the_border_is_the_original_context_of_those_that_have_one() -> None:
    assert longrope.border(decoder("Phi-4-mini-instruct")) == 16
    assert longrope.border(decoder("Phi-3-mini-4k-instruct")) is None
    assert longrope.border(decoder("Qwen2.5 for long texts")) is None  # which scales all texts in one way
    assert longrope.border(decoder("gemma-3-1b-it")) is None  # whose kinds of layers have settings of their own


def test_every_row_is_in_a_batch_of_its_side() -> None:
    found = list(longrope.batches([decoder("Phi-3.5-mini-instruct")], LENGTHS, 1000))
    assert [sorted(rows) for rows in found] == [[1, 2, 4], [0, 3, 5]]
    assert [sorted(rows) for rows in longrope.batches([decoder("Qwen3-0.6B")], LENGTHS, 1000)] == [[0, 1, 2, 3, 4, 5]]


def test_two_models_that_read_the_same_rows_have_two_borders() -> None:
    family = "Phi-3.5-mini-instruct"
    rope = {**NAMESAKES[family]["rope_parameters"], "original_max_position_embeddings": 18}
    other = decoder(family, rope_parameters=rope, original_max_position_embeddings=18)
    found = longrope.batches([decoder(family), other], LENGTHS, 1000)
    assert [sorted(rows) for rows in found] == [[1, 2, 4], [3], [0, 5]]


def test_training_rows_on_both_sides_are_refused() -> None:
    model = decoder("Phi-3-mini-128k-instruct")
    longrope.check(model, [3, 16])
    longrope.check(model, [17, 30])
    longrope.check(decoder("Qwen3-0.6B"), LENGTHS)
    with pytest.raises(InputError, match="more than 16 tokens"):
        longrope.check(model, LENGTHS)
