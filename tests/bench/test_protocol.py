"""How contestants are measured: every round of both kinds, intervals only where there are samples for one."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgedistill.bench import machine, protocol
from edgedistill.bench.protocol import Contestant, measure, ratios
from edgedistill.bench.rows import spread
from edgedistill.config import Request
from edgedistill.links import local
from edgedistill.links.link import TIMEOUT_PER_ROW_S
from edgedistill.store import Output, Store, hashes
from edgedistill.teachers.local import find, user_bytes
from edgedistill.types import Measurement, NotMeasured, Subject


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


class Machine:
    """Stands in for the child processes: what a contestant would have printed, slower with every round."""

    def __init__(self, factor: float = 1.0, *, tells: bool = True) -> None:
        self.factor = factor
        self.tells = tells
        self.asked: list[str] = []

    def __call__(self, what: str) -> dict[str, Any]:
        self.asked.append(what)
        size = self.factor * (1 + 0.01 * self.asked.count(what))
        if what == "memory":
            part = {"rss": int(1e6 * size), "anonymous": int(5e5 * size)} if self.tells else None
            return {"engine": part, "model": part, "process": part}
        return {
            "steady": True,
            "latency_ms": [size * (1 + 0.001 * number) for number in range(20)],
            "throughput_rows_s": [1000 / size] * 5,
            "cold_start_ms": 300 * size if self.tells else None,
            "load_ms": 200 * size,
            "first_answer_ms": 2 * size,
        }


def contestant(name: Any, run: Machine, file_bytes: int = 100) -> Contestant:
    return Contestant(name=name, title=name, engine="none", file_bytes=file_bytes, run=run)


def subjects(rounds: int, *, tells: bool = True) -> tuple[Subject, ...]:
    slow, fast = Machine(10, tells=tells), Machine(1, tells=tells)
    return measure([contestant("teacher", slow, 1000), contestant("exported", fast)], rounds)


def found(subject: Subject, name: str) -> Measurement:
    (measurement,) = (m for m in subject.measurements if m.name == name)
    assert isinstance(measurement, Measurement)
    return measurement


def test_times_and_memory_are_taken_in_every_round() -> None:
    slow = Machine()
    steps: list[tuple[int, int]] = []
    measure([contestant("teacher", slow)], 3, progress=lambda done, total, note="": steps.append((done, total)))
    assert slow.asked == ["timing", "memory"] * 3
    assert steps == [(done, 6) for done in range(7)]


@pytest.mark.parametrize("name", ["cold_start", "load", "first_answer", "memory_model", "memory_process"])
def test_one_value_a_round_makes_a_median_and_no_interval(name: str) -> None:
    teacher, _ = subjects(3)
    measurement = found(teacher, name)
    assert len(measurement.values) == 3
    assert measurement.interval is None


def test_the_interval_of_a_latency_covers_rounds_that_disagree() -> None:
    teacher, _ = subjects(3)
    latency = found(teacher, "latency")
    assert len(latency.values) == 60
    assert latency.interval is not None
    low, high = latency.interval
    medians = [statistics.median(latency.values[start : start + 20]) for start in (0, 20, 40)]
    assert high - low > 0.8 * (max(medians) - min(medians))


def test_ratios_of_samples_have_intervals_and_those_of_counts_and_single_values_have_none() -> None:
    compared = ratios(*subjects(3))
    assert compared.keys() == {"size", "latency", "throughput", "memory"}
    for name, expected in (("size", 10), ("latency", 10), ("throughput", 10), ("memory", 10)):
        assert compared[name].value == pytest.approx(expected, rel=0.01), name
        assert (compared[name].low < compared[name].high) == (name in {"latency", "throughput"}), name


def test_what_the_system_does_not_tell_is_not_measured() -> None:
    teacher, exported = subjects(1, tells=False)
    missing = {m.name: m.reason for m in teacher.measurements if isinstance(m, NotMeasured)}
    assert missing.keys() == {"cold_start", "memory_model", "memory_model_anonymous", "memory_process"}
    assert "process starts" in missing["cold_start"]
    assert "memory" in missing["memory_model"]
    assert "memory" not in ratios(teacher, exported)


def test_rows_are_taken_from_all_over() -> None:
    assert spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert spread(["a", "b"], 5) == ["a", "b"]


def draft(folder: Path) -> Output:
    """As much of a bundle as is looked at before it is measured."""
    folder.mkdir()
    content = {"model": {"file": "model/model.onnx", "recipe": "int8"}, "engine": {"name": "onnxruntime"}}
    (folder / "manifest.json").write_text(json.dumps(content))
    (folder / "model").mkdir()
    (folder / "model" / "model.onnx").write_bytes(b"123")
    (folder / "model" / "model.onnx.data").write_bytes(b"4")
    (folder / "tokenizer.json").write_bytes(b"56")
    return Output(path=folder, sha256=str(hashes(folder)), cached=False, seconds=0.0)


def test_figures_carry_the_machine_they_were_taken_on_and_another_machine_measures_again(
    tiny_teacher: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, teacher = draft(tmp_path / "bundle"), find(str(tiny_teacher), ("a", "b"))
    monkeypatch.setattr(protocol, "_child", lambda name, *_, **__: Machine(10 if name == "the teacher" else 1))

    def bench() -> tuple[protocol.Benchmark, bool]:
        made, output = protocol.bench(tiny_teacher, "1", teacher, bundle, ["a", "b"], Request(), 1, store=store)
        return made, output.cached

    monkeypatch.setattr(machine, "machine", lambda: "first, 2 cores")
    first, cached = bench()
    assert not cached
    assert first.environment["machine"] == "first, 2 cores"
    assert {"system", "python", "torch", "onnxruntime", "tokenizers", "numpy", "threads"} <= first.environment.keys()
    assert bench() == (first, True)
    assert [subject.file_bytes for subject in first.subjects] == [user_bytes(teacher), 6]
    monkeypatch.setattr(machine, "machine", lambda: "second, 8 cores")
    second, cached = bench()
    assert not cached
    assert second.environment["machine"] == "second, 8 cores"


def test_a_measuring_child_is_given_time_for_its_rows_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[float, str]] = []

    def run(_: Sequence[object], *, timeout_s: float, what: str, **__: object) -> str:
        asked.append((timeout_s, what))
        return "{}"

    monkeypatch.setattr(local, "run", run)
    bundle = draft(tmp_path / "bundle").path
    workload = protocol.catalog.workload("classification")
    for count in (10, 1000):
        protocol.bundle_contestant(bundle, ["text"] * count, workload, 1).run("timing")
    assert asked == [
        (local.TIMEOUT_S, "measuring the bundle (timing, 10 texts)"),
        (1000 * TIMEOUT_PER_ROW_S, "measuring the bundle (timing, 1000 texts)"),
    ]


def test_rounds_whose_better_half_lies_apart_make_a_contestant_unstable() -> None:
    class Jumping(Machine):
        def __call__(self, what: str) -> dict[str, Any]:
            found = super().__call__(what)
            if what == "timing":
                late = 1.3 if self.asked.count(what) in self.late else 1.0
                found["latency_ms"] = [late * ms for ms in found["latency_ms"]]
            return found

        late: frozenset[int] = frozenset()

    def stable(*late: int) -> bool:
        jumping = Jumping()
        jumping.late = frozenset(late)
        (one,) = measure([contestant("exported", jumping)], 3)
        (found,) = (figure for figure in one.measurements if figure.name == "latency")
        assert isinstance(found, Measurement)
        return found.stable

    assert stable()
    assert stable(2)
    assert not stable(2, 3)
