"""A bundle measured by MLPerf LoadGen, so that its figures can be held against others of that kind.

Two scenarios on this machine, each in a fresh process: SingleStream asks one text after the other and reports the 90th
percentile of the latency; Offline hands over all texts at once and reports samples per second. MLPerf's own rules ask
for 600 seconds and, offline, 24,576 samples: runs here are shorter, so they are no submission; the settings are told.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from edgedistill.bench import under_test
from edgedistill.errors import EngineCrashed, MissingExtra
from edgedistill.links import local
from edgedistill.types import Measurement, NotMeasured, Progress, Result, silent

Scenario = Literal["SingleStream", "Offline"]
MODULE, PACKAGE = "mlperf_loadgen", "mlcommons-loadgen"
SECONDS = 10.0
QUERIES = 100
"""LoadGen's least for SingleStream; it proves a 90th percentile from 64 on."""
BATCH_ROWS = 32
LOG = "mlperf_log_detail.txt"
MARK = ":::MLLOG "
KEPT = ("effective_", "result_", "early_stopping_", "loadgen_version")
"""What of LoadGen's log is kept by name: settings in effect, and results."""
REPORTED: Mapping[Scenario, tuple[str, str, str, float]] = {
    "SingleStream": ("mlperf_single_stream_p90", "ms", "result_90.00_percentile_latency_ns", 1e-6),
    "Offline": ("mlperf_offline", "rows/s", "result_samples_per_second", 1.0),
}
"""Our name and unit, LoadGen's key, and what its value is multiplied by."""
RULES = {
    "result_min_duration_met": "it took less time than was asked for",
    "result_min_queries_met": "there were fewer queries than were asked for",
    "early_stopping_met": "there were too few queries to be sure of the percentile",
}
REMARK = (
    "MLPerf LoadGen asked for {seconds:g} s, and at least {queries} queries of a single stream; MLPerf's own rules ask "
    "for 600 s and, offline, 24,576 samples"
)

Samples = Mapping[str, Any]


def mlperf(
    bundle: Path,
    texts: Sequence[Any],
    *,
    threads: int,
    seconds: float = SECONDS,
    progress: Progress = silent,
) -> tuple[Measurement | NotMeasured, ...]:
    """Both scenarios: mlperf_single_stream_p90 (ms) and mlperf_offline (rows/s).

    Raises:
        MissingExtra: LoadGen is not installed.
    """
    reason = refused(bundle)
    found: list[Measurement | NotMeasured] = []
    for number, scenario in enumerate(REPORTED):
        progress(number, len(REPORTED), f"LoadGen, {scenario}")
        if reason is not None:
            found.append(NotMeasured(name=REPORTED[scenario][0], reason=reason))
        else:
            found.append(_measured(bundle, texts, scenario, threads=threads, seconds=seconds))
    progress(len(REPORTED), len(REPORTED))
    return tuple(found)


def _measured(
    bundle: Path, texts: Sequence[Any], scenario: Scenario, *, threads: int, seconds: float
) -> Measurement | NotMeasured:
    """One scenario's figure; where it fails, why: everything else that was measured stays."""
    try:
        return measurement(scenario, run(bundle, texts, scenario, threads=threads, seconds=seconds))
    except EngineCrashed as error:
        return NotMeasured(name=REPORTED[scenario][0], reason=error.message, remedy=error.hint)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"LoadGen's log cannot be read: {type(error).__name__}: {error}"
        return NotMeasured(name=REPORTED[scenario][0], reason=reason)


def check() -> None:
    """Raises MissingExtra when LoadGen is not installed."""
    if importlib.util.find_spec(MODULE) is None:
        raise MissingExtra(PACKAGE, extra="mlperf")


def added(
    result: Result, bundle: Path, texts: Sequence[Any], *, seconds: float = SECONDS, progress: Progress = silent
) -> Result:
    """A benchmark with LoadGen's figures in the run of the bundle on this machine, taken with that run's threads.

    Where there is no such run, a remark says so.

    Raises:
        MissingExtra: LoadGen is not installed.
    """
    ours = [run for run in result.runs if (run.contender, run.link) == ("bundle", "local") and run.taken]
    if not ours:
        said = "LoadGen was not run: it runs on this machine, and the bundle was not measured here"
        return replace(result, remarks=(*result.remarks, said))
    found = mlperf(bundle, texts, threads=int(ours[0].in_effect["threads"]), seconds=seconds, progress=progress)
    more = replace(ours[0], measurements=(*ours[0].measurements, *found))
    return replace(
        result,
        runs=tuple(more if run is ours[0] else run for run in result.runs),
        remarks=(*result.remarks, REMARK.format(seconds=seconds, queries=QUERIES)),
    )


def refused(bundle: Path) -> str | None:
    """Why LoadGen is not let at a bundle; None where it is."""
    told = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    if told["engine"]["name"] in under_test.ENGINES and told.get("task") != "text-to-text":
        return None
    return "both scenarios are of what answers in one go, and its model writes token by token"


def run(
    bundle: Path,
    texts: Sequence[Any],
    scenario: Scenario,
    *,
    threads: int,
    seconds: float = SECONDS,
    queries: int = QUERIES,
    batch_rows: int = BATCH_ROWS,
) -> Samples:
    """One scenario in a fresh process with the bundle's own runtime.

    Args:
        texts: what it answers; LoadGen draws from them with seeds of its own.
        seconds: the least that it lasts.
        queries: the fewest of SingleStream.
        batch_rows: texts a call when all are there at once.

    Returns:
        What LoadGen's log says: its settings in effect and its results, under its own names.

    Raises:
        MissingExtra: LoadGen is not installed.
        EngineCrashed: the process died.
    """
    check()
    request = {
        "bundle": str(bundle.resolve()),
        "texts": list(texts),
        "threads": threads,
        "scenario": scenario,
        "seconds": seconds,
        "queries": queries,
        "batch_rows": 1 if scenario == "SingleStream" else batch_rows,
    }
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "request.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        # -P: the folder of the program has modules of its own, and none of them is meant.
        local.run(
            [sys.executable, "-P", Path(under_test.__file__).resolve(), file],
            cwd=Path(name),
            environment={"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads)},
            timeout_s=local.TIMEOUT_S + 10 * seconds,
            what=f"LoadGen, {scenario}",
        )
        log = (Path(name) / LOG).read_text(encoding="utf-8")
    return kept(log)


def kept(log: str) -> Samples:
    """What is kept of LoadGen's log: settings in effect, results, and what it calls errors."""
    entries = [json.loads(line.removeprefix(MARK)) for line in log.splitlines() if line.startswith(MARK)]
    errors = [f"{entry['key']}: {entry['value']}" for entry in entries if entry["metadata"]["is_error"]]
    return {entry["key"]: entry["value"] for entry in entries if entry["key"].startswith(KEPT)} | {"errors": errors}


def measurement(scenario: Scenario, samples: Samples) -> Measurement | NotMeasured:
    """What LoadGen reports of a scenario; what it calls invalid is no figure, and the reason holds what it came to."""
    name, unit, key, factor = REPORTED[scenario]
    value = factor * float(samples[key])
    if samples["result_validity"] == "VALID" and not samples["errors"]:
        return Measurement(name=name, unit=unit, kind="measured", values=(value,))
    broken = [said for rule, said in RULES.items() if samples.get(rule) is False]
    why = "; ".join([*broken, *samples["errors"]]) or "it does not say why"
    return NotMeasured(
        name=name,
        reason=f"LoadGen calls the run {samples['result_validity']}: {why}; it came to {value:.3g} {unit}",
        remedy="measure again, while nothing else runs",
    )
