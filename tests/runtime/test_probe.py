"""What runs on a board that is new: figures that hang together, and a reason where there is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from edgedistill.bench.board import _pack
from edgedistill.runtime import probe

WINDOW = 0.02


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    _pack(folder)
    return folder / "models"


def test_work_is_counted_by_the_clock_and_the_first_repeat_is_left_out() -> None:
    calls: list[int] = []

    def once() -> float:
        calls.append(1)
        return 1.0

    values = probe.repeated(once, 0.001)
    assert len(values) == probe.REPEATS
    assert sum(values) * 0.001 <= len(calls)  # a repeat lasts at least its window, and one more is not counted


def test_memory_is_read_on_every_core_and_not_where_it_would_stay_in_the_caches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "cache_bytes", lambda: 2**20)
    found = probe.read(WINDOW, 2, 64 * 2**20)
    assert "16 MiB on 2 cores" in found["by"]
    assert min(found["values"]) > 1e7
    assert "caches" in probe.read(WINDOW, 2, 4 * 2**20)["reason"]


@pytest.mark.parametrize("measure", [probe.f32, probe.int8])
def test_both_products_run_in_the_engine(models: Path, measure: object) -> None:
    assert callable(measure)
    found = measure(WINDOW, models)
    assert "onnxruntime" in found["by"]
    assert min(found["values"]) > 1e6


def test_the_8_bit_product_is_a_product_of_the_rounded_numbers(models: Path) -> None:
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    weights = numpy_helper.to_array(onnx.load(models / "int8.onnx").graph.initializer[0]).astype(np.float64)
    given = np.linspace(-1, 1, 4 * probe.WIDTH, dtype=np.float32).reshape(4, -1)
    (found,) = onnxruntime.InferenceSession(str(models / "int8.onnx")).run(None, {"a": given})
    expected = given @ weights * 0.01
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_without_an_engine_numpy_multiplies_and_8_bits_are_not_measured(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "numpy" in probe.f32(WINDOW, models)["by"]
    assert "onnxruntime is not installed" in probe.int8(WINDOW, models)["reason"]
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert "neither" in probe.f32(WINDOW, models)["reason"]


def test_what_fails_loses_no_other_figure(models: Path) -> None:
    assert "nowhere" in probe.told(probe.f32, WINDOW, models / "nowhere")["reason"]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="only Linux drops a file from memory when it is told to")
def test_storage_is_read_from_storage_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FILE_BYTES", 2 * 2**20)
    assert probe.storage(WINDOW, tmp_path).keys() in ({"values", "by"}, {"reason"})  # a folder may lie in memory
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: None)
    assert "keeps 100% of a file in memory" in probe.storage(WINDOW, tmp_path)["reason"]
    assert list(tmp_path.iterdir()) == []


CPUINFO = """processor\t: 0
Features\t: fp asimd asimdhp asimddp cpuid
CPU part\t: 0xd0b

processor\t: 1
Features\t: fp asimd cpuid
CPU part\t: 0xd05

Hardware\t: BCM2835
"""


def test_flags_are_those_that_all_cores_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, **_: CPUINFO if self.name == "cpuinfo" else "MemTotal: 9 kB\n")
    found = probe.facts(tmp_path)
    assert found["flags"] == ["asimd", "cpuid", "fp"]
    assert found["parts"] == ["0xd05", "0xd0b"]
    assert (found["ram_bytes"], found["available_bytes"]) == (9 * 1024, None)
