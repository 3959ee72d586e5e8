"""What a bundle is compared with: its teacher in PyTorch on this machine, and the teacher as a bundle, on any device.

Both are entrants of the same benchmark, through the same measuring loop. `ratios` says how many times better the bundle
is, on one device and of one kind: a figure of one device is never held against a figure of another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgedistill.bench.course import Entrant, of_bundle
from edgedistill.errors import InputError, PlanRefused
from edgedistill.evaluate.stats import paired, plain_ratio, ratio_interval
from edgedistill.export.fit import NUMPY_BYTES
from edgedistill.links import local
from edgedistill.links.link import Facts, Link, PythonLink
from edgedistill.predictor.decoder import LLAMA_BYTES
from edgedistill.predictor.encoder import COPIES_IN_MEMORY, ENGINE_BYTES
from edgedistill.teachers.local import TOKENIZER, config_of, labels_of
from edgedistill.types import Cell, DeviceRun, Estimate, Ratio

MANIFEST = "manifest.json"
NEVER = -1e30
"""The logit of a label that a teacher does not have."""
MEMORY = "import sys; sys.stdout.write(open('/proc/meminfo').read())"
ASK_S = 60.0


class Torch(Link):
    """A checkpoint in PyTorch on this machine, each cell in a fresh process."""

    def __init__(self, max_tokens: int) -> None:
        super().__init__("local", "this machine")
        self._max_tokens = max_tokens
        self._here = local.Local()

    def look(self, bundle: Path | None = None) -> Facts:
        """What this machine is; PyTorch is installed wherever this runs."""
        found = self._here.look()
        return {**found, "packages": {**found["packages"], "torch": version("torch")}}

    def measure(self, bundle: Path, texts: Sequence[Any], cell: Cell) -> Mapping[str, Any]:
        """Runs `python -m edgedistill.bench.teacher`; `bundle` is the folder of the checkpoint."""
        options = map(str, ("--threads", cell.threads, "--what", cell.what, "--max-tokens", self._max_tokens))
        program = ["-m", "edgedistill.bench.teacher", str(bundle.resolve()), *options]
        return self._here.ask(program, texts, cell, where=str(Path.cwd()))


class Compared(Link):
    """Another link, for a teacher: its labels in the bundle's order, and only where it fits.

    Args:
        order: for each of the bundle's labels its number among the teacher's, None where it has none; empty where
            answers are no labels.
        needs: bytes of memory, by part; empty where it is not asked.
    """

    def __init__(
        self, link: Link, *, order: Sequence[int | None] = (), needs: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(link.address, link.title)
        self.__dict__.update(kind=link.kind, can=link.can)
        self._link, self._order, self._needs = link, order, needs or {}

    def look(self, bundle: Path | None = None) -> Facts:
        """Raises PlanRefused with the arithmetic where the teacher does not fit."""
        found = self._link.look(bundle)
        free = free_bytes(self._link, found) if self._needs else None
        needed = sum(self._needs.values())
        if free is not None and needed > free:
            made_of = " + ".join(f"{name} {value / 1e6:.0f}" for name, value in self._needs.items())
            raise PlanRefused(
                f"the teacher does not fit {self._link.title}: it needs {needed / 1e6:.0f} MB ({made_of}), and "
                f"{free / 1e6:.0f} MB are free",
                hint="it is measured on this machine",
            )
        return found

    def measure(self, bundle: Path, texts: Sequence[Any], cell: Cell) -> Mapping[str, Any]:
        """The same samples; columns of logits stand for the bundle's labels, those of others come last."""
        found = self._link.measure(bundle, texts, cell)
        if not self._order or "logits" not in found:
            return found
        known = {number for number in self._order if number is not None}
        columns = [*self._order, *(number for number in range(len(found["logits"][0])) if number not in known)]
        rows = [[NEVER if at is None else row[at] for at in columns] for row in found["logits"]]
        return {**found, "logits": rows}


class Host(Link):
    """This machine, where it is no entrant: what the bundle and its exported teacher answer here, label for label.

    Args:
        bundle: whose labels' order all answers are given in.
    """

    def __init__(self, link: Link, bundle: Path) -> None:
        super().__init__(link.address, link.title)
        self._link, self._bundle = link, bundle

    def look(self, bundle: Path | None = None) -> Facts:
        """What this machine is, and whether it can run the bundle."""
        return self._link.look(bundle)

    def measure(self, bundle: Path, texts: Sequence[Any], cell: Cell) -> Mapping[str, Any]:
        """Looks first, as nobody else does."""
        self.look(bundle)
        theirs = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["model"].get("labels", ())
        return Compared(self._link, order=order(self._bundle, theirs)).measure(bundle, texts, cell)


