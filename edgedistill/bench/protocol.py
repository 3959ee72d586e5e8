"""How a teacher and an exported file are compared: the same texts and threads, each in fresh child processes, in turn.

    round 1   teacher, exported; memory of teacher, exported
    round 2   exported, teacher; memory of exported, teacher      round 3   like round 1

Turns and rounds spread a drift of the machine over both. Intervals resample rounds first, then the samples inside
them; what a round gives one figure of (a start, the memory) is shown as a median without an interval. A contestant
whose rounds lie a tenth apart in their better half is marked unstable, and so is one whose clock never settled.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgedistill import catalog
from edgedistill.bench import measurements, taken, validity
from edgedistill.bench.machine import environment
from edgedistill.bench.measurements import Benchmark
from edgedistill.bench.rows import spread
from edgedistill.config import Request
from edgedistill.evaluate.stats import plain_ratio, ratio_interval
from edgedistill.links import local
from edgedistill.links.link import TIMEOUT_PER_ROW_S
from edgedistill.store import Output, Store, digest
from edgedistill.teachers.local import user_bytes
from edgedistill.types import Estimate, Measurement, Progress, Subject, Teacher, Workload, silent

Samples = Mapping[str, Any]
Run = Callable[[str], Samples]
"""Runs one child: "timing" or "memory" to raw samples."""

ROUNDS = 3
"""Of a build. Its question is whether a file is several times faster, which three rounds answer."""
MEMORY = ("memory_model", "memory_model_anonymous", "memory_process")
FOUND = "bench.json"
CHILD_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """What is measured, and how a child that measures it is started."""

    name: Literal["teacher", "exported"]
    title: str
    engine: str
    file_bytes: int
    run: Run


def measure(contestants: Sequence[Contestant], rounds: int, *, progress: Progress = silent) -> tuple[Subject, ...]:
    """Measures all contestants in turn on this machine.

    Raises:
        EngineCrashed: a child died; its signal and last words are in the message.
    """
    found: dict[str, dict[str, list[Samples]]] = {
        what: {contestant.name: [] for contestant in contestants} for what in ("timing", "memory")
    }
    total, done = 2 * rounds * len(contestants), 0
    for number in range(rounds):
        for what, samples in found.items():
            for contestant in contestants if number % 2 == 0 else tuple(reversed(contestants)):
                progress(done, total, f"{contestant.name}, {what}, round {number + 1} of {rounds}")
                samples[contestant.name].append(contestant.run(what))
                done += 1
    progress(total, total)
    return tuple(
        Subject(
            name=contestant.name,
            title=contestant.title,
            engine=contestant.engine,
            file_bytes=contestant.file_bytes,
            measurements=tuple(_figures(found, contestant.name)),
        )
        for contestant in contestants
    )


def _figures(found: Mapping[str, Mapping[str, Sequence[Samples]]], name: str) -> Iterator[taken.Figure]:
    """What the children of one contestant came to."""
    timing, memory = found["timing"][name], found["memory"][name]
    medians = [statistics.median(samples["latency_ms"]) for samples in timing]
    agree = validity.apart("latency", medians) <= validity.ROUNDS_WITHIN
    yield from taken.times(timing, "measured", stable=agree and all(samples["steady"] for samples in timing))
    yield from (figure for figure in taken.memory(memory, "measured") if figure.name in MEMORY)


def ratios(teacher: Subject, exported: Subject) -> dict[str, Estimate]:
    """How many times better the exported file is: latency, throughput, size, memory.

    Size is counted and memory is one value a round: both are given without a spread.
    """
    found = {"size": plain_ratio(teacher.file_bytes, exported.file_bytes)}
    for name, smaller_is_better in (("latency", True), ("throughput", False)):
        a, b = (_by_round(subject, name) for subject in (teacher, exported))
        if a is not None and b is not None:
            found[name] = ratio_interval(a, b) if smaller_is_better else ratio_interval(b, a)
    a, b = (_by_round(subject, "memory_model") for subject in (teacher, exported))
    if a is not None and b is not None and np.median(b) > 0:
        found["memory"] = plain_ratio(float(np.median(a)), float(np.median(b)))
    return found


def _by_round(subject: Subject, name: str) -> Any:
    """The samples of a measurement, [rounds, samples], or None. Every round loads once, so that counts the rounds."""
    found = {m.name: m for m in subject.measurements if isinstance(m, Measurement)}
    return np.array(found[name].values).reshape(len(found["load"].values), -1) if name in found else None


def teacher_contestant(
    folder: Path, texts: Sequence[str], workload: Workload, threads: int, max_tokens: int, *, file_bytes: int
) -> Contestant:
    """A checkpoint in PyTorch, in children of this Python.

    Args:
        file_bytes: of the teacher as its user has it, which may be in half precision; the checkpoint is in float32.
    """
    program = [sys.executable, "-m", "edgedistill.bench.teacher", folder.absolute(), "--max-tokens", max_tokens]
    return Contestant(
        name="teacher",
        title="teacher, PyTorch float32",
        engine=f"torch {version('torch')}",
        file_bytes=file_bytes,
        run=_child("the teacher", program, [], texts, workload, threads, cwd=Path.cwd()),
    )


def bundle_contestant(folder: Path, texts: Sequence[str], workload: Workload, threads: int) -> Contestant:
    """A bundle with its own runtime, as the device runs it, in children of this Python."""
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = [file for file in (folder / "model").rglob("*") if file.is_file()]
    return Contestant(
        name="exported",
        title=f"exported file, {content['model']['recipe']}",
        engine=f"{content['engine']['name']} {version(content['engine']['name'])}",
        file_bytes=sum(file.stat().st_size for file in (*files, folder / "tokenizer.json")),
        run=_child("the bundle", [sys.executable, "-m", "runtime"], ["measure"], texts, workload, threads, cwd=folder),
    )


def run_bundle(folder: Path, texts: Sequence[Any], what: str, *, threads: int = 1) -> Samples:
    """Raw samples of a bundle in a fresh process with its own runtime.

    Args:
        texts: what it answers: texts, pairs, or conversations.
        what: "timing", "memory" or "writing".

    Raises:
        EngineCrashed: the process died.
    """
    workload = catalog.workload("classification")
    program = [sys.executable, "-m", "runtime"]
    return _child("the bundle", program, ["measure"], texts, workload, threads, cwd=folder)(what)


def _child(
    name: str,
    program: Sequence[object],
    command: Sequence[str],
    texts: Sequence[Any],
    workload: Workload,
    threads: int,
    *,
    cwd: Path,
) -> Run:
    def run(what: str) -> Samples:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "texts.json"
            file.write_text(json.dumps(list(texts)), encoding="utf-8")
            argv = [*program, "--threads", threads, *command, "--texts", file, "--batch-rows", workload.batch_rows]
            out = local.run(
                [str(part) for part in [*argv, "--what", what]],
                cwd=cwd,
                environment=CHILD_ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)},
                timeout_s=max(local.TIMEOUT_S, TIMEOUT_PER_ROW_S * len(texts)),
                what=f"measuring {name} ({what}, {len(texts)} texts)",
            )
        samples: Samples = json.loads(out)
        return samples

    return run


def bench(
    teacher: Path,
    identity: str,
    given: Teacher,
    draft: Output,
    texts: Sequence[str],
    request: Request,
    threads: int,
    *,
    store: Store,
    progress: Progress = silent,
) -> tuple[Benchmark, Output]:
    """Measures the teacher against a bundle on this machine, once for each pair of them, machine and set of versions.

    Args:
        teacher: the checkpoint that answers; `identity` is its hash.
        given: the teacher as its user has it: its files are what the bundle is smaller than.
        draft: the bundle.
        texts: real rows; the workload says how many are taken, evenly spread.
        threads: of both contestants.
    """
    workload = catalog.workload(request.bench.workload)
    here = {**environment(), "threads": str(threads)}
    file_bytes = user_bytes(given)
    inputs = {
        "teacher": identity,
        "teacher_bytes": file_bytes,
        "bundle": draft.sha256,
        "workload": asdict(workload),
        "texts": digest(list(texts)),
        "max_tokens": request.data.max_tokens,
        "environment": here,
    }

    def produce(folder: Path, _: Path) -> None:
        chosen = spread(texts, workload.rows)
        contestants = (
            teacher_contestant(teacher, chosen, workload, threads, request.data.max_tokens, file_bytes=file_bytes),
            bundle_contestant(draft.path, chosen, workload, threads),
        )
        subjects = measure(contestants, ROUNDS, progress=progress)
        found = Benchmark(subjects=subjects, environment=here)
        (folder / FOUND).write_bytes(measurements.benchmark_to_json(found))

    output = store.get("bench", inputs, produce)
    return measurements.benchmark_from_json((output.path / FOUND).read_bytes()), output
