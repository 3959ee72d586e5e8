"""How a teacher and an exported file are compared: the same texts and threads, each in fresh child processes, in turn.

    round 1   teacher, exported      round 2   exported, teacher      round 3   teacher, exported
    memory    teacher, exported      (in runs of their own)

Turns and rounds spread a drift of the machine over both. Samples of all rounds are pooled; a contestant whose rounds
disagree by more than a tenth is marked unstable, and so is one whose clock never settled.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgedistill import catalog
from edgedistill.bench import measurements
from edgedistill.config import Request
from edgedistill.evaluate.stats import quantile_interval, ratio_interval
from edgedistill.links import local
from edgedistill.store import Output, Store, digest
from edgedistill.types import Estimate, Measurement, NotMeasured, Progress, Subject, Workload, silent

Samples = Mapping[str, Any]
Run = Callable[[str], Samples]
"""Runs one child: "timing" or "memory" to raw samples."""

ROUNDS_AGREE_WITHIN = 0.1
TEACHER_FILES = ("model.safetensors", "tokenizer.json")
"""What the size of a teacher counts; of a bundle it is the model file and the tokenizer too."""
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
    timings: dict[str, list[Samples]] = {contestant.name: [] for contestant in contestants}
    memories: dict[str, Samples] = {}
    total, done = (rounds + 1) * len(contestants), 0
    for number in range(rounds):
        for contestant in contestants if number % 2 == 0 else tuple(reversed(contestants)):
            progress(done, total, f"{contestant.name}, round {number + 1} of {rounds}")
            timings[contestant.name].append(contestant.run("timing"))
            done += 1
    for contestant in contestants:
        progress(done, total, f"{contestant.name}, memory")
        memories[contestant.name] = contestant.run("memory")
        done += 1
    progress(total, total)
    return tuple(
        Subject(
            name=contestant.name,
            title=contestant.title,
            engine=contestant.engine,
            file_bytes=contestant.file_bytes,
            measurements=(*_times(timings[contestant.name]), *_memory(memories[contestant.name])),
        )
        for contestant in contestants
    )


def _times(rounds: Sequence[Samples]) -> tuple[Measurement | NotMeasured, ...]:
    stable = all(samples["steady"] for samples in rounds)
    return (
        _pooled("latency", "ms", [samples["latency_ms"] for samples in rounds], stable),
        _pooled("throughput", "rows/s", [samples["throughput_rows_s"] for samples in rounds], stable),
        _each("cold_start", "ms", [samples["cold_start_ms"] for samples in rounds]),
        _each("load", "ms", [samples["load_ms"] for samples in rounds]),
        _each("first_answer", "ms", [samples["first_answer_ms"] for samples in rounds]),
    )


def _pooled(name: str, unit: str, rounds: Sequence[Sequence[float]], stable: bool) -> Measurement:
    medians = [statistics.median(samples) for samples in rounds]
    agree = max(medians) - min(medians) <= ROUNDS_AGREE_WITHIN * statistics.median(medians)
    values = tuple(value for samples in rounds for value in samples)
    interval = quantile_interval(np.array(values), 0.5)
    return Measurement(
        name=name,
        unit=unit,
        kind="measured",
        values=values,
        interval=(interval.low, interval.high),
        stable=stable and agree,
    )


def _each(name: str, unit: str, values: Sequence[float | None]) -> Measurement | NotMeasured:
    known = tuple(value for value in values if value is not None)
    if not known:
        return NotMeasured(name=name, reason="this system does not say when a process was started")
    return Measurement(name=name, unit=unit, kind="measured", values=known, interval=(min(known), max(known)))


def _memory(samples: Samples) -> tuple[Measurement | NotMeasured, ...]:
    """What the model adds to its engine, and the whole process."""
    found: list[Measurement | NotMeasured] = []
    for name, key, part in (
        ("memory_model", "model", "rss"),
        ("memory_model_anonymous", "model", "anonymous"),
        ("memory_process", "process", "rss"),
    ):
        if samples[key] is None:
            found.append(NotMeasured(name=name, reason="only Linux tells a process's memory by kind"))
        else:
            found.append(Measurement(name=name, unit="bytes", kind="measured", values=(float(samples[key][part]),)))
    return tuple(found)


def ratios(teacher: Subject, exported: Subject) -> dict[str, Estimate]:
    """How many times better the exported file is: latency, throughput, size, memory."""
    size = teacher.file_bytes / exported.file_bytes
    found = {"size": Estimate(value=size, low=size, high=size)}
    for key, name, smaller_is_better in (
        ("latency", "latency", True),
        ("throughput", "throughput", False),
        ("memory", "memory_model", True),
    ):
        a, b = (_values(subject, name) for subject in (teacher, exported))
        if a is not None and b is not None:
            found[key] = ratio_interval(a, b) if smaller_is_better else ratio_interval(b, a)
    return found


def _values(subject: Subject, name: str) -> Any:
    measurement = next(m for m in subject.measurements if m.name == name)
    return None if isinstance(measurement, NotMeasured) else np.array(measurement.values)


def teacher_contestant(
    folder: Path, texts: Sequence[str], workload: Workload, threads: int, max_tokens: int
) -> Contestant:
    """A checkpoint in PyTorch, in children of this Python."""
    program = [sys.executable, "-m", "edgedistill.bench.teacher", folder.absolute(), "--max-tokens", max_tokens]
    return Contestant(
        name="teacher",
        title="teacher, PyTorch float32",
        engine=f"torch {version('torch')}",
        file_bytes=sum((folder / name).stat().st_size for name in TEACHER_FILES),
        run=_child(program, [], texts, workload, threads, cwd=Path.cwd()),
    )


def bundle_contestant(folder: Path, texts: Sequence[str], workload: Workload, threads: int) -> Contestant:
    """A bundle with its own runtime, as the device runs it, in children of this Python."""
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = (content["model"]["file"], "tokenizer.json")
    return Contestant(
        name="exported",
        title=f"exported file, {content['model']['recipe']}",
        engine=f"{content['engine']['name']} {version('onnxruntime')}",
        file_bytes=sum((folder / name).stat().st_size for name in files),
        run=_child([sys.executable, "-m", "runtime"], ["measure"], texts, workload, threads, cwd=folder),
    )


def _child(
    program: Sequence[object],
    command: Sequence[str],
    texts: Sequence[str],
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
            )
        samples: Samples = json.loads(out)
        return samples

    return run


def bench(
    teacher: Path,
    identity: str,
    draft: Output,
    texts: Sequence[str],
    request: Request,
    threads: int,
    *,
    store: Store,
    progress: Progress = silent,
) -> tuple[tuple[Subject, ...], Output]:
    """Measures the teacher against a bundle on this machine, once for each pair of them.

    Args:
        teacher: the checkpoint as its user has it; `identity` is its hash.
        draft: the bundle.
        texts: real rows; the workload says how many are taken, evenly spread.
        threads: of both contestants.
    """
    workload = catalog.workload(request.bench.workload)
    inputs = {
        "teacher": identity,
        "bundle": draft.sha256,
        "workload": asdict(workload),
        "texts": digest(list(texts)),
        "threads": threads,
        "torch": version("torch"),
    }

    def produce(folder: Path, _: Path) -> None:
        chosen = spread(texts, workload.rows)
        contestants = (
            teacher_contestant(teacher, chosen, workload, threads, request.data.max_tokens),
            bundle_contestant(draft.path, chosen, workload, threads),
        )
        found = measure(contestants, workload.rounds, progress=progress)
        (folder / FOUND).write_bytes(measurements.subjects_to_json(found))

    output = store.get("bench", inputs, produce)
    return measurements.subjects_from_json((output.path / FOUND).read_bytes()), output


def spread(texts: Sequence[str], count: int) -> list[str]:
    """`count` of the texts, evenly spread over all of them; all when there are fewer."""
    step = max(1.0, len(texts) / count)
    return [texts[int(i * step)] for i in range(min(count, len(texts)))]
