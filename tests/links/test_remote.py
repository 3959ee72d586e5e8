"""What a device tells is read as it is meant, and what it does not tell stays unknown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedistill.errors import EngineCrashed
from edgedistill.links import board, phone, remote
from edgedistill.links.link import parsed

NOW = 1_800_000_000.0


def test_pinned_and_free_requirements_are_read(tmp_path: Path) -> None:
    lines = ["onnxruntime==1.26.0", "# a comment", "", "numpy>=2", 'tokenizers==0.23.3; python_version > "3"', "x[y]"]
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    assert remote.pins(tmp_path) == {"onnxruntime": "1.26.0", "numpy": None, "tokenizers": "0.23.3", "x": None}


def test_a_board_that_tells_nothing_has_no_facts_but_unknown_ones() -> None:
    found = board.facts({}, None, now=NOW)
    assert {name for name, value in found.items() if value} == set()
    assert found["temperature_c"] is None


def test_what_a_board_tells_becomes_plain_units() -> None:
    lines = [
        "machine\tRaspberry Pi 5 Model B Rev 1.0",
        "release\tDebian GNU/Linux 12 (bookworm)",
        "architecture\taarch64",
        "cores\t4",
        "ram_kib\t4137484",
        "free_kib\t1000",
        "temperature\t48300",
        "temperature\t51200",
        "temperature\t",
        f"clock\t{NOW - 60:.0f}",
        "a shell's greeting",
    ]
    found = board.facts(remote.told("\r\n".join(lines)), None, now=NOW)
    assert found["machine"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert found["system"] == "Debian GNU/Linux 12 (bookworm), aarch64"
    assert (found["cores"], found["ram_bytes"], found["free_bytes"]) == (4, 4137484 * 1024, 1024000)
    assert (found["temperature_c"], found["clock_offset_s"]) == (51.2, -60.0)


def test_of_several_pythons_the_one_that_lacks_least_is_taken() -> None:
    def probe(version: list[int], **packages: str) -> str:
        return json.dumps({"version": version, "bits": 64, "packages": packages, "broken": {}})

    told = {
        "python": ["/usr/bin/python3.11", "/usr/bin/python3.12", "/usr/bin/python3"],
        "probe": [probe([3, 11, 2]), probe([3, 12, 1], numpy="2.4.6"), probe([3, 9, 2], numpy="2.4.6", engine="1")],
    }
    pins: dict[str, str | None] = {"numpy": "2.4.6", "engine": "1"}
    found = board.interpreter(told, pins)
    assert found is not None
    assert found.path == "/usr/bin/python3.12"
    assert found.lacks(pins) == ["engine 1 is not installed"]
    assert found.lacks({"numpy": "2.5.0"}) == ["numpy is 2.4.6, and the bundle needs 2.5.0"]


def test_a_python_that_says_something_else_is_left_out() -> None:
    right = json.dumps({"version": [3, 11, 2], "bits": 64, "packages": {}, "broken": {}})
    told = {"python": ["/a", "/b", "/c"], "probe": ["a greeting", '{"version": 3}', right]}
    found = board.interpreter(told, {})
    assert found is not None
    assert found.path == "/c"
    assert board.interpreter({"python": ["/a"], "probe": ["a greeting"]}, {}) is None


@pytest.mark.parametrize("out", ['{"a": 1}', 'warning: x\n{"a": 1}\nbye\n[]\n', '{"b": 2}\n{"a": 1}\n{broken}'])
def test_an_answer_is_found_between_what_engines_print(out: str) -> None:
    assert parsed(out, "the board") == {"a": 1}


@pytest.mark.parametrize(("out", "words"), [("", "nothing"), ("out of cheese\n7\n", "out of cheese")])
def test_a_program_without_an_answer_is_told_with_its_last_words(out: str, words: str) -> None:
    with pytest.raises(EngineCrashed, match=f"the board ended well and gave no answer; it said: {words}"):
        parsed(out, "the board")


def test_a_hot_board_and_a_phone_of_another_time_are_told_before_anything_is_measured() -> None:
    right = json.dumps({"version": [3, 11, 2], "bits": 64, "packages": {}, "broken": {}})
    for degrees, said in ((79, []), (85, ["it is 85 °C hot, and a board slows itself down from 80 °C on"])):
        told = {"python": ["/a"], "probe": [right], "writable": ["yes"], "temperature": [f"{degrees}000"]}
        python = board.interpreter(told, {})
        found = board.facts(told, python, now=NOW)
        listed = board.problems(told, python, found, pins={}, needed_bytes=0, by_hand="ssh pi")
        assert [one.what for one in listed] == said
    told = {"abi": [phone.ABI], "tar": ["tar"], "writable": ["yes"], "clock": ["42"], "temperature": ["470"]}
    found = phone.facts(told, {"numpy": "2"}, now=NOW)
    clock, heat = phone.problems(told, {"numpy": "2"}, found, pins={}, needed_bytes=0)
    assert "days behind" in clock.what
    assert "47 °C" in heat.what
