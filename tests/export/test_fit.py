"""What a file takes of a board is a sum that a reader can follow, and what was measured counts before it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgedistill import catalog
from edgedistill.export import fit

SMOLLM2 = {
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "intermediate_size": 1536,
}


def test_a_decoder_keeps_keys_and_values_of_its_context() -> None:
    board = catalog.device("raspberrypi5")
    short, long = (fit.of_decoder(100_000_000, SMOLLM2, context, board) for context in (1000, 2000))
    # 30 layers, keys and values of 3 heads of 64 numbers, two bytes each
    assert short.parts["keys and values of 1000 tokens"] == 1000 * 30 * 2 * 3 * 64 * 2
    assert long.memory - short.memory == 1000 * 30 * 2 * 3 * 64 * 2
    assert short.problem is None


def test_keys_and_values_of_onnxruntime_genai_are_floats_and_a_long_prompt_is_counted_that_no_row_has() -> None:
    board = catalog.device("raspberrypi5")
    config = {**SMOLLM2, "vocab_size": 49152, "tie_word_embeddings": True}
    found = fit.of_genai(103_000_000, 4, config, 2048, board)
    assert found.parts["keys and values of 2048 tokens"] == 2048 * 30 * 2 * 3 * 64 * 4
    assert found.parts["packed copy"] == 51_500_000
    assert fit.of_genai(540_000_000, 32, config, 2048, board).parts["packed copy"] == 49152 * 576 * 4
    # 9 heads with a score for each pair of tokens
    assert found.unseen == found.parts["a prompt that fills them"] > 9 * 2048 * 2048 * 4
    tight = replace(found, memory_available=500e6, measured=300e6)
    assert f"it takes 300 MB, and {found.unseen / 1e6:.0f} MB more are predicted" in str(tight.problem)


def test_the_size_of_a_head_may_be_its_own_and_every_head_may_have_keys() -> None:
    board = catalog.device("raspberrypi5")
    config = {**SMOLLM2, "head_dim": 128, "num_key_value_heads": None}
    assert fit.of_decoder(1, config, 10, board).parts["keys and values of 10 tokens"] == 10 * 30 * 2 * 9 * 128 * 2


@pytest.mark.parametrize(("recipe", "widened"), [("onnx-int8-int4emb", 1), ("onnx-fp16", 2), ("onnx-w4a8", 2)])
def test_an_encoders_weights_are_there_twice_and_fewer_bits_are_widened(recipe: str, widened: int) -> None:
    found = fit.of_encoder(10_000_000, catalog.recipe(recipe), catalog.device("raspberrypi5"))
    assert found.parts["weights"] == found.parts["packed copy"] == widened * 10_000_000


def test_weights_of_8_bits_are_mapped_and_there_once() -> None:
    found = fit.of_encoder(10_000_000, catalog.recipe("onnx-int8-dynamic"), catalog.device("raspberrypi5"))
    assert (found.parts["weights"], found.parts["packed copy"]) == (10_000_000, 0)


def test_what_was_measured_counts_before_what_was_predicted() -> None:
    board = replace(catalog.device("raspberrypi5"), ram_usable_bytes=100_000_000)
    predicted = fit.of_encoder(1_000_000, catalog.recipe("onnx-int8-dynamic"), board)
    assert predicted.problem is None
    assert "takes 120 MB" in str(replace(predicted, measured=120e6).problem)
    large = fit.of_encoder(80_000_000, catalog.recipe("onnx-fp32"), board)
    assert "is predicted to take 215 MB (runtime 55 + weights 80 + packed copy 80)" in str(large.problem)
    assert replace(large, measured=90e6).problem is None
    assert "of storage" in str(replace(predicted, storage_available=1e6).problem)
