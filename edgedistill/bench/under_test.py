"""A bundle as MLPerf LoadGen's system under test, in a process of its own: `python under_test.py REQUEST`.

The request is a JSON file; LoadGen writes its logs beside it:

    {"bundle": "/…", "texts": ["…", …], "threads": 1, "scenario": "SingleStream", "seconds": 10, "queries": 100,
     "batch_rows": 32}

It takes nothing but the standard library, LoadGen and the bundle's own runtime.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ENGINES = {"onnxruntime": "engine_onnx", "numpy": "engine_static"}
"""What answers in one go, by the engine that the manifest names."""
WARM_UP = 20
"""Calls that nobody times, as our own protocol makes at least."""
BATCHES = 5
MARGIN = 1.3
"""Over the fastest: where queries or samples do not last as long as they should, LoadGen calls the run invalid."""

Answer = Callable[[Sequence[Any]], Any]


def load(bundle: Path, threads: int) -> Answer:
    """What answers a list of texts, or of questions with their contexts, with the bundle's own runtime."""
    sys.path.insert(0, str(bundle))
    told = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    engine: Any = importlib.import_module(f"runtime.{ENGINES[told['engine']['name']]}")
    if told.get("task") != "reader":
        classifier: Answer = engine.Classifier(bundle, threads=threads)
        return classifier
    reader = engine.Reader(bundle, threads=threads)
    return lambda questions: [reader(*question) for question in questions]


def _seconds(answer: Answer, batch: Sequence[Any]) -> float:
    started = time.perf_counter()
    answer(batch)
    return time.perf_counter() - started


def run(request: dict[str, Any], logs: Path) -> None:
    """Lets LoadGen ask."""
    loadgen: Any = importlib.import_module("mlperf_loadgen")
    texts = [tuple(text) if isinstance(text, list) else text for text in request["texts"]]
    answer, rows = load(Path(request["bundle"]), request["threads"]), request["batch_rows"]
    singles = [[texts[number % len(texts)]] for number in range(WARM_UP)]
    single_s = min(_seconds(answer, single) for single in singles)
    batch = [texts[number % len(texts)] for number in range(rows)]
    batch_s = min(_seconds(answer, batch) for _ in range(BATCHES))

    def issue(samples: Sequence[Any]) -> None:
        # One sample at a time in SingleStream, all at once in Offline.
        for first in range(0, len(samples), rows):
            some = samples[first : first + rows]
            answer([texts[sample.index] for sample in some])
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in some])

    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, request["scenario"])
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1e3 * request["seconds"])
    settings.min_query_count = request["queries"]
    # From these it reckons how many queries, and samples at once, will last.
    settings.single_stream_expected_latency_ns = round(1e9 * single_s / MARGIN)
    settings.offline_expected_qps = MARGIN * rows / batch_s
    output = loadgen.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(logs), False
    log = loadgen.LogSettings()
    log.log_output, log.enable_trace = output, False
    system = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(len(texts), len(texts), lambda _: None, lambda _: None)  # texts are in memory
    loadgen.StartTestWithLogSettings(system, library, settings, log, "")
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    run(json.loads(file.read_text(encoding="utf-8")), file.parent)
