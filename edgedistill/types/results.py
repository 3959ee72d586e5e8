"""What a benchmark of a bundle is made of: cells that were run on devices, and what they came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgedistill.types.figures import Estimate, Kind, Measurement, NotMeasured

What = Literal["timing", "memory", "answers", "writing"]
"""What one process is asked for. "writing" times a model that writes token by token."""
Contender = Literal["bundle", "teacher", "teacher exported"]
"""Who is measured: what ships; the teacher in PyTorch; the teacher as a file by the same recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One fresh process on a device, and what it is asked for there.

    Attributes:
        what: "timing" (a model that answers), "writing" (one that writes token by token), "memory" or "answers".
        threads: that the engine may start.
        batch_rows: texts a call when throughput is measured.
        within: relative half width of the 95 % interval of the median that ends the repeats; None: each text once.
        limit_s: ends the repeats as well.
        prompt_tokens: lengths of the prompts of a model that writes; empty: as long as the texts are.
        new_tokens: of each answer of a model that writes.
    """

    what: What
    threads: int = 1
    batch_rows: int = 32
    within: float | None = None
    limit_s: float = 60.0
    prompt_tokens: tuple[int, ...] = ()
    new_tokens: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The raw samples of one cell in one round, as the device gave them, conditions before and after among them.

    Attributes:
        cell: what the process was asked for.
        round: counted from 0.
        samples: times in ms, memory in bytes; of answers, what was said a row, and 1 where it is the row's own label
            (of readers, token F1).
    """

    cell: Cell
    round: int
    samples: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRun:
    """One contender on one device.

    Attributes:
        contender: who was measured: what ships, the teacher in PyTorch, or the teacher as a file by the same recipe.
        title: what people read in a table's head.
        link: the address as the user wrote it: "local", "ssh://pi@kitchen".
        kind: of every figure in this run.
        engine: its name and version on the device.
        file_bytes: of the model and its tokenizer.
        environment: machine, system, python, cores, ram_bytes and packages of the device, as far as it tells.
        asked: settings asked for: threads (null: a sweep chose), within, limit_s, rounds.
        in_effect: those that were used, and `repeated`: processes that were disturbed and taken again.
        stable: False when a rule of the protocol was broken, the link broke, or the benchmark was stopped.
        reasons: which rule was broken by how much, and what ended the run early.
        measurements: every figure, or why there is none.
        accuracy: share of the rows that are answered as they are labelled; of readers, token F1, as `metric` of the
            workload says.
        sweep: for each number of threads, `threads`, `latency_ms` (or `decode_tokens_s`), `low` and `high`.
        taken: raw samples, so that a stranger can compute everything again.
    """

    contender: Contender
    title: str
    link: str
    kind: Kind
    engine: str
    file_bytes: int
    environment: Mapping[str, Any]
    asked: Mapping[str, Any]
    in_effect: Mapping[str, Any]
    stable: bool
    reasons: tuple[str, ...] = ()
    measurements: tuple[Measurement | NotMeasured, ...] = ()
    accuracy: Estimate | None = None
    sweep: tuple[Mapping[str, int | float], ...] = ()
    taken: tuple[Taken, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times better the bundle is than a baseline. `kind` is that of both sides: kinds are never mixed.

    Attributes:
        name: of what.
        link: the device of both.
        against: the baseline.
        kind: of the figures on both sides.
        estimate: times.
    """

    name: Literal["latency", "throughput", "size", "memory", "accuracy", "decode", "prefill"]
    link: str
    against: Contender
    kind: Kind
    estimate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Everything that one benchmark found: the JSON that `edgedistill bench` writes.

    Attributes:
        schema: version of the JSON; it grows when a key changes its meaning or goes away.
        version: of edgedistill.
        created: UTC, ISO 8601.
        bundle: name, target, task, recipe, digest, engine and its version.
        workload: the settings by name, `texts` that were timed, `texts_sha256` of them, and `metric`: what `accuracy`
            of a run is, null where the rows do not say what is right.
        runs: one a contender and device.
        ratios: bundle against baselines.
        teacher_cost: US dollars for 1,000 answers, where the teacher is an endpoint with prices.
        remarks: what a reader should know beside the figures.
    """

    schema: int
    version: str
    created: str
    bundle: Mapping[str, Any]
    workload: Mapping[str, Any]
    runs: tuple[DeviceRun, ...]
    ratios: tuple[Ratio, ...] = ()
    teacher_cost: float | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One measurement of two results. `ratio` is B over A.

    Attributes:
        contender: whose; a bundle is judged by its own figures alone.
        verdict: "equal" when the interval of the ratio holds 1 or the difference is below what can be told; "not
            comparable" says why in `note`: another kind, an unstable run, a figure that is missing.
    """

    name: str
    link: str
    contender: Contender = "bundle"
    verdict: Literal["equal", "better", "worse", "not comparable"]
    ratio: Estimate | None = None
    note: str = ""
