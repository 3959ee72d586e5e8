"""Files of published rows: what is read of them, what is left out and why, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistill.errors import InputError
from edgedistill.predictor import rows
from tests.predictor.conftest import row

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "has no column device, soc", id="an empty file"),
        pytest.param("device,value\nx,1\n", "has no column soc, cpu_cores_used", id="another header"),
        pytest.param(",".join(rows.COLUMNS) + "\n", "has no rows", id="a header alone"),
        pytest.param(",".join(rows.COLUMNS) + "\na,b\n", "2: it has not as many fields", id="a short row"),
        pytest.param(
            ",".join(rows.COLUMNS) + "\n" + '"a' + "," * 17 + "\n",
            "unexpected end of data",
            id="a quote without its end",
        ),
    ],
)
def test_a_file_of_another_form_is_refused_once_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        rows.read(path)
    assert said in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "fast", ""])
def test_a_value_that_is_no_speed_is_refused_with_its_line(write: Write, value: str) -> None:
    path = write([row(), row(value=value)])
    with pytest.raises(InputError, match=r"rows\.csv:3: value is .*, not a number above 0"):
        rows.read(path)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("none.csv", "binary.csv", "."):
        with pytest.raises(InputError, match="cannot be read"):
            rows.read(tmp_path / name)


def test_what_cannot_be_predicted_is_counted_with_the_reason(write: Write) -> None:
    found = rows.read(
        write([row(), row(backend="gpu"), row(quant="w4a16"), row(model="unknown"), row(metric="power"), row(model="")])
    )
    assert len(found.speeds) == 1
    assert sum(found.left_out.values()) == 4
    assert found.left_out["not on the CPU: gpu"] == 1
    assert found.left_out["quantization w4a16 is no form of llama.cpp"] == 1
    assert found.left_out["nothing says how many weights unknown has"] == 1


@pytest.mark.parametrize(
    ("changes", "judged"),
    [
        ({}, True),
        ({"runtime": "llama.cpp (llama.rn)"}, True),
        ({"runtime": "Ollama (llama.cpp)", "quant": "Ollama default (Q4_K_M)"}, True),
        ({"confidence": "B"}, False),
        ({"quant": "q2_k"}, False),
        ({"runtime": "llamafile-0.7"}, False),
        ({"runtime": "ik_llama fork"}, False),
        ({"runtime": "ExecuTorch XNNPACK", "quant": "BF16"}, False),
    ],
)
def test_rows_of_llama_cpp_with_confidence_a_and_four_bits_are_judged(
    write: Write, changes: dict[str, str], judged: bool
) -> None:
    (found,) = rows.read(write([row(**changes)])).speeds
    assert found.judged is judged


def test_ollamas_default_depends_on_its_age(write: Write) -> None:
    new, old = rows.read(
        write(
            [
                row(runtime="Ollama", quant="Ollama default"),
                row(runtime="Ollama", quant="Ollama default", runtime_version="0.1.41"),
            ]
        )
    ).speeds
    assert (new.form.kind, new.old) == ("q4_k", False)
    assert (old.form.kind, old.old) == ("q4_0", True)


@pytest.mark.parametrize(
    ("device", "soc", "board"),
    [
        ("Raspberry Pi 5 16GB (D0)", "BCM2712", "bcm2712"),
        ("Raspberry Pi 5", "", "bcm2712"),
        ("Raspberry Pi 400 4GB", "BCM2711", "bcm2711"),
        ("Raspberry Pi Zero 2", "", "bcm2710a1"),
        ("Samsung Galaxy S23 (8GB)", "Snapdragon 8 Gen 2", "snapdragon 8 gen 2"),
        ("A phone", "Qualcomm SDM765G Snapdragon 765G (Kyro 1.8GHz x 6)", "snapdragon 765g"),
        ("A phone", "MediaTek MT6899", "mt6899"),
        ("AWOW AK-10 (N100, 16GB)", "Intel N100", "intel n100"),
        ("My  Board (blue)", "", "my board"),
    ],
)
def test_boards_with_one_chip_are_one_board(device: str, soc: str, board: str) -> None:
    assert rows.board_of(device, soc) == board


def test_the_size_of_a_file_counts_what_a_token_reads(write: Write) -> None:
    # llama.cpp's buffers have the tied table of Llama-3.2-1B twice; a file once.
    q8 = 8.5 / 8
    twice, once = (1236e6 + 262.7e6) * q8 / 2**20, 1236e6 * q8 / 1e6
    for metric, value, unit in (("weights_buffers", twice, "MiB"), ("file_size", once, "MB")):
        found = rows.read(
            write([row(), row(model="Llama-3.2-1B", quant="Q8_0", metric=metric, value=value, unit=unit)])
        )
        assert found.read_bytes["llama-3.2-1b", "q8_0"] == pytest.approx(1236e6 * q8)


def test_bandwidth_and_throughput_of_a_board_are_facts_of_it(write: Write) -> None:
    copies = [
        row(device="Box", metric=name, value=value, unit="MB/s") for name, value in (("memcpy", 4), ("memset", 9))
    ]
    net = row(device="Box", model="ResNet-50", quant="int8", metric="latency_min", value=82, unit="ms")
    found = rows.read(write([row(), *copies, net]))
    assert found.memory["box"] == pytest.approx(6e6)
    assert math.isclose(found.int8["box"], 100)
