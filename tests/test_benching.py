"""`edgedistill bench` and `edgedistill compare`: what is printed, what is written, and the exit statuses."""

from __future__ import annotations

import io
import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgedistill import catalog
from edgedistill.bench import harness, results
from edgedistill.bench.compare import compare
from edgedistill.bench.course import of_bundle
from edgedistill.bench.rows import Asked
from edgedistill.cli import app
from edgedistill.cli.measuring import NO_TIME, SILENT
from edgedistill.errors import BudgetMissed, InputError, StageError
from edgedistill.links import address
from edgedistill.pipeline import benching
from edgedistill.report import bench_page
from edgedistill.terminal.benches import comparison_tables, result_tables
from edgedistill.types import Comparison, Contender, Measurement, Result
from tests.bench.devices import Emulated, Made, bundle
from tests.bundle.test_threads import sealed

Devices = dict[str, Made]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sealed(tmp_path / "made-cpu", "cpu")


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Devices:
    """What an address means while a test runs."""
    known: Devices = {"local": Made(cores=2), "emulated://a72": Emulated("emulated://a72")}
    monkeypatch.setattr(address, "connect", known.__getitem__)
    return known


@pytest.fixture
def unpaged(devices: Devices, monkeypatch: pytest.MonkeyPatch) -> Devices:
    """The same, without the seconds that the charts of a page take."""
    for name in ("page", "markdown"):
        monkeypatch.setattr(bench_page, name, lambda *_, **__: "a page")
    return devices


def bench(folder: Path, *arguments: str) -> None:
    app(["bench", str(folder), "--rounds", "3", "--within", "0.2", *arguments], standalone_mode=False)


def lines(parts: Any) -> list[str]:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return captured.get().splitlines()


def result(folder: Path, *links: Made) -> Result:
    workload = replace(catalog.workload("classification"), rounds=3, rows=9, answer_rows=4, within=None)
    asked = Asked(texts=tuple("abcdefghi"), labels=(0, 1) * 4 + (0,), remark="so it is")
    return harness.bench(folder, [of_bundle(folder, link) for link in links], asked, workload)


@pytest.fixture
def written(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, **device: Any) -> Path:
        results.write(result(folder, Made(**device)), tmp_path / name)
        return tmp_path / name

    return write


