"""Encoders on boards: against the few that were published, and against ours."""

from __future__ import annotations

import pytest

from edgedistill import catalog, predictor
from edgedistill.predictor.encoder import ENGINE_BYTES, LATENCY_FACTOR, in_memory, latency_s
from edgedistill.types import Shape

STUDENT = Shape(layers=(0, 1, 2), hidden=384, ffn=1536, heads=12, vocabulary=30522, positions=512, labels=150)


@pytest.mark.parametrize(
    ("layers", "width", "milliseconds"), [(4, 384, 1106), (6, 512, 2480), (12, 768, 8308), (24, 1024, 26469)]
)
def test_whispers_encoder_on_a_pi_5_lies_in_the_range(layers: int, width: int, milliseconds: float) -> None:
    # ggml-org/whisper.cpp: 30 s of sound are 1,500 positions behind two convolutions, 4 threads, floats.
    positions = 1500
    macs = layers * (12 * width * width * positions + 2 * positions * positions * width)
    macs += 3 * width * (80 * 2 * positions + width * positions)
    found = latency_s(macs, layers, catalog.recipe("onnx-fp32"), catalog.device("raspberrypi5"), threads=4) * 1e3
    assert milliseconds / LATENCY_FACTOR < found < milliseconds * LATENCY_FACTOR


def test_the_latency_of_a_text_is_its_arithmetic_and_what_operators_cost() -> None:
    board, recipe = catalog.device("raspberrypi4"), catalog.recipe("onnx-int8-dynamic")
    # 19.4 × 10⁹ operations a second, half of them in reach; 22 operators a layer at 4 µs × 40 / 19.4
    by_hand = 2 * STUDENT.macs(11) / (19.4e9 * 0.5) + 3 * 22 * 4e-6 * 40 / 19.4
    found = {one.name: one for one in predictor.encoder(STUDENT, recipe, board, 11, threads=1)}
    assert found["latency"].median == pytest.approx(by_hand * 1e3)
    assert {one.called for one in found.values()} == {"rough range"}


def test_eight_bits_that_are_mapped_are_in_memory_once() -> None:
    # benchmarks/LOG.md: a file of 17.0 MB took 16.3 MB beside the engine, one that is packed again 37.
    assert sum(in_memory(17.0e6, catalog.recipe("onnx-int8-dynamic")).values()) == pytest.approx(16.3e6, rel=0.1)
    assert sum(in_memory(17.0e6, catalog.recipe("onnx-fp32")).values()) == 2 * 17.0e6
    board = catalog.device("raspberrypi5")
    found = {
        one.name: one for one in predictor.encoder(STUDENT, catalog.recipe("onnx-int8-dynamic"), board, 11, threads=1)
    }
    assert found["memory"].median - ENGINE_BYTES == pytest.approx(found["model_size"].median)


@pytest.mark.parametrize("name", [device.name for device in catalog.devices()])
def test_longer_texts_and_fewer_threads_are_never_faster(name: str) -> None:
    board, recipe = catalog.device(name), catalog.recipe("onnx-int8-dynamic")
    times = [
        predictor.encoder(STUDENT, recipe, board, tokens, threads=threads)[0].median
        for tokens, threads in ((8, 4), (64, 4), (64, 2), (64, 1), (512, 1))
    ]
    assert times == sorted(times)
