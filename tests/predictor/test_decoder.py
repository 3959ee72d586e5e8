"""Decoders on boards: the arithmetic by hand, what does not fit, and that more never costs less."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill import catalog, predictor
from edgedistill.errors import InputError
from edgedistill.predictor import Decoder, Prediction, fitted
from edgedistill.predictor.decoder import BATCH, CARD_BYTES_S, LLAMA_BYTES
from edgedistill.predictor.names import quantization
from edgedistill.types import Device

BOARDS = catalog.devices()
PI5 = catalog.device("raspberrypi5")
SMALL = Decoder(body=1e9, active=1e9, table=1e8, tied=True)
BITS = {"q4_0": (4.5, 6.5625), "q8_0": (8.5, 8.5)}


def values(found: Prediction) -> dict[str, float]:
    return {one.name.split("@")[0]: one.median for one in found.measurements}


def test_speed_is_bandwidth_over_bytes_and_throughput_over_operations() -> None:
    found = values(predictor.decoder(PI5, SMALL, "Q8_0", prompt_tokens=128))
    law = fitted.laws()
    read, operations = 1.1e9 * 8.5 / 8, 2e9
    for metric, work, promised in (
        ("decode", read, PI5.bandwidth_bytes_s),
        ("prefill", operations, PI5.gops["int8"].value * 1e9 * 4 * 0.5),
    ):
        part = law[metric]  # type: ignore[index]
        speed = promised * math.exp(part.boards["raspberrypi5"]["q8_0"].log + part.slope * math.log(work / 1e9))
        assert found[metric] == pytest.approx(speed / work)
    assert found["first_token"] == pytest.approx(128 / found["prefill"] * 1e3)
    assert found["memory"] == pytest.approx(LLAMA_BYTES + read)


def test_a_file_that_is_larger_than_counted_is_read_longer() -> None:
    form = quantization("Q8_0")
    assert form is not None
    counted, larger = (
        values(predictor.decoder(PI5, SMALL, "Q8_0", file_bytes=size * SMALL.file_bytes(form)))["decode"]
        for size in (1.0, 1.1)
    )
    slope = fitted.laws()["decode"].slope
    assert counted / larger == pytest.approx(1.1 ** (1 - slope))


def test_what_does_not_fit_is_read_from_storage_for_every_token() -> None:
    # 1 GB of memory, and 1.169 GB of weights beside 75 MB of runtime: the rest comes from the card.
    board = replace(PI5, ram_usable_bytes=1_000_000_000)
    found = predictor.decoder(board, SMALL, "Q8_0", prompt_tokens=600)
    missing = LLAMA_BYTES + 1.1e9 * 8.5 / 8 - 1e9
    assert values(found)["decode"] == pytest.approx(CARD_BYTES_S / missing)
    batches = math.ceil(600 / BATCH)
    assert values(found)["first_token"] == pytest.approx(max(batches * missing / CARD_BYTES_S * 1e3, 1), rel=1e-6)
    assert any("do not fit into memory" in line for line in found.why)
    low, high = found.measurements[0].interval or (0, 0)
    assert high / low >= 9


def test_the_profile_says_how_fast_storage_is() -> None:
    board = replace(PI5, ram_usable_bytes=1_000_000_000)
    card, disk = (
        values(predictor.decoder(replace(board, storage_bandwidth_bytes_s=speed), SMALL, "Q8_0"))["decode"]
        for speed in (None, 2 * CARD_BYTES_S)
    )
    assert disk == pytest.approx(2 * card)
    assert catalog.device("raspberrypi-zero2w").storage_bandwidth_bytes_s == 22e6


def test_tables_that_are_only_looked_up_may_stay_on_disk() -> None:
    layered = replace(SMALL, looked_up=3e9)
    board = replace(PI5, ram_usable_bytes=1_500_000_000)
    found = predictor.decoder(board, layered, "Q8_0")
    assert not any("do not fit" in line for line in found.why)
    assert values(found)["decode"] == pytest.approx(values(predictor.decoder(board, SMALL, "Q8_0"))["decode"])


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_board_has_predictions_and_one_without_rows_is_less_sure(board: Device) -> None:
    found = predictor.decoder(replace(board, ram_usable_bytes=8_000_000_000), SMALL, "Q4_0")
    assert {one.kind for one in found.measurements} == {"predicted"}
    for one in found.measurements:
        low, high = one.interval or (0, 0)
        assert 0 < low < one.median < high
    for metric, one in zip(("decode", "prefill"), found.measurements[:2], strict=True):
        width = (one.interval or (0, 0))[1] / one.median
        has_rows = board.name in fitted.laws()[metric].boards  # type: ignore[index]
        assert width < 1.5 if has_rows else width > 1.5
    assert len(found.why) >= 1


def test_a_board_of_your_own_is_predicted_from_its_profile() -> None:
    mine = replace(PI5, name="mine")
    found = predictor.decoder(mine, SMALL, "Q4_0")
    faster = predictor.decoder(replace(mine, bandwidth_bytes_s=2 * mine.bandwidth_bytes_s), SMALL, "Q4_0")
    assert values(faster)["decode"] == pytest.approx(2 * values(found)["decode"])
    assert any("the board's profile alone" in line for line in found.why)


def test_what_is_an_interval_is_called_one_and_what_is_rough_is_not() -> None:
    called = {one.name: one.called for one in predictor.decoder(PI5, SMALL, "Q4_0").measurements}
    assert called["decode@256"] == called["prefill@256"] == called["first_token@256"] == "90 % interval"
    assert called["memory"] == "rough range"
    # What is read from a card for every token has a guessed speed and a judged factor.
    paged = predictor.decoder(replace(PI5, ram_usable_bytes=1e8), SMALL, "Q4_0").measurements
    assert {one.called for one in paged} == {"rough range"}


@pytest.mark.parametrize(
    "wrong", [{"quantization": "int4"}, {"prompt_tokens": 0}, {"context": 0}, {"threads": -1}], ids=str
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        predictor.decoder(PI5, SMALL, **{"quantization": "Q4_0", **wrong})  # type: ignore[arg-type]
    assert caught.value.hint


def test_less_than_all_cores_are_slower_and_more_than_all_are_not_faster() -> None:
    one, four, eight = (values(predictor.decoder(PI5, SMALL, "Q4_0", threads=count)) for count in (1, 4, 8))
    assert one["decode"] < four["decode"] == eight["decode"]
    assert four["prefill"] / one["prefill"] == pytest.approx(4**0.95)


boards = st.sampled_from(BOARDS)
quants = st.sampled_from(["Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "Q5_0", "Q2_K"])


@settings(deadline=None, max_examples=60)
@given(boards, quants, st.floats(1e7, 2e10), st.floats(1.0, 20.0))
def test_more_bytes_are_never_faster_and_never_smaller(board: Device, quant: str, body: float, more: float) -> None:
    small, large = (
        values(predictor.decoder(board, replace(SMALL, body=size, active=size), quant)) for size in (body, body * more)
    )
    assert large["decode"] <= small["decode"] * (1 + 1e-9)
    assert large["prefill"] <= small["prefill"] * (1 + 1e-9)
    assert large["first_token"] >= small["first_token"] * (1 - 1e-9)
    assert large["memory"] >= small["memory"] * (1 - 1e-9)


@settings(deadline=None, max_examples=60)
@given(boards, quants, st.floats(1e7, 1e10), st.floats(1.0, 20.0))
def test_a_better_board_is_never_slower(board: Device, quant: str, body: float, more: float) -> None:
    sizes = replace(SMALL, body=body, active=body)
    better: list[Device] = [
        replace(board, bandwidth_bytes_s=board.bandwidth_bytes_s * more),
        replace(board, ram_usable_bytes=int(board.ram_usable_bytes * more)),
        replace(board, storage_bandwidth_bytes_s=(board.storage_bandwidth_bytes_s or CARD_BYTES_S) * more),
    ]
    usual = values(predictor.decoder(board, sizes, quant))
    for one in better:
        found = values(predictor.decoder(one, sizes, quant))
        assert found["decode"] >= usual["decode"] * (1 - 1e-9)
        assert found["prefill"] >= usual["prefill"] * (1 - 1e-9)


@settings(deadline=None, max_examples=30)
@given(boards, st.integers(1, 4000), st.integers(0, 4000))
def test_a_longer_prompt_never_has_its_first_token_sooner(board: Device, tokens: int, more: int) -> None:
    short, long = (
        values(predictor.decoder(board, SMALL, "Q4_0", prompt_tokens=count, kept_bytes=1e5))
        for count in (tokens, tokens + more)
    )
    assert long["first_token"] >= short["first_token"] * (1 - 1e-9)
    assert long["decode"] <= short["decode"] * (1 + 1e-9)