def test_a_result_and_its_page_lie_beside_the_bundle(
    folder: Path, devices: Devices, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(folder, "--on", "local", "--on", "emulated://a72")
    out = capsys.readouterr().out
    found = results.read(folder.parent / "made-cpu.bench.json")
    assert [run.link for run in found.runs] == ["local", "emulated://a72"]
    for suffix in ("html", "md"):
        assert (folder.parent / f"made-cpu.bench.{suffix}").stat().st_size > 1000
    for word in ("latency", "cold start", "memory peak", "threads tried", "not the right clock", "made-cpu.bench.json"):
        assert word in out


def test_json_is_the_result(folder: Path, unpaged: Devices, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(folder, "--json", "--threads", "1", "--out", str(tmp_path / "new" / "here"))
    told = json.loads(capsys.readouterr().out)
    assert told["comparisons"] == []
    assert set(told["counts"].values()) == {0}
    del told["comparisons"], told["counts"]
    assert json.loads((tmp_path / "new" / "here" / "made-cpu.bench.json").read_text()) == told


def test_a_slower_run_against_an_earlier_result_ends_with_status_3(folder: Path, unpaged: Devices) -> None:
    bench(folder, "--threads", "1")
    earlier = folder.parent / "made-cpu.bench.json"
    kept = earlier.rename(folder.parent / "earlier.bench.json")
    bench(folder, "--threads", "1", "--against", str(kept))
    unpaged["local"] = Made(factor=1.3)
    with pytest.raises(BudgetMissed, match=r"latency on local × 1\.") as caught:
        bench(folder, "--threads", "1", "--against", str(kept))
    assert caught.value.exit_code == 3
    assert earlier.is_file()  # the slower result is kept all the same


def test_a_run_against_an_earlier_result_takes_its_number_of_threads(folder: Path, unpaged: Devices) -> None:
    unpaged["local"] = Made(cores=4)
    bench(folder, "--no-write-threads")
    kept = (folder.parent / "made-cpu.bench.json").rename(folder.parent / "earlier.bench.json")
    (earlier,) = results.read(kept).runs
    bench(folder, "--against", str(kept))
    (later,) = results.read(folder.parent / "made-cpu.bench.json").runs
    assert earlier.sweep
    assert not later.sweep
    assert earlier.in_effect["threads"] == later.in_effect["threads"] > 1


def test_no_device_at_all_is_an_error_with_every_reason(folder: Path, unpaged: Devices) -> None:
    unpaged["local"] = Made(breaks_at=0)
    with pytest.raises(StageError, match="no device could be measured: local: the link broke"):
        bench(folder)


def test_what_measured_nothing_replaces_no_good_result(folder: Path, unpaged: Devices) -> None:
    bench(folder, "--threads", "1")
    good = (folder.parent / "made-cpu.bench.json").read_bytes()
    unpaged["local"] = Made(breaks_at=0)
    with pytest.raises(StageError):
        bench(folder)
    assert (folder.parent / "made-cpu.bench.json").read_bytes() == good
    assert not results.read(folder.parent / "made-cpu.failed.bench.json").runs[0].taken


def test_a_result_is_still_what_the_next_one_is_held_against(folder: Path, unpaged: Devices) -> None:
    bench(folder, "--threads", "1")
    baseline = folder.parent / "made-cpu.bench.json"
    good = baseline.read_bytes()
    unpaged["local"] = Made(factor=1.3)
    for _ in range(2):  # measuring again says the same
        with pytest.raises(BudgetMissed, match="latency on local"):
            bench(folder, "--threads", "1", "--against", str(baseline))
    assert baseline.read_bytes() == good
    assert [path for path in folder.parent.glob("made-cpu.2*.bench.json") if path.read_bytes() != good]


def test_what_was_measured_is_kept_whatever_fails_behind_it(
    folder: Path, unpaged: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("anything")

    monkeypatch.setattr(benching, "write", broken)
    with pytest.raises(RuntimeError):
        bench(folder)
    assert results.read(folder.parent / "made-cpu.bench.json").runs[0].taken


def test_a_result_that_cannot_be_read_goes_on_under_the_time_of_its_file(folder: Path, unpaged: Devices) -> None:
    file = folder.parent / "made-cpu.bench.json"
    file.write_text('{"schema": 99}')
    os.utime(file, (0, 0))
    bench(folder, "--threads", "1")
    assert (folder.parent / "made-cpu.19700101000000.bench.json").read_text() == '{"schema": 99}'
    assert results.read(file).runs[0].taken


def test_what_another_benchmark_wrote_meanwhile_goes_on(
    folder: Path, unpaged: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both end in the same second; one of them is measured as long as the other one needs."""
    bench(folder, "--threads", "1")
    file = folder.parent / "made-cpu.bench.json"
    other = file.read_bytes()

    def late(_: Path, result: Result, **__: Any) -> Result:
        file.write_bytes(other)
        return result

    file.unlink()
    monkeypatch.setattr(benching, "write", late)
    bench(folder, "--threads", "1")
    assert other in [path.read_bytes() for path in folder.parent.glob("made-cpu.2*.bench.json")]
    assert file.read_bytes() != other


def test_a_result_is_there_though_what_it_is_held_against_went_away(
    folder: Path, unpaged: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(folder, "--threads", "1")
    against = (folder.parent / "made-cpu.bench.json").rename(folder.parent / "earlier.bench.json")

    def gone(_: Path, result: Result, **__: Any) -> Result:
        against.unlink(missing_ok=True)
        return result

    monkeypatch.setattr(benching, "write", gone)
    bench(folder, "--threads", "1", "--against", str(against))
    assert results.read(folder.parent / "made-cpu.bench.json").runs[0].taken


def test_the_result_that_lies_there_goes_on_under_its_time(
    folder: Path, unpaged: Devices, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(folder, "--threads", "1")
    file = folder.parent / "made-cpu.bench.json"
    good = results.read(file)
    results.write(replace(good, created="2026-01-02T03:04:05+00:00"), file)
    old = file.read_bytes()
    bench(folder, "--threads", "1")
    kept = folder.parent / "made-cpu.20260102030405.bench.json"
    assert kept.read_bytes() == old
    assert kept.with_suffix(".html").is_file()
    assert kept.with_suffix(".md").is_file()
    assert results.read(file).created > "2026-01-02T03:04:05+00:00"
    assert str(kept) in capsys.readouterr().out


def test_one_device_of_two_that_failed_fails_the_command_when_all_is_written(folder: Path, unpaged: Devices) -> None:
    unpaged["ssh://a"] = Made("ssh://a", breaks_at=0)
    with pytest.raises(StageError, match="1 of 2 devices could not be measured: ssh://a: the link broke"):
        bench(folder, "--threads", "1", "--on", "local", "--on", "ssh://a")
    assert (folder.parent / "made-cpu.bench.html").is_file()


def test_compare_says_what_it_compares_and_that_no_time_was(
    written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    late = written("late")
    path = written("early")
    early = results.read(path)
    (run,) = early.runs
    run = replace(run, in_effect={**run.in_effect, "threads": 2})
    results.write(replace(early, runs=(run,), created="2026-01-02T03:04:05+00:00"), path)
    app(["compare", str(late), str(path)], standalone_mode=False)
    said = capsys.readouterr().out
    assert "first   made" in said
    assert "2026-01-02 03:04" in said
    assert "the second is the older one" in said
    assert "bench with --threads N" in " ".join(said.split())
    assert NO_TIME in said


def test_a_benchmark_that_is_stopped_keeps_what_it_took(
    folder: Path, unpaged: Devices, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(folder, "--threads", "1")
    good = (folder.parent / "made-cpu.bench.json").read_bytes()
    # Round 1 is timing, memory, answers; then come timing and memory of round 2, and it is stopped in round 3.
    unpaged["local"] = Made(stopped_at=5)
    with pytest.raises(SystemExit):
        bench(folder, "--threads", "1")
    assert (folder.parent / "made-cpu.bench.json").read_bytes() == good
    assert (folder.parent / "made-cpu.stopped.bench.html").is_file()
    (run,) = results.read(folder.parent / "made-cpu.stopped.bench.json").runs
    assert run.in_effect["rounds"] == 2
    assert not run.stable
    assert "the benchmark was stopped after 2 of 3 timed processes" in run.reasons
    assert str(folder.parent / "made-cpu.stopped.bench.json") in capsys.readouterr().err
    assert any(figure.name == "latency" and isinstance(figure, Measurement) for figure in run.measurements)
    unpaged["local"] = Made()
    bench(folder, "--threads", "1")  # has more than what was left
    assert not list(folder.parent.glob("*.stopped.*"))


def test_what_a_stopped_benchmark_left_goes_only_where_the_next_one_has_all_of_it(
    folder: Path, unpaged: Devices
) -> None:
    unpaged["local"] = Made(stopped_at=5)  # in round 3
    with pytest.raises(SystemExit):
        bench(folder, "--threads", "1")
    left = folder.parent / "made-cpu.stopped.bench.json"
    first = left.read_bytes()
    unpaged["local"] = Made()
    bench(folder, "--threads", "1", "--rounds", "1")
    assert left.read_bytes() == first
    unpaged["local"] = Made(stopped_at=2)
    with pytest.raises(SystemExit):
        bench(folder, "--threads", "1")
    assert first in [path.read_bytes() for path in folder.parent.glob("made-cpu.2*.stopped.bench.json")]
    unpaged["local"] = Made()
    bench(folder, "--threads", "1", "--against", str(left))
    assert left.is_file()


def test_a_stop_behind_the_rounds_leaves_the_result_with_its_page(
    folder: Path, unpaged: Devices, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(benching, "write", stop)
    with pytest.raises(SystemExit) as ended:
        bench(folder, "--threads", "1")
    assert ended.value.code == 130
    assert results.read(folder.parent / "made-cpu.bench.json").runs[0].taken
    assert (folder.parent / "made-cpu.bench.html").is_file()
    assert str(folder.parent / "made-cpu.bench.json") in capsys.readouterr().err


def test_a_stop_while_the_result_is_written_waits_until_it_is(
    folder: Path, unpaged: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench_page.page

    def stop(*told: Any, **more: Any) -> str:
        signal.raise_signal(signal.SIGINT)
        return made(*told, **more)

    monkeypatch.setattr(bench_page, "page", stop)
    bench(folder, "--threads", "1")
    assert (folder.parent / "made-cpu.bench.html").is_file()


def test_a_benchmark_that_is_stopped_before_anything_was_taken_writes_nothing(
    folder: Path, unpaged: Devices, capsys: pytest.CaptureFixture[str]
) -> None:
    unpaged["local"] = Made(stopped_at=0)
    with pytest.raises(SystemExit):
        bench(folder, "--threads", "1")
    assert not list(folder.parent.glob("*.bench.json"))
    assert "nothing was taken yet" in capsys.readouterr().err


def test_what_a_stopped_benchmark_left_outlives_one_that_measured_nothing(folder: Path, unpaged: Devices) -> None:
    unpaged["local"] = Made(stopped_at=5)
    with pytest.raises(SystemExit):
        bench(folder, "--threads", "1")
    unpaged["local"] = Made(breaks_at=0)
    with pytest.raises(StageError):
        bench(folder, "--threads", "1")
    assert results.read(folder.parent / "made-cpu.stopped.bench.json").runs[0].taken


def test_threads_are_written_from_one_device_alone(folder: Path, unpaged: Devices) -> None:
    for more in (["--threads", "2"], ["--on", "local", "--on", "emulated://a72"]):
        with pytest.raises(InputError, match="what one device finds best"):
            bench(folder, "--write-threads", *more)
    assert unpaged["local"].asked == []


def test_compare_says_equal_and_worse(written: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c = written("a"), written("b", seed=1), written("c", seed=2, factor=1.2)
    app(["compare", str(a), str(b), "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert {one["verdict"] for one in told["comparisons"]} == {"equal"}
    assert told["counts"] == {"equal": len(told["comparisons"]), "better": 0, "worse": 0, "not comparable": 0}
    with pytest.raises(BudgetMissed, match="worse than before: latency on local"):
        app(["compare", str(a), str(c)], standalone_mode=False)
    assert "worse" in capsys.readouterr().out


def test_what_cannot_be_compared_is_loud_and_fails_where_that_is_asked_for(
    written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = written("a"), written("b", address="ssh://a")
    app(["compare", str(a), str(a), "--strict"], standalone_mode=False)
    assert SILENT not in capsys.readouterr().out
    app(["compare", str(a), str(b)], standalone_mode=False)
    assert capsys.readouterr().out.splitlines()[-1] == SILENT
    with pytest.raises(BudgetMissed, match="not comparable: run on local, run on ssh://a"):
        app(["compare", str(a), str(b), "--strict"], standalone_mode=False)
    with pytest.raises(InputError, match="--strict is about a comparison"):
        app(["bench", str(a), "--strict"], standalone_mode=False)


def test_the_tables_of_a_teacher_are_named() -> None:
    both: tuple[Contender, ...] = ("bundle", "teacher")
    found = [Comparison(name="size", link="local", verdict="equal", contender=who) for who in both]
    told = " ".join(" ".join(lines(comparison_tables(found))).split())
    assert "compared on local: second" in told
    assert "compared on local, teacher: second" in told


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("cortex-a72, emulated", "cortex-a72, emulated"),
        ("board", "board, emulated"),
        ("board-" * 20, ("board-" * 20)[:69] + "…, emulated"),
    ],
)
def test_a_run_has_one_line_for_its_title_and_says_its_kind_once(title: str, said: str, folder: Path) -> None:
    found = result(folder, Emulated("emulated://cortex-a72"))
    told = lines(result_tables(replace(found, runs=(replace(found.runs[0], title=title),))))
    assert told[0].rstrip() == said
    assert "threads: " in told[1]


def test_why_the_fastest_number_of_threads_is_not_taken_is_said(folder: Path) -> None:
    (run,) = result(folder, Made()).runs
    points = [{"threads": n, "latency_ms": ms, "low": ms - 0.2, "high": ms + 0.2} for n, ms in ((1, 1.0), (2, 0.9))]
    told = lines(result_tables(replace(result(folder, Made()), runs=(replace(run, sweep=tuple(points)),))))
    assert [line.split()[0] for line in told if "taken" in line and "fewest" not in line] == ["1"]
    assert any("fewest threads" in line for line in told)
    # What the sweep chose, and not what the device had of it.
    less = replace(run, sweep=({**points[0], "latency_ms": 2.0, "low": 1.9, "high": 2.1}, points[1]))
    told = lines(result_tables(replace(result(folder, Made()), runs=(less,))))
    assert [line.split()[0] for line in told if "taken" in line] == ["2"]
    assert not any("fewest threads" in line for line in told)


def test_a_device_that_failed_says_why_and_nothing_else(folder: Path) -> None:
    told = lines(result_tables(result(folder, Made("local", breaks_at=0))))
    assert [line.strip() for line in told if line.strip()] == [
        "device local, not measured",
        "the link broke (plug it in)",
        "note: so it is",
    ]


def test_a_decoder_with_many_lengths_of_prompt_fits_into_eighty_columns(tmp_path: Path) -> None:
    made = bundle(tmp_path / "made", engine="llama-cpp-python", task="decoder")
    workload = replace(catalog.workload("conversation"), rounds=3, within=None, prompt_tokens=(16, 64, 256, 1024, 2048))
    asked = Asked(texts=tuple(f"text {number}" for number in range(8)))
    found = harness.bench(made, [of_bundle(made, Made())], asked, workload, threads=1)
    told = lines(result_tables(found))
    assert max(map(len, told)) <= 80
    for name in ("first token", "prefill", "decode", "inter token"):
        for length in workload.prompt_tokens:
            (row,) = (line for line in told if line.strip().startswith(f"{name}@{length} "))
            assert re.search(r"\d.(ms|tokens/s)", row), row


def test_tables_fit_into_eighty_columns(folder: Path) -> None:
    one = result(
        folder, Made(cores=4), Emulated("emulated://cortex-a72", wrong=1), Made("ssh://pi@kitchen", breaks_at=0)
    )
    another = result(folder, Made(cores=4, factor=1.2, change={0: {"foreign_cores": 1.0}}))
    told = lines([*result_tables(one), *result_tables(another), *comparison_tables(compare(one, another))])
    assert max(map(len, told)) <= 80
    rules = [(above, line) for above, line in pairwise(told) if set(line.strip()) == {"─"}]
    assert len(rules) > 3
    assert all(len(line.rstrip()) >= len(above.rstrip()) for above, line in rules)
    text = " ".join(" ".join(told).split())
    for part in (
        "not measured: latency",
        "plug it in",
        "note: so it is",
        "taken",
        "not comparable: run: only",
        "accuracy",
    ):
        assert part in text, part


@pytest.mark.parametrize("place", ["/proc/nowhere", "result.json"])
def test_a_place_that_cannot_hold_a_result_is_refused_before_anything_is_measured(
    place: str, folder: Path, unpaged: Devices
) -> None:
    with pytest.raises(InputError, match=r"nothing can be written into|is a folder"):
        bench(folder, "--out", place)
    assert unpaged["local"].asked == []