def free_bytes(link: Link, facts: Facts) -> float | None:
    """Memory that a program may take there: what the system says is free, or else all that there is; None: not told."""
    if isinstance(link, PythonLink) and link.kind == "measured":
        out = link.python(["-c", MEMORY], where="/", files={}, timeout_s=ASK_S, threads=1)
        for line in out.splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return 1024.0 * int(rest.split()[0])
    ram = facts.get("ram_bytes")
    return None if ram is None else float(ram)


def needs(bundle: Path, file_bytes: int) -> dict[str, float]:
    """Memory that a bundle takes at least, by part, as plans reckon with it."""
    engine = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["engine"]["name"]
    if engine == "onnxruntime":
        packed = (COPIES_IN_MEMORY - 1) * file_bytes
        return {"runtime": float(ENGINE_BYTES), "weights": float(file_bytes), "packed copy": packed}
    return {"runtime": NUMPY_BYTES if engine == "numpy" else LLAMA_BYTES, "weights": float(file_bytes)}


def order(bundle: Path, theirs: Sequence[str]) -> tuple[int | None, ...]:
    """For each of a bundle's labels its number among a teacher's. Nothing where the bundle labels nothing.

    Raises:
        InputError: the teacher has none of the bundle's labels.
    """
    ours = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["model"].get("labels", ())
    found = tuple(theirs.index(label) if label in theirs else None for label in ours)
    if ours and all(number is None for number in found):
        raise InputError(
            f"the teacher labels {', '.join(theirs[:3]) or 'nothing'}, …, and the bundle {', '.join(ours[:3])}, …",
            hint="give the bundle's own teacher, with its labels named in id2label of its config.json",
        )
    return found


def teacher_contender(bundle: Path, checkpoint: Path, max_tokens: int) -> Entrant:
    """The teacher in PyTorch on this machine.

    Args:
        bundle: that it is compared with.
        checkpoint: its folder.
        max_tokens: longest text that is classified or read, in pieces.

    Raises:
        InputError: the teacher has none of the bundle's labels.
    """
    classifies = any(str(name).endswith("ForSequenceClassification") for name in _heads(checkpoint))
    labels = order(bundle, labels_of(checkpoint) if classifies else ())
    files = [*checkpoint.glob("*.safetensors"), checkpoint / TOKENIZER]
    return Entrant(
        contender="teacher",
        title="teacher, PyTorch float32",
        engine="torch",
        engine_version=version("torch"),
        file_bytes=sum(file.stat().st_size for file in files if file.is_file()),
        folder=checkpoint,
        link=Compared(Torch(max_tokens), order=labels),
    )


def exported_contender(bundle: Path, teacher: Path, link: Link) -> Entrant:
    """The teacher as a bundle, on a device of the benchmark; where it does not fit, the run says so.

    Args:
        bundle: that it is compared with.
        teacher: its bundle, from `edgedistill.pipeline.baselines`.
    """
    told = json.loads((teacher / MANIFEST).read_text(encoding="utf-8"))
    entrant = of_bundle(teacher, link, contender="teacher exported")
    there = Compared(
        link, order=order(bundle, told["model"].get("labels", ())), needs=needs(teacher, entrant.file_bytes)
    )
    return Entrant(
        contender="teacher exported",
        title=f"teacher, {told['model']['recipe']}",
        engine=entrant.engine,
        engine_version=entrant.engine_version,
        file_bytes=entrant.file_bytes,
        folder=teacher,
        link=there,
    )


def _heads(checkpoint: Path) -> Sequence[str]:
    return config_of(checkpoint).get("architectures") or ()


Name = Literal["latency", "throughput", "size", "memory", "accuracy", "decode", "prefill"]
TIMED: Sequence[Name] = ("latency", "throughput", "decode", "prefill")


