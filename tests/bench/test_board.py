"""A profile of a new board: measured where it can be, assumed where not, and never one that the catalogue refuses."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgedistill import catalog
from edgedistill.bench import board
from edgedistill.errors import EdgeDistillError, InputError, StageError
from edgedistill.links.link import Link
from edgedistill.terminal import device_tables
from tests.bench.python_link import Here

FACTS = {
    "machine": "aarch64",
    "bits": 64,
    "system": "Linux",
    "libc": "glibc 2.36",
    "python": "3.11.2",
    "title": 'Raspberry Pi 5\x1b[31m "Model B"',
    "flags": ["asimd", "asimddp", "asimdhp", "fp"],
    "parts": ["0xd0b"],
    "cores": 4,
    "ram_bytes": 4_000_000_000,
    "available_bytes": 3_100_000_000,
    "storage_bytes": 20_000_000,
    "packages": {"numpy": "2.4.6", "tokenizers": "0.23.3", "onnxruntime": None},
}


def figures(*values: float, by: str = "a product") -> dict[str, Any]:
    return {"values": [1e9 * value for value in values], "by": by}


FOUND = {
    "facts": FACTS,
    "read_bytes_s": figures(9.8, 9.9, 10.0, 10.1, 10.3),
    "f32_ops_s": figures(24, 25, 26),
    "int8_ops_s": figures(99, 100, 101),
    "storage_bytes_s": {"reason": "the system keeps 100% of a file in memory"},
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def added(found: dict[str, Any], **options: Any) -> board.Added:
    return board.add("mine", Here(json.dumps(found)), **options)


def test_this_machine_gets_a_profile_that_the_catalogue_reads(tmp_path: Path) -> None:
    made = board.add("mine", Here(), seconds=0.2)
    assert catalog.device("mine") == made.device
    assert made.path.read_text().startswith("title = ")
    assert [path.name for path in tmp_path.iterdir()] == ["devices"]
    assert made.device.gops["f32"].source.startswith("measured by edgedistill devices add, 20")
    assert made.device.gops["int8"].trust == "measured"
    assert {"onnxruntime", "numpy"} <= set(made.device.engines)
    assert made.closest.name not in ("cpu", "mine")


def test_every_value_says_how_it_came_about() -> None:
    made = added(FOUND).device
    assert made.isa == ("aarch64", "neon", "fp16", "dotprod")
    assert made.emulated_cpu == "cortex-a76"
    assert (made.cores, made.ram_usable_bytes, made.bandwidth_bytes_s) == (4, 3_100_000_000, 10e9)
    assert "median of 5, 9.8 to 10.3" in made.sources["bandwidth_bytes_s"]
    assert (made.gops["f32"].value, made.gops["int8"].value) == (25, 100)
    assert made.engines == ("onnxruntime", "llama.cpp", "onnxruntime-genai", "numpy")
    assert made.sources["engines"].startswith("assumed: there are packages")
    assert made.sources["budget"].startswith("assumed: as of raspberrypi5")
    assert made.budget["model_bytes"] == 20_000_000  # no more than is free
    assert made.title == 'Raspberry Pi 5[31m "Model B", 4 cores, 4.0 GB'
    assert "keeps 100%" in made.notes[0]
    assert made.storage_bandwidth_bytes_s is None


def test_storage_that_was_read_is_in_the_profile_where_the_predictor_looks() -> None:
    made = added(FOUND | {"storage_bytes_s": figures(0.089, 0.09, 0.091, by="reading 64 MiB in order")}).device
    assert made.storage_bandwidth_bytes_s == 90e6
    assert "reading 64 MiB in order" in made.sources["storage_bandwidth_bytes_s"]
    console = Console(width=200, file=io.StringIO())
    console.print(*device_tables(made))
    assert re.search(r"storage_bandwidth_bytes_s +0\.09 GB/s +measured by", console.file.getvalue())
    assert made.notes == ()


def test_what_the_board_calls_itself_is_kept_and_what_went_there_is_not() -> None:
    class There(Here):
        lying: Path | None = None

        def look(self, bundle: Path | None = None) -> dict[str, Any]:
            return {"machine": "Orange Pi 5"}

        def put(self, folder: Path) -> str:
            self.lying = folder
            return str(folder)

        def forget(self, folder: Path) -> None:
            assert folder == self.lying
            self.lying = None

    for said in (f"a greeting\n{json.dumps(FOUND)}\n", "nothing"):
        link = There(said)
        if said == "nothing":
            with pytest.raises(StageError):
                board.add("mine", link, force=True)
        else:
            assert board.add("mine", link).device.machine == "Orange Pi 5"
        assert link.asked
        assert link.lying is None


def test_what_is_not_measured_is_assumed_from_the_closest_board_in_proportion() -> None:
    missing = {"reason": "onnxruntime is not installed there"}
    made = added(FOUND | {"int8_ops_s": missing, "read_bytes_s": {"reason": "no room"}})
    like = made.closest
    assert like.name == "raspberrypi5"
    assert made.device.gops["int8"].trust == "assumed"
    assert made.device.gops["int8"].value == pytest.approx(25 * like.gops["int8"].value / like.gops["f32"].value)
    assert "onnxruntime is not installed there" in made.device.gops["int8"].source
    assert made.device.bandwidth_bytes_s == like.bandwidth_bytes_s
    assert made.device.sources["bandwidth_bytes_s"].startswith("assumed: as of raspberrypi5")


@pytest.mark.parametrize(
    ("facts", "isa", "core", "engines"),
    [
        ({"bits": 32, "flags": ["neon"]}, ("armv7", "neon"), None, ()),
        ({"libc": ""}, ("aarch64", "neon", "fp16", "dotprod"), "cortex-a76", ()),  # Android, or musl
        ({"flags": ["asimd"], "parts": ["0xd08"]}, ("aarch64", "neon"), "cortex-a72", None),
        ({"flags": ["asimd", "i8mm"], "parts": ["0xd4d"]}, ("aarch64", "neon", "i8mm"), None, None),
        ({"machine": "x86_64", "flags": ["avx2", "avx_vnni"]}, ("x86_64", "avx2", "avx-vnni"), None, None),
    ],
)
def test_processor_and_system_decide_what_runs_there(
    facts: dict[str, Any], isa: tuple[str, ...], core: str | None, engines: tuple[str, ...] | None
) -> None:
    packages = {"numpy": None, "onnxruntime": None}
    made = added(FOUND | {"facts": FACTS | {"packages": packages} | facts}).device
    assert (made.isa, made.emulated_cpu) == (isa, core)
    assert made.engines == (tuple(board.ENGINES) if engines is None else engines)


def test_repeats_that_lie_apart_are_told() -> None:
    (warning,) = added(FOUND | {"f32_ops_s": figures(10, 25, 26)}).warnings
    assert warning.startswith("gops.f32: the repeats lie 64% apart")


@pytest.mark.parametrize("name", ["../evil", "UPPER", "", "a" * 65, "-x", "a/b"])
def test_hostile_names_write_nothing(tmp_path: Path, name: str) -> None:
    link = Here()
    with pytest.raises(InputError, match="is no name of a board"):
        board.add(name, link)
    assert (link.asked, list(tmp_path.iterdir())) == ([], [])


def test_a_profile_is_only_replaced_when_that_is_asked_for() -> None:
    added(FOUND)
    with pytest.raises(InputError, match="exists already") as caught:
        added(FOUND)
    assert "--force" in str(caught.value.hint)
    assert added(FOUND | {"f32_ops_s": figures(50)}, force=True).device.gops["f32"].value == 50
    with pytest.raises(InputError, match="comes with edgedistill"):
        board.add("pi5", Here())


@pytest.mark.parametrize("said", ["", "[]", "{}", "no Python here", json.dumps(FOUND | {"facts": {"machine": 3}})])
def test_an_answer_without_figures_is_refused_in_one_message(tmp_path: Path, said: str) -> None:
    with pytest.raises(StageError, match="no figures"):
        board.add("mine", Here(said))
    assert list(tmp_path.iterdir()) == []


def test_a_link_without_a_clock_of_its_own_is_refused() -> None:
    class Emulated(Here):
        kind = "emulated"

    class Page(Link):
        def look(self, bundle: Path | None = None) -> dict[str, Any]:
            raise AssertionError

        def measure(self, *_: Any) -> dict[str, Any]:
            raise AssertionError

    for link in (Emulated(), Page("browser", "a page")):
        with pytest.raises(EdgeDistillError, match="no clock of a board"):
            board.add("mine", link)
