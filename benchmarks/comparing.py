"""Does `compare` call two runs of the same bundle equal, a bundle slowed by 5 % slower, and a run under a hog unstable?

    python benchmarks/comparing.py --bundle dist/clinc150-raspberrypi5 --data shared/data/clinc150

The slowed bundle is a copy whose runtime burns 5 % of each call's time behind it. The hog is a program that computes on
every core. Run it on a machine that does nothing else: what is disturbed is called so, and compared with nothing. The
last line is one JSON object: {"same": "equal", "slowed": "worse", "hogged_unstable": true, …}.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from edgedistill import catalog
from edgedistill.bench import harness, results, rows
from edgedistill.bench.compare import compare
from edgedistill.bench.course import of_bundle
from edgedistill.bundle import assemble, manifest
from edgedistill.links.address import connect
from edgedistill.types import Comparison, Result

ENGINES = {"onnxruntime": "engine_onnx", "numpy": "engine_static"}
SLOWED = '''

import time

_answer = Classifier.__call__


def _slowed(self, texts):
    """Burns a share of the call's own time behind it: a benchmark uses this to see whether it would notice."""
    started = time.perf_counter_ns()
    found = _answer(self, texts)
    until = time.perf_counter_ns() + {share} * (time.perf_counter_ns() - started)
    while time.perf_counter_ns() < until:
        pass
    return found


Classifier.__call__ = _slowed
'''


def main() -> None:
    """Measures, compares, and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="of a classifier")
    parser.add_argument("--data", help="rows (default: the embedded ones)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--within", type=float, default=0.02)
    parser.add_argument("--slower", type=float, default=0.05, help="share of each call that is burnt")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds between the first run and the second")
    parser.add_argument("--out", type=Path, help="keep the four results in this folder")
    options = parser.parse_args()
    if manifest.read(options.bundle).manifest["engine"]["name"] not in ENGINES:
        parser.error(f"{options.bundle} is no classifier's bundle")
    with tempfile.TemporaryDirectory() as name:
        usual, slow = (Path(name) / which for which in ("usual", "slow"))
        for folder in (usual, slow):
            shutil.copytree(options.bundle, folder)
            _renew(folder)
        _slow_down(slow, options.slower)
        first = _bench(usual, options)
        time.sleep(options.wait)
        second = _bench(usual, options)
        slowed = _bench(slow, options)
        with _hog():
            hogged = _bench(usual, options)
    found = {"first": first, "second": second, "slowed": slowed, "hogged": hogged}
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        for which, result in found.items():
            results.write(result, options.out / f"{which}{results.SUFFIX}")
    for which, result in found.items():
        print(which, "stable" if result.runs[0].stable else "; ".join(result.runs[0].reasons))
    same, slower = _latency(first, second), _latency(first, slowed)
    told = {
        "same": same.verdict,
        "slowed": slower.verdict,
        "hogged_unstable": not hogged.runs[0].stable,
        "same_ratio": _interval(same),
        "slowed_ratio": _interval(slower),
        "notes": [one.note for one in (same, slower)],
    }
    print(json.dumps(told))


def _bench(bundle: Path, options: argparse.Namespace) -> Result:
    told = manifest.verify(bundle).manifest
    asked = rows.read(told, options.data)
    workload = replace(catalog.workload(rows.workload_of(told)), rounds=options.rounds, within=options.within)
    with connect("local") as link:
        result = harness.bench(bundle, [of_bundle(bundle, link)], asked, workload, threads=1)
    if not result.runs[0].taken:
        raise SystemExit(f"the bundle could not be measured: {result.runs[0].measurements[0]}")
    return result


def _latency(a: Result, b: Result) -> Comparison:
    return next(one for one in compare(a, b) if one.name == "latency")


def _interval(found: Comparison) -> list[float] | None:
    return found.ratio and [round(value, 4) for value in (found.ratio.value, found.ratio.low, found.ratio.high)]


def _renew(folder: Path) -> None:
    """Gives a bundle of an older version the runtime of this one: what measures has to be the same in all runs."""
    shutil.rmtree(folder / "runtime")
    assemble.copy_runtime(folder)
    _seal(folder)


def _slow_down(folder: Path, share: float) -> None:
    file = folder / "runtime" / f"{ENGINES[manifest.read(folder).manifest['engine']['name']]}.py"
    file.write_text(file.read_text(encoding="utf-8") + SLOWED.replace("{share}", str(share)), encoding="utf-8")
    _seal(folder)


def _seal(folder: Path) -> None:
    told = manifest.read(folder).manifest
    manifest.seal(folder, {key: value for key, value in told.items() if key not in {"schema", "files", "digest"}})


@contextmanager
def _hog() -> Iterator[None]:
    """Keeps every core busy."""
    program = [sys.executable, "-c", "while True: pass"]
    children = [subprocess.Popen(program) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


if __name__ == "__main__":
    main()
