"""MLPerf LoadGen asks a real bundle, and its own log is what is reported."""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from edgedistill.bench import loadgen, protocol
from edgedistill.bundle import assemble
from edgedistill.errors import EngineCrashed, MissingExtra
from edgedistill.export.onnx import to_onnx
from edgedistill.teachers import local
from edgedistill.types import Cell, DeviceRun, Measurement, NotMeasured, Result, Taken

TEXTS = ["turn the lamp very bright", "song", "please lock my door now"] * 12
SECONDS = 0.3
needs_loadgen = pytest.mark.skipif(
    importlib.util.find_spec(loadgen.MODULE) is None, reason=f"{loadgen.PACKAGE} is not installed"
)


@pytest.fixture(scope="module")
def bundle(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    local.save(local.load(tiny_teacher, ("door", "light", "music")), folder / "checkpoint")
    (folder / "model").mkdir()
    to_onnx(folder / "checkpoint", folder / "model" / "model.onnx")
    shutil.rmtree(folder / "checkpoint")
    shutil.copy(tiny_teacher / "tokenizer.json", folder)
    assemble.copy_runtime(folder)
    model = {"file": "model/model.onnx", "labels": ["door", "light", "music"], "max_tokens": 12, "pad_id": 0}
    told = {"task": "classifier", "engine": {"name": "onnxruntime", "threads": 1}, "model": model}
    (folder / "manifest.json").write_text(json.dumps(told))
    return folder


@needs_loadgen
def test_both_scenarios_and_our_own_protocol_measure_the_same_bundle(bundle: Path) -> None:
    single = loadgen.run(bundle, TEXTS, "SingleStream", threads=1, seconds=SECONDS, queries=64)
    offline = loadgen.run(bundle, TEXTS, "Offline", threads=1, seconds=SECONDS)
    assert (single["effective_min_query_count"], single["effective_min_duration_ms"]) == (64, 1e3 * SECONDS)
    assert single["result_query_count"] >= 64
    assert offline["effective_min_sample_count"] >= len(TEXTS)
    for samples in (single, offline):
        assert samples["result_min_queries_met"] is True
        assert samples["result_validity"] in ("VALID", "INVALID")  # which one, a busy machine decides
    ours = protocol.run_bundle(bundle, TEXTS, "timing")
    assert ours["latency_ms"]
    # Nothing about noise: only that both are times of one text, and not of something else.
    ratio = single["result_50.00_percentile_latency_ns"] / 1e6 / statistics.median(ours["latency_ms"])
    assert 0.01 < ratio < 100


@needs_loadgen
def test_a_bundle_that_fails_under_loadgen_is_told_with_its_last_words(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "broken")
    (tmp_path / "broken" / "model" / "model.onnx").unlink()
    with pytest.raises(EngineCrashed, match=r"model\.onnx"):
        loadgen.run(tmp_path / "broken", TEXTS, "SingleStream", threads=1, seconds=SECONDS)


def log(**changed: Any) -> dict[str, Any]:
    return {
        "result_validity": "VALID",
        "result_min_duration_met": True,
        "result_min_queries_met": True,
        "early_stopping_met": True,
        "result_90.00_percentile_latency_ns": 2_500_000,
        "result_samples_per_second": 640.5,
        "errors": [],
        **changed,
    }


def test_what_loadgen_reports_comes_in_our_units() -> None:
    found = [loadgen.measurement(scenario, log()) for scenario in loadgen.REPORTED]
    assert [(one.name, one.unit, one.median) for one in found if isinstance(one, Measurement)] == [
        ("mlperf_single_stream_p90", "ms", 2.5),
        ("mlperf_offline", "rows/s", 640.5),
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"result_validity": "INVALID", "result_min_duration_met": False}, "less time than was asked for"),
        ({"result_validity": "INVALID", "early_stopping_met": False}, "sure of the percentile"),
        ({"errors": ["error_runtime: a clock ran backwards"]}, "a clock ran backwards"),
    ],
)
def test_what_loadgen_calls_invalid_is_no_figure(changed: dict[str, Any], said: str) -> None:
    found = loadgen.measurement("Offline", log(**changed))
    assert isinstance(found, NotMeasured)
    assert said in found.reason
    assert "640 rows/s" in found.reason


def test_what_writes_is_not_asked(tmp_path: Path) -> None:
    for engine, task in (("llama-cpp-python", "decoder"), ("onnxruntime", "text-to-text")):
        (tmp_path / "manifest.json").write_text(json.dumps({"engine": {"name": engine}, "task": task}))
        found = loadgen.mlperf(tmp_path, ["a"], threads=1)
        assert [one.name for one in found] == ["mlperf_single_stream_p90", "mlperf_offline"]
        assert all(isinstance(one, NotMeasured) and "token by token" in one.reason for one in found)


def test_without_loadgen_the_extra_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra) as caught:
        loadgen.mlperf(bundle, TEXTS, threads=1)
    assert "edgedistill[mlperf]" in str(caught.value.hint)


def result_on(*links: str) -> Result:
    runs = tuple(
        DeviceRun(
            contender="bundle",
            title="toy",
            link=link,
            kind="measured",
            engine="none",
            file_bytes=1,
            environment={},
            asked={},
            in_effect={"threads": 2},
            stable=True,
            taken=(Taken(cell=Cell(what="timing"), round=0, samples={}),),
        )
        for link in links
    )
    return Result(schema=1, version="0", created="", bundle={}, workload={}, runs=runs)


def test_its_figures_join_the_run_on_this_machine_with_that_runs_threads_and_say_their_settings(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def run(*_: Any, threads: int, **__: Any) -> dict[str, Any]:
        asked.append(threads)
        return log()

    monkeypatch.setattr(loadgen, "run", run)
    found = loadgen.added(result_on("ssh://pi@kitchen", "local"), bundle, TEXTS, seconds=7)
    assert asked == [2, 2]
    assert [len(one.measurements) for one in found.runs] == [0, 2]
    assert "7 s" in found.remarks[0]
    assert "24,576" in found.remarks[0]
    elsewhere = loadgen.added(result_on("ssh://pi@kitchen"), bundle, TEXTS)
    assert "was not measured here" in elsewhere.remarks[0]


@pytest.mark.parametrize("failure", [EngineCrashed("it died", hint="free memory"), KeyError("result_validity")])
def test_where_loadgen_fails_what_was_measured_before_stays(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def run(*_: Any, **__: Any) -> dict[str, Any]:
        raise failure

    monkeypatch.setattr(loadgen, "run", run)
    (found,) = loadgen.added(result_on("local"), bundle, TEXTS).runs
    assert found.taken
    reasons = [one.reason for one in found.measurements if isinstance(one, NotMeasured)]
    assert len(reasons) == 2
    assert all(said in reasons[0] for said in failure.args)