def ratios(runs: Sequence[DeviceRun]) -> tuple[Ratio, ...]:
    """How many times better the bundle is than each baseline, wherever both ran, with 95 % intervals.

    Greater is better in all of them; "accuracy" is the share that is retained. Latency, throughput and the speeds of
    writing are ratios of medians over rounds and samples; accuracy is of the same rows (paired bootstrap); size is
    counted, and memory one value a round: both are given without a spread. Of a run that is unstable, no time has a
    ratio.
    """
    return tuple(
        Ratio(name=name, link=ours.link, against=theirs.contender, kind=ours.kind, estimate=estimate)
        for ours in runs
        if ours.contender == "bundle" and ours.taken
        for theirs in runs
        if theirs.contender != "bundle" and theirs.taken and (theirs.link, theirs.kind) == (ours.link, ours.kind)
        for name, estimate in _ratios(ours, theirs)
        if name not in TIMED or (ours.stable and theirs.stable)
    )


def untimed(runs: Sequence[DeviceRun]) -> tuple[str, ...]:
    """Why the times of a bundle and a baseline have no ratio, where both were taken."""
    return tuple(
        f"no time is held against the {theirs.contender} on {ours.link}: the run of the "
        + " and of the ".join(run.contender for run in (ours, theirs) if not run.stable)
        + " is unstable"
        for ours in runs
        if ours.contender == "bundle" and ours.taken
        for theirs in runs
        if theirs.contender != "bundle" and theirs.taken and (theirs.link, theirs.kind) == (ours.link, ours.kind)
        if not (ours.stable and theirs.stable)
    )


def _ratios(ours: DeviceRun, theirs: DeviceRun) -> Iterator[tuple[Name, Estimate]]:
    yield "size", plain_ratio(theirs.file_bytes, ours.file_bytes)
    if (pair := _both(ours, theirs, "timing", "latency_ms")) is not None:
        yield "latency", ratio_interval(pair[1], pair[0])
    if (pair := _both(ours, theirs, "timing", "throughput_rows_s")) is not None:
        yield "throughput", ratio_interval(pair[0], pair[1])
    speeds: tuple[tuple[Name, str], ...] = (("decode", "decode_tokens_s"), ("prefill", "prefill_tokens_s"))
    for name, key in speeds:
        if (pair := _written(ours, theirs, key)) is not None:
            yield name, ratio_interval(pair[0], pair[1])
    memory = [_median_memory(run) for run in (ours, theirs)]
    if memory[0] is not None and memory[1] is not None and memory[0] > 0:
        yield "memory", plain_ratio(memory[1], memory[0])
    right = [_right(run) for run in (ours, theirs)]
    if right[0] is not None and right[1] is not None and len(right[0]) == len(right[1]) and right[1].any():
        yield "accuracy", paired(lambda means: means[0] / means[1], [right[0], right[1]])


def _rounds(run: DeviceRun, what: str) -> list[Mapping[str, Any]]:
    return [one.samples for one in run.taken if one.cell.what == what]


def _both(ours: DeviceRun, theirs: DeviceRun, what: str, key: str) -> tuple[list[Any], list[Any]] | None:
    """Samples of both, a list a round; None where one has none."""
    found = [[samples[key] for samples in _rounds(run, what) if samples.get(key)] for run in (ours, theirs)]
    return (found[0], found[1]) if all(found) else None


def _written(ours: DeviceRun, theirs: DeviceRun, key: str) -> tuple[list[Any], list[Any]] | None:
    """Of models that write: samples of the longest prompts that both were timed with."""
    by_length = [
        [{prompt["prompt_tokens"]: prompt[key] for prompt in samples["prompts"]} for samples in _rounds(run, "writing")]
        for run in (ours, theirs)
    ]
    if not all(by_length):
        return None
    common = set.intersection(*(set(one) for rounds in by_length for one in rounds))
    if not common:
        return None
    found = [[one[max(common)] for one in rounds if one[max(common)]] for rounds in by_length]
    return (found[0], found[1]) if all(found) else None


def _median_memory(run: DeviceRun) -> float | None:
    known = [samples["model"]["rss"] for samples in _rounds(run, "memory") if samples["model"] is not None]
    return float(np.median(known)) if known else None


def _right(run: DeviceRun) -> Any:
    """1 for each row that was answered right, 0 for each that was not. Shape: [rows]; None where nobody knows."""
    found = _rounds(run, "answers")
    right = found[0].get("right") if found else None
    return None if right is None else np.array(right, dtype=np.float64)
