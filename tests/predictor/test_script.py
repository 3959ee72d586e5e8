"""`benchmarks/predictor.py` on invented rows that obey the law, on rows that break it, and on the published ones."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgedistill.catalog import ROOT
from tests.predictor.conftest import invented, row

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "devices" / "published_measurements.csv"
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_predictor", ROOT / "benchmarks" / "predictor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> Run:
    """Its JSON, and what it printed under "said"."""

    def ran(*arguments: object) -> dict[str, Any]:
        assert script.main([str(one) for one in arguments]) == 0
        said = capsys.readouterr().out
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        return {**found, "said": said}

    return ran


def test_rows_that_obey_the_law_are_predicted_from_other_models(run: Run, write: Callable[..., Path]) -> None:
    found = run("--rows", write(invented()))
    assert found["n"] == found["decode"]["n"] + found["prefill"]["n"] == len(invented())
    assert found["median_ape"] < 0.1
    assert found["coverage90"] > 0.85
    for title in ("| board |", "| quantization |", "| metric |", "furthest off", "left out: 0"):
        assert title in found["said"]


def test_a_board_that_is_off_the_law_of_the_others_is_found(run: Run, write: Callable[..., Path]) -> None:
    rows = [dict(one) for one in invented()]
    for one in rows:
        if one["device"] == "Odd box" and one["model"] == "beta-2b":
            one["value"] = str(float(one["value"]) / 3)
    found = run("--rows", write(rows))
    assert found["coverage90"] < run("--rows", write(invented()))["coverage90"]
    worst = found["said"].split("furthest off:\n")[1].splitlines()[0]
    assert "Odd box, beta-2b" in worst


def test_rows_are_predicted_from_another_file_and_a_model_in_both_is_left_out(
    run: Run, write: Callable[..., Path]
) -> None:
    known = write(invented(), "fit.csv")
    upper = [
        {**one, "quant": one["quant"].lower(), "runtime": "Ollama (llama.cpp)"} for one in invented(["Fast phone"])
    ]
    found = run("--rows", write(upper), "--fit", known)
    assert found["n"] == len(upper)
    assert found["median_ape"] < 0.1
    # Rows of the same models that are ten times as fast change nothing: they are never fitted on.
    wrong = [
        {**one, "value": str(10 * float(one["value"]))} if one["model"] == "beta-2b" else one for one in invented()
    ]
    ours = [one for one in upper if one["model"] == "beta-2b"]
    honest = run("--rows", write(ours), "--fit", write(wrong, "wrong.csv"))
    assert honest["median_ape"] < 0.15


def test_a_model_under_two_names_does_not_predict_itself(run: Run, write: Callable[..., Path]) -> None:
    # It is 1.3 times as fast as the law says, in both names: only its twin could tell that.
    twins = [
        {**one, "model": name, "value": str(1.3 * float(one["value"]))}
        for one in invented()
        if one["model"] == "delta-7b"
        for name in ("newcomer-3-7b", "Newcomer3-7B")
    ]
    found = run("--rows", write(twins), "--fit", write(invented() + twins, "fit.csv"))
    assert found["by_name"]["median_ape"] < 0.85 * found["median_ape"]
    assert "with only rows of the same name left out" in found["said"]


def test_a_board_that_the_fit_does_not_know_has_wide_intervals(run: Run, write: Callable[..., Path]) -> None:
    known = write(invented(["Slow board", "Fast phone"]), "fit.csv")
    rows = invented(["Odd box"])
    copies = [row(device="Odd box", metric=name, value=9000, unit="MB/s") for name in ("memcpy", "memset")]
    blind, told = (run("--rows", write(some), "--fit", known)["said"] for some in (rows, rows + copies))
    assert "nothing: any board" in blind
    assert "what one core copies and fills" in told
    width = [float(said.split("| decode |")[1].splitlines()[0].rstrip(" |").split()[-1]) for said in (blind, told)]
    assert width[0] > width[1] > 1.5
    pi = [{**one, "device": "Raspberry Pi Zero 2 W"} for one in rows]
    assert "the profile's bandwidth" in run("--rows", write(pi), "--fit", known)["said"]


def test_one_model_alone_is_predicted_from_what_boards_promise(run: Run, write: Callable[..., Path]) -> None:
    found = run("--rows", write([row(device="Raspberry Pi 5", value=9.0)]))
    assert found["n"] == 1
    assert found["coverage90"] == 1.0


def test_rows_that_nothing_can_be_said_of_are_counted(run: Run, write: Callable[..., Path]) -> None:
    found = run("--rows", write([row(backend="gpu"), row(quant="int4"), row(confidence="B"), row(quant="q2_k")]))
    assert (found["n"], found["median_ape"], found["left_out"]) == (0, None, 2)
    assert "1: not on the CPU: gpu" in found["said"]
    assert "2 other rows, which the fit does not see" in found["said"]


@pytest.mark.parametrize("text", ["", "device,value\n", "nan"])
def test_a_hostile_file_is_one_error(
    text: str, script: ModuleType, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write([row(value="nan")])
    if text != "nan":
        path.write_text(text, encoding="utf-8")
    for arguments in (["--rows", str(path)], ["--rows", str(write([row()], "good.csv")), "--fit", str(path)]):
        assert script.main(arguments) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert "Traceback" not in said.err
        assert str(path) in said.err


def test_the_constants_are_written_as_the_package_reads_them(
    script: ModuleType, run: Run, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgedistill.predictor import fitted

    monkeypatch.setattr(fitted, "FILE", tmp_path / "fitted.toml")
    rows = [{**one, "device": "Raspberry Pi 5"} for one in invented(["Fast phone"])] + invented(["Slow board"])
    run("--rows", write(rows), "--write")
    fitted.laws.cache_clear()
    try:
        law = fitted.laws()["decode"]
    finally:
        fitted.laws.cache_clear()
    # The invented Pi 5 reads 40 GB/s where its profile says 10.
    assert law.boards["raspberrypi5"]["q4_0"].log == pytest.approx(1.386, abs=0.15)
    assert list(law.boards) == ["raspberrypi5"]


def test_nothing_is_written_where_nothing_was_fitted(
    script: ModuleType, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--rows", str(write([row(confidence="B")])), "--write"]) == 2
    assert "no row gives decode" in capsys.readouterr().err


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published rows are not beside the repository")
def test_the_published_rows_are_predicted_within_15_percent_and_nine_of_ten_lie_in_their_intervals(run: Run) -> None:
    found = run("--rows", PUBLISHED)
    assert found["n"] >= 250
    for part in (found, found["decode"], found["prefill"]):
        assert part["median_ape"] <= 0.15
        assert 0.85 <= part["coverage90"] <= 0.95
