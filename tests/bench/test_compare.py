"""Two results of the same bundle are equal, a slowed one is worse, and what cannot be told is not called either."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistill import catalog
from edgedistill.bench import harness
from edgedistill.bench.compare import _verdict as judged
from edgedistill.bench.compare import compare, counts, regressions, says_nothing, untold
from edgedistill.bench.course import of_bundle
from edgedistill.bench.differences import Difference
from edgedistill.bench.rows import Asked
from edgedistill.types import Comparison, DeviceRun, Estimate, Result
from tests.bench.devices import Made, bundle

ROWS = Asked(texts=tuple(f"text {number}" for number in range(20)), labels=tuple(number % 2 for number in range(20)))
SHORT = replace(catalog.workload("classification"), rows=20, rounds=5, answer_rows=20, within=None)

Measure = Callable[..., Result]


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    folder = bundle(tmp_path_factory.mktemp("compare") / "made")

    def run(seed: int, *, workload: Any = SHORT, **device: Any) -> Result:
        link = Made(seed=seed, **device)
        return harness.bench(folder, [of_bundle(folder, link)], ROWS, workload, threads=1)

    return run


@pytest.fixture(scope="module")
def usual(measure: Measure) -> Result:
    return measure(0)


def verdicts(a: Result, b: Result) -> dict[str, str]:
    return {found.name: found.verdict for found in compare(a, b)}


def named(found: tuple[Comparison, ...], name: str) -> Comparison:
    (one,) = (comparison for comparison in found if comparison.name == name)
    return one


def changed(result: Result, **change: Any) -> Result:
    (run,) = result.runs
    return replace(result, runs=(replace(run, **change),))


def with_samples(run: DeviceRun, **more: Any) -> DeviceRun:
    taken = tuple(replace(one, samples=one.samples | more) if one.cell.what == "timing" else one for one in run.taken)
    return replace(run, taken=taken)


def test_two_runs_of_the_same_bundle_are_equal(measure: Measure, usual: Result) -> None:
    for seed in (1, 2, 3):
        assert set(verdicts(usual, measure(seed)).values()) == {"equal"}


def test_five_percent_more_time_is_worse_and_less_is_better(measure: Measure, usual: Result) -> None:
    slowed = measure(4, factor=1.05)
    found = compare(usual, slowed)
    latency = named(found, "latency")
    assert latency.verdict == "worse"
    assert latency.ratio is not None
    assert latency.ratio.low < 1.05 < latency.ratio.high
    assert verdicts(slowed, usual)["latency"] == "better"
    assert {one.name for one in regressions(found)} <= {"latency", "throughput"}


def test_what_there_should_be_more_of_is_worse_when_there_is_less(measure: Measure, usual: Result) -> None:
    throughput = named(compare(usual, measure(4, factor=1.15)), "throughput")
    assert throughput.verdict == "worse"
    assert throughput.ratio is not None
    assert throughput.ratio.low <= throughput.ratio.value <= throughput.ratio.high < 0.95


def test_long_and_short_texts_do_not_widen_what_is_told(usual: Result, measure: Measure) -> None:
    ratio = named(compare(usual, measure(5)), "latency").ratio
    assert ratio is not None
    assert ratio.high / ratio.low < 1.06  # the texts take 1 to 3 ms


def slowed(result: Result, share: float, by: float) -> Result:
    """Some calls of every round take longer, at random."""
    chance = np.random.default_rng(0)
    (run,) = result.runs

    def samples(one: Any) -> Any:
        if one.cell.what != "timing":
            return one
        times = np.array(one.samples["latency_ms"])
        times *= np.where(chance.random(len(times)) < share, by, 1.0)
        return replace(one, samples=one.samples | {"latency_ms": times.tolist()})

    return changed(result, taken=tuple(map(samples, run.taken)))


def test_what_holds_some_calls_up_is_no_slower_model_and_is_said(usual: Result, measure: Measure) -> None:
    """Guests of the same host are in no counter: a third of the calls take a tenth longer, and the others do not."""
    latency = named(compare(usual, slowed(measure(1), 0.35, 1.15)), "latency")
    assert latency.ratio is not None
    assert latency.ratio.low < 1 < latency.ratio.high
    assert latency.verdict == "equal"
    assert "p50 itself is × 1.0" in latency.note
    assert "would have been told" not in latency.note


@pytest.mark.parametrize(
    ("floor", "usual", "verdict"),
    [
        (0.05, 0.05, "worse"),
        # One of its rounds was as fast as ever, so the others were late.
        (0.0, 0.05, "equal"),
        (-0.05, 0.05, "equal"),
        # Few calls of the other one were faster than ever.
        (0.05, 0.0, "not comparable"),
    ],
)
def test_worse_needs_the_fastest_round_and_the_usual_calls(floor: float, usual: float, verdict: str) -> None:
    interval = Estimate(value=0.06, low=0.04, high=0.08)
    found = Difference(interval=interval, raw=0.06, floor=floor, usual=usual, middle=0.06)
    assert judged(found, 0.02)[0] == verdict
    turned = Estimate(value=-0.06, low=-0.08, high=-0.04)
    found = Difference(interval=turned, raw=-0.06, floor=-floor, usual=-usual, middle=-0.06)
    assert judged(found, 0.02)[0] == verdict.replace("worse", "better")


def test_what_differs_over_the_reference_alone_is_no_slower_bundle() -> None:
    """The machine is 4 % faster, and a bundle that waits for memory is as fast as before."""
    found = Difference(interval=Estimate(value=0.04, low=0.03, high=0.05), raw=0.0, floor=0.04, usual=0.04, middle=0.04)
    assert judged(found, 0.02)[0] == "equal"


@pytest.mark.parametrize(("share", "factor"), [(0.6, 1.5), (0.9, 1.09)])
def test_what_slows_most_calls_is_not_called_equal(measure: Measure, share: float, factor: float) -> None:
    """Other programs or the bundle: nobody can tell, and whoever asks strictly hears of it."""
    long = replace(SHORT, within=0.0001)
    first, second = (measure(seed, workload=long, passes=20) for seed in (0, 1))
    found = compare(first, slowed(second, share, factor))
    latency = named(found, "latency")
    assert latency.verdict == "not comparable"
    assert "or the bundle does" in latency.note
    assert latency in untold(found)


def test_a_clock_that_was_faster_for_some_calls_makes_no_slower_bundle(measure: Measure) -> None:
    """Ten passes, of which every text has some calls that were 8 % faster in the first result."""
    long = replace(SHORT, within=0.0001)
    first, second = (measure(seed, workload=long, passes=10) for seed in (0, 1))
    assert named(compare(slowed(first, 0.12, 0.92), second), "latency").verdict == "not comparable"
    assert named(compare(first, second), "latency").verdict == "equal"


def test_five_percent_is_found_where_many_calls_are_held_up(measure: Measure, usual: Result) -> None:
    """Every fourth call of both takes up to a third longer, and every third round is a tenth slower."""
    chance = np.random.default_rng(0)

    def disturbed(result: Result) -> Result:
        (run,) = result.runs
        taken = []
        for one in run.taken:
            if one.cell.what == "timing":
                times = np.array(one.samples["latency_ms"])
                times *= 1 + (chance.random(len(times)) < 0.25) * chance.uniform(0, 0.33, len(times))
                times *= 1.1 if one.round % 3 == 2 else 1.0
                one = replace(one, samples=one.samples | {"latency_ms": times.tolist()})
            taken.append(one)
        return changed(result, taken=tuple(taken))

    assert verdicts(disturbed(usual), disturbed(measure(4, factor=1.05)))["latency"] == "worse"
    assert verdicts(disturbed(usual), disturbed(measure(4)))["latency"] == "equal"


def test_an_unstable_run_is_not_compared_in_time_and_still_in_memory(measure: Measure, usual: Result) -> None:
    hogged = measure(1, change={number: {"foreign_cores": 1.0} for number in range(100)})
    found = compare(usual, hogged)
    assert named(found, "latency").verdict == "not comparable"
    assert "the second run is unstable: other programs used 1.00 cores" in named(found, "latency").note
    assert named(found, "memory_model").verdict == "equal"
    assert named(found, "accuracy").verdict == "equal"
    assert regressions(found) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"environment": {"machine": "another"}}, "not the same machine: made up, then another"),
        ({"engine": "onnxruntime 1.27.0"}, "not the same engine"),
        ({"in_effect": {"threads": 4}}, "not the same threads: 1, then 4"),
        ({"kind": "emulated"}, "not the same kind"),
    ],
)
def test_what_is_not_the_same_is_named(usual: Result, change: dict[str, Any], said: str) -> None:
    found = compare(usual, changed(usual, **change))
    assert said in named(found, "latency").note
    assert {one.verdict for one in found if one.name not in ("size", "accuracy")} == {"not comparable"}


def test_other_texts_are_not_compared(usual: Result) -> None:
    other = replace(usual, workload={**usual.workload, "texts_sha256": "0"})
    assert named(compare(usual, other), "latency").note.startswith("other texts")
    assert named(compare(usual, other), "accuracy").verdict == "not comparable"


def test_a_device_of_one_result_alone_is_said(usual: Result) -> None:
    there = changed(usual, link="ssh://a")
    assert [one.verdict for one in compare(usual, there)] == ["not comparable"] * 2


def test_answers_that_are_less_right_are_worse_row_by_row(measure: Measure, usual: Result) -> None:
    assert verdicts(usual, measure(1, wrong=10))["accuracy"] == "worse"
    assert verdicts(measure(1, wrong=10), usual)["accuracy"] == "better"


def test_a_larger_file_and_more_memory_are_worse(usual: Result) -> None:
    (run,) = usual.runs
    more = tuple(
        replace(one, values=tuple(1.2 * value for value in one.values)) if one.name == "memory_process" else one  # type: ignore[union-attr, call-arg]
        for one in run.measurements
    )
    found = verdicts(usual, changed(usual, measurements=more, file_bytes=6))
    assert found["size"] == found["memory_process"] == "worse"
    assert found["memory_model"] == "equal"


@pytest.mark.parametrize(
    ("machine", "factor", "verdict"),
    [(1.0, 1.05, "worse"), (1.04, 1.05, "equal"), (1.08, 1.1, "not comparable"), (0.9, 1.0, "not comparable")],
)
def test_a_machine_that_is_slower_itself_is_allowed_for(
    measure: Measure, usual: Result, machine: float, factor: float, verdict: str
) -> None:
    chance = random.Random(0)
    before = replace(usual, runs=(with_samples(usual.runs[0], reference_ms=[1 + chance.random(), 1.0, 1.3]),))
    later = measure(6, factor=factor)
    after = replace(later, runs=(with_samples(later.runs[0], reference_ms=[machine, 2 * machine]),))
    found = named(compare(before, after), "latency")
    assert found.verdict == verdict
    if verdict == "not comparable":
        assert "the machine itself was" in found.note


def test_what_has_no_reference_has_a_wider_bound(measure: Measure, usual: Result) -> None:
    """Nobody knows whether the machine of a page was 5 % slower itself."""

    def silent(result: Result) -> Result:
        return replace(result, runs=(with_samples(result.runs[0], reference_ms=None),))

    assert named(compare(silent(usual), silent(measure(4, factor=1.05))), "latency").verdict == "equal"
    assert named(compare(silent(usual), silent(measure(4, factor=1.15))), "latency").verdict == "worse"


def test_a_round_that_did_not_get_through_its_texts_is_not_compared(usual: Result) -> None:
    short = replace(usual, runs=(with_samples(usual.runs[0], latency_ms=[1.0] * 19),))
    for pair in ((usual, short), (short, usual)):
        latency = named(compare(*pair), "latency")
        assert (latency.verdict, latency.note) == ("not comparable", "a round did not get through the 20 texts")


def test_a_slower_teacher_is_told_and_no_regression_of_the_bundle(measure: Measure, usual: Result) -> None:
    def with_teacher(bundle: Result, teacher: Result) -> Result:
        return replace(bundle, runs=(*bundle.runs, replace(teacher.runs[0], contender="teacher")))

    found = compare(with_teacher(usual, usual), with_teacher(measure(1), measure(4, factor=1.2)))
    said = {one.contender: one.verdict for one in found if one.name == "latency"}
    assert said == {"bundle": "equal", "teacher": "worse"}
    assert regressions(found) == untold(found) == ()
    assert counts(found)["worse"] == 0
    assert counts(found)["equal"] == len(found) / 2
    (gone,) = untold(compare(with_teacher(usual, usual), replace(usual, runs=(with_teacher(usual, usual).runs[1],))))
    assert (gone.name, gone.contender) == ("run", "bundle")


def test_a_figure_that_vanished_is_untold_and_the_size_alone_says_nothing(usual: Result) -> None:
    found = compare(usual, changed(usual, accuracy=None))
    assert [one.name for one in untold(found)] == ["accuracy"]
    assert not says_nothing(found)
    assert says_nothing(compare(usual, changed(usual, engine="another", accuracy=None)))


def test_too_few_rounds_say_nothing(measure: Measure, usual: Result) -> None:
    short = measure(1, workload=replace(SHORT, rounds=2))
    assert named(compare(usual, short), "latency").note == "3 rounds of both are needed"


def test_what_equal_is_worth_is_said(usual: Result, measure: Measure) -> None:
    assert "% would have been told" in named(compare(usual, measure(1)), "latency").note


def test_figures_that_neither_has_are_left_out(usual: Result) -> None:
    assert "energy" not in verdicts(usual, usual)


def test_results_survive_their_file(usual: Result, tmp_path: Path) -> None:
    from edgedistill.bench import results

    results.write(usual, tmp_path / "a.bench.json")
    assert verdicts(results.read(tmp_path / "a.bench.json"), usual).keys() == verdicts(usual, usual).keys()
    assert set(verdicts(results.read(tmp_path / "a.bench.json"), usual).values()) == {"equal"}
