"""A benchmark of several devices: what each is asked, in which order, and what one that fails leaves of the others."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgedistill import catalog
from edgedistill.bench import harness, sweep
from edgedistill.bench.compare import threads_of
from edgedistill.bench.course import of_bundle
from edgedistill.bench.rows import Asked
from edgedistill.bench.stopped import Stopped
from edgedistill.errors import InputError
from edgedistill.links.link import Link
from edgedistill.terminal.benches import result_tables
from edgedistill.types import DeviceRun, Measurement, NotMeasured, Result
from tests.bench.devices import Emulated, Made, bundle

ROWS = Asked(
    texts=tuple(f"text {number}" for number in range(40)), labels=tuple(number // 4 % 2 for number in range(40))
)
SHORT = replace(catalog.workload("classification"), rows=20, rounds=3, answer_rows=10, within=None)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return bundle(tmp_path / "made")


def run(made: Path, *links: Link, threads: int | None = 1, **changes: Any) -> Result:
    host = changes.pop("host", None)
    entrants = [of_bundle(made, link) for link in links]
    return harness.bench(made, entrants, ROWS, replace(SHORT, **changes), threads=threads, host=host)


def figure(one: DeviceRun, name: str) -> Measurement:
    (found,) = (figure for figure in one.measurements if figure.name == name)
    assert isinstance(found, Measurement), found
    return found


def missing(one: DeviceRun) -> dict[str, NotMeasured]:
    return {found.name: found for found in one.measurements if isinstance(found, NotMeasured)}


def test_rounds_go_over_all_devices_in_turn_and_back(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[str, str]] = []
    taken = Made.measure

    def measure(link: Made, folder: Path, texts: Any, cell: Any) -> Any:
        order.append((link.address, cell.what))
        return taken(link, folder, texts, cell)

    monkeypatch.setattr(Made, "measure", measure)
    run(made, Made("local"), Made("ssh://a"), rounds=2)
    assert [address for address, what in order if what == "timing"] == ["local", "ssh://a", "ssh://a", "local"]
    assert [what for _, what in order].count("answers") == 2


def test_figures_of_a_device_have_their_names_units_and_intervals(made: Path) -> None:
    (one,) = run(made, Made(change={0: {"energy_j": 8.0}})).runs
    assert one.stable, one.reasons
    units = {found.name: found.unit for found in one.measurements if isinstance(found, Measurement)}
    assert units == {
        "latency": "ms",
        "throughput": "rows/s",
        "cold_start": "ms",
        "load": "ms",
        "first_answer": "ms",
        "energy": "J",
        **dict.fromkeys(("memory_process", "memory_peak"), "bytes"),
        **{f"memory_model{part}": "bytes" for part in ("", "_anonymous", "_file", "_swap")},
    }
    latency = figure(one, "latency")
    assert latency.interval is not None
    assert latency.interval[0] < latency.median < latency.interval[1]
    assert len(latency.values) == 3 * 40  # rounds, two passes through twenty texts
    assert figure(one, "energy").values == (8.0 / 40,)
    assert figure(one, "cold_start").interval is None
    assert one.in_effect["rounds"] == 3
    assert (one.accuracy and one.accuracy.value) == 1.0


def test_what_a_device_cannot_do_is_not_asked_and_the_reason_stands_there(made: Path) -> None:
    emulated = Emulated("emulated://a72", wrong=1)
    here, there = run(made, Made(), emulated).runs
    assert {cell.what for cell, _ in emulated.asked} == {"memory", "answers"}
    for name in ("latency", "throughput", "cold_start", "energy"):
        assert missing(there)[name].reason == "emulation has the right instructions, not the right clock"
    assert figure(there, "answers_equal").values == (0.9,)
    assert figure(there, "answers_equal").kind == "emulated"
    assert (there.accuracy and there.accuracy.value) == 0.9
    assert missing(here)["answers_equal"].reason == "others are compared with the answers of this machine"


def test_the_host_answers_once_where_it_is_no_device_itself(made: Path) -> None:
    host = Made()
    result = run(made, Made("ssh://a"), Made("ssh://b", wrong=5), host=host)
    assert [cell.what for cell, _ in host.asked] == ["answers"]
    assert [figure(one, "answers_equal").median for one in result.runs] == [1.0, 0.5]


def test_a_host_that_cannot_answer_leaves_the_other_figures(made: Path) -> None:
    (one,) = run(made, Made("ssh://a"), host=Made(breaks_at=0)).runs
    assert "could not answer: the link broke" in missing(one)["answers_equal"].reason
    assert figure(one, "latency").median > 0


def stopped(made: Path, *links: Link, **changes: Any) -> Result:
    """What is left of a benchmark that one of the links ends."""
    with pytest.raises(Stopped) as stop:
        run(made, *links, **changes)
    assert stop.value.code == 130
    assert stop.value.result is not None
    return stop.value.result()


def test_of_devices_that_are_stopped_the_finished_one_is_whole(made: Path) -> None:
    """In one round the emulated one is asked for memory, then for answers, and there the other is stopped."""
    whole, one = stopped(made, Emulated("emulated://a72"), Made("ssh://a", stopped_at=2), rounds=1).runs
    assert whole.stable
    assert missing(whole)["answers_equal"].reason == "this machine was not asked"
    assert missing(whole)["latency"].reason == "emulation has the right instructions, not the right clock"
    assert one.reasons == ("the benchmark was stopped after 1 of 1 timed processes",)
    assert missing(one)["answers_equal"].reason == one.reasons[0]
    latency = figure(one, "latency")
    assert latency.median > 0
    assert not latency.stable


def test_a_device_without_a_clock_lacks_no_times_when_it_is_stopped(made: Path) -> None:
    """Memory, answers, and in the second round of memory it ends."""
    (one,) = stopped(made, Emulated("emulated://a72", stopped_at=2)).runs
    assert not one.stable
    assert one.reasons == ("the benchmark was stopped",)
    assert missing(one)["latency"].reason == "emulation has the right instructions, not the right clock"
    assert figure(one, "memory_process").median > 0


def test_a_device_whose_turn_never_came_has_no_threads_in_use(made: Path) -> None:
    first, never = stopped(made, Made("ssh://a", cores=2), Made("ssh://b", cores=2, stopped_at=4), threads=None).runs
    assert first.sweep
    assert figure(first, "latency").median > 0
    assert never.sweep == ()
    assert not never.taken


def test_a_disturbed_process_is_better_than_none_when_it_is_stopped(made: Path) -> None:
    disturbed = {"foreign_cores": 1.0}
    (one,) = stopped(made, Made(change={0: disturbed, 1: disturbed}, stopped_at=2)).runs
    assert len(one.taken) == 1
    assert one.in_effect["repeated"] == 1
    assert "other programs used 1.00 cores" in " ".join(one.reasons)
    assert figure(one, "latency").median > 0


def test_a_disturbed_process_does_not_come_back_where_the_link_broke(made: Path) -> None:
    """Round 1 is disturbed and taken again; in round 2 the link breaks, and the other device is stopped."""
    broke = Made("ssh://a", change={0: {"foreign_cores": 1.0}}, breaks_at=4)
    first, _ = stopped(made, broke, Made("ssh://b", stopped_at=4)).runs
    assert {one.cell.what for one in first.taken} == {"memory", "answers"}
    assert isinstance(missing(first)["latency"], NotMeasured)


def test_a_stop_while_the_host_answers_loses_nothing(made: Path) -> None:
    (one,) = stopped(made, Made("ssh://a"), host=Made(stopped_at=0)).runs
    assert one.stable
    assert figure(one, "latency").median > 0
    assert missing(one)["answers_equal"].reason == "this machine was not asked"


@pytest.mark.parametrize("breaks_at", [0, 1, 4])
def test_a_link_that_breaks_while_it_is_timed_has_no_times_and_the_others_go_on(made: Path, breaks_at: int) -> None:
    good, broken = run(made, Made(), Made("ssh://a", cores=2, breaks_at=breaks_at), threads=None).runs
    assert good.stable
    assert figure(good, "latency").median > 0
    assert not broken.stable
    assert broken.taken == broken.sweep == ()
    gone = missing(broken)
    assert {found.reason for found in gone.values()} == {"the link broke"}
    assert {found.remedy for found in gone.values()} == {"plug it in"}
    assert {found.name for found in good.measurements} <= gone.keys()


@pytest.mark.parametrize(
    ("breaks_at", "kept"), [(1, {"timing"}), (2, {"timing", "memory"}), (3, {"memory", "answers"})]
)
def test_what_was_finished_before_a_link_broke_is_kept(made: Path, breaks_at: int, kept: set[str]) -> None:
    (one,) = run(made, Made(breaks_at=breaks_at)).runs  # timing, memory, answers, timing …
    assert {taken.cell.what for taken in one.taken} == kept
    assert (one.stable, one.reasons[0]) == (False, "the link broke")
    for name, what in (("latency", "timing"), ("memory_model", "memory")):
        assert (name in missing(one)) == (what not in kept)
    assert all(
        found.remedy == "plug it in" for name, found in missing(one).items() if name in ("latency", "memory_model")
    )
    assert (one.accuracy is None) == ("answers" not in kept)


def test_the_threads_that_there_were_are_in_effect_and_fewer_are_a_reason(made: Path) -> None:
    alone: dict[str, Any] = {"threads": 1}
    (one,) = run(made, Made("browser://", change=dict.fromkeys(range(9), alone)), threads=4).runs
    assert (one.asked["threads"], one.in_effect["threads"]) == (4, 1)
    assert one.reasons == ("it ran with 1 of 4 threads",)
    assert not one.stable


def test_each_contender_has_the_threads_that_are_asked_of_it(made: Path) -> None:
    entrants = [of_bundle(made, Made()), of_bundle(made, Made(), contender="teacher")]
    asked: Any = {("local", "bundle"): 1, ("local", "teacher"): 4}
    found = harness.bench(made, entrants, ROWS, SHORT, threads=asked)
    assert threads_of(found) == asked
    assert [one.in_effect["threads"] for one in found.runs] == [1, 4]


def test_a_sweep_tries_all_numbers_and_takes_the_fewest_that_are_as_good(made: Path) -> None:
    link = Made(cores=6)
    (one,) = run(made, link, threads=None).runs
    assert [point["threads"] for point in one.sweep] == [1, 2, 4, 6]
    assert one.asked["threads"] is None
    assert {cell.threads for cell, _ in link.asked[8:]} == {one.in_effect["threads"]}
    assert one.in_effect["threads"] == sweep.choose(one.sweep) > 1


@pytest.mark.parametrize(
    ("cores", "tried"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 4)), (12, (1, 2, 4, 8, 12))]
)
def test_numbers_of_threads_are_powers_of_two_and_all_cores(cores: int, tried: tuple[int, ...]) -> None:
    assert sweep.counts(cores) == tried


def point(threads: int, name: str, low: float, high: float) -> dict[str, float]:
    return {"threads": threads, name: (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("name", "bounds", "chosen"),
    [
        ("latency_ms", [(9, 11), (5, 6), (4, 5.5), (4.8, 7)], 2),
        ("latency_ms", [(9, 11), (5, 6), (4, 4.5), (4.8, 7)], 4),
        ("decode_tokens_s", [(9, 11), (5, 6), (4, 5.5), (4.8, 7)], 1),
        ("decode_tokens_s", [(4, 5), (8, 10), (9.5, 11), (3, 4)], 2),
    ],
)
def test_of_equally_good_numbers_the_smallest_is_taken(name: str, bounds: list[Any], chosen: int) -> None:
    assert sweep.choose([point(2**i, name, *ends) for i, ends in enumerate(bounds)]) == chosen


def test_a_disturbed_process_is_taken_again_and_a_noisy_machine_is_called_unstable(made: Path) -> None:
    load: dict[str, Any] = {"foreign_cores": 0.9}
    link = Made(change={1: load})
    (once,) = run(made, link).runs
    assert once.stable
    assert (once.in_effect["repeated"], link.timed) == (1, 4)
    link = Made(change=dict.fromkeys(range(100), load))
    (always,) = run(made, link).runs
    assert not always.stable
    assert link.timed == 3 + harness.REPEATS
    assert "other programs used 0.90 cores" in always.reasons[0]
    assert not figure(always, "latency").stable
    assert figure(always, "memory_model").stable


def test_disturbed_processes_are_left_out_where_enough_are_not(made: Path) -> None:
    load: dict[str, Any] = {"foreign_cores": 0.9}
    often = dict.fromkeys(range(harness.REPEATS + 2), load)  # the last two are kept: nothing is taken again by then
    (one,) = run(made, Made(change=often), within=0.02).runs
    assert one.stable
    assert one.in_effect["rounds"] == 3
    assert one.in_effect["repeated"] == harness.REPEATS + 2
    assert all(taken.samples.get("foreign_cores", 0) < 0.1 for taken in one.taken)


def test_what_will_not_pass_is_not_tried_again(made: Path) -> None:
    held = {"conditions": [{"throttled": []}, {"throttled": ["under-voltage"]}], "steady": False}
    link = Made(change=dict.fromkeys(range(100), held))
    (one,) = run(made, link).runs
    assert link.timed == 3
    assert any("under-voltage" in reason for reason in one.reasons)


def test_rounds_are_added_while_the_median_is_not_known_as_closely_as_asked(made: Path) -> None:
    assert run(made, Made(), within=0.2).runs[0].in_effect["rounds"] == 3
    assert run(made, Made(), within=0.0001).runs[0].in_effect["rounds"] == 3 * harness.MOST_ROUNDS


def test_a_model_that_writes_has_figures_for_every_length_of_prompt(tmp_path: Path) -> None:
    made = bundle(tmp_path / "made", engine="llama-cpp-python", task="decoder")
    (one,) = run(made, Made("ssh://a"), prompt_tokens=(16, 64), new_tokens=8).runs
    for length in (16, 64):
        assert figure(one, f"first_token@{length}").median == length / 2
        assert figure(one, f"prefill@{length}").unit == figure(one, f"decode@{length}").unit == "tokens/s"
        assert figure(one, f"inter_token@{length}").median == 20
    assert figure(one, "energy").median == 5  # three answers of each of two lengths share 30 J
    assert "token by token" in missing(one)["answers_equal"].reason
    assert "edgedistill evaluate" in missing(one)["accuracy"].reason
    names = {found.name for found in one.measurements}
    (failed,) = run(made, Made("ssh://a", breaks_at=2), prompt_tokens=(16, 64), new_tokens=8).runs
    assert {found.name for found in failed.measurements} == names


def test_a_readers_accuracy_is_its_token_f1_and_is_called_so(tmp_path: Path) -> None:
    class Reader(Made):
        def measure(self, bundle: Path, texts: Any, cell: Any) -> Any:
            found = super().measure(bundle, texts, cell)
            return {"spans": [[3, 10, 0.9] for _ in texts]} if cell.what == "answers" else found

    made = bundle(tmp_path / "made", task="reader")
    asked = Asked(texts=(("where", "in red box"),) * 9, references=("the red box",) * 5 + ("red",) * 4)
    result = harness.bench(made, [of_bundle(made, Reader())], asked, SHORT, threads=1)
    assert result.workload["metric"] == "token_f1"
    accuracy = result.runs[0].accuracy
    assert accuracy is not None
    assert 2 / 3 < accuracy.value < 1
    console = Console(width=80, file=io.StringIO())
    with console.capture() as said:
        for part in result_tables(result):
            console.print(part)
    assert "token f1" in said.get()
    assert "accuracy" not in said.get()


def test_a_prompt_that_does_not_fit_says_so_and_the_others_are_measured(tmp_path: Path) -> None:
    made = bundle(tmp_path / "made", engine="llama-cpp-python", task="decoder")
    long = {"skipped": [{"prompt_tokens": 9000, "reason": "it does not fit"}]}
    link = Made("ssh://a", change=dict.fromkeys(range(9), long))
    (one,) = run(made, link, prompt_tokens=(16,), new_tokens=8).runs
    assert figure(one, "decode@16").median > 0
    assert missing(one)["decode@9000"].reason == "it does not fit"


def test_what_a_page_cannot_know_is_not_measured(made: Path) -> None:
    unknown: dict[str, Any] = dict.fromkeys(("cold_start_ms", "throughput_rows_s", "foreign_cores", "waited_share"))
    unknown |= {"conditions": [None, None], "reference_ms": None}
    (one,) = run(made, Made("browser://", change=dict.fromkeys(range(9), unknown))).runs
    assert one.stable
    assert missing(one).keys() == {"throughput", "cold_start", "energy", "answers_equal"}


def test_the_result_says_what_was_measured(made: Path) -> None:
    result = run(made, Made())
    told = json.loads((made / "manifest.json").read_text())
    assert result.bundle["digest"] == told["digest"]
    assert (result.bundle["engine"], result.bundle["engine_version"]) == ("onnxruntime", "1.26.0")
    assert result.workload["texts"] == 20
    assert result.runs[0].file_bytes == 5
    assert not math.isnan(result.runs[0].measurements[0].median)  # type: ignore[union-attr]


def test_nothing_to_measure_is_said(made: Path) -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        harness.bench(made, [], ROWS, SHORT)


def test_a_bundle_of_an_older_version_is_refused(made: Path) -> None:
    (made / "runtime" / "cell.py").unlink()
    with pytest.raises(InputError, match="built by an older version") as caught:
        run(made, Made())
    assert caught.value.hint == "build or export it again"
