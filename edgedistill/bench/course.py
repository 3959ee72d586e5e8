"""One contender's way through a benchmark on one device: what was taken there, and the run that it comes to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.bench import taken, validity
from edgedistill.bench.rows import Asked
from edgedistill.bench.sweep import Point
from edgedistill.errors import EdgeDistillError, InputError
from edgedistill.evaluate.stats import mean_interval
from edgedistill.links.link import Facts, Link
from edgedistill.types import Cell, Contender, DeviceRun, Estimate, Measurement, NotMeasured, Taken, What, Workload

NO_CLOCK = "emulation has the right instructions, not the right clock"
COMPARED_AT_BUILD = "what a model writes is compared token by token when its file is made"
JUDGED_BEFORE = "what a model writes is judged where it is made: see `edgedistill evaluate`, and the build's report"
HERE = "local"
"""The address of this machine, whose answers are the ones that others are compared with."""

STOPPED = "the benchmark was stopped"
"""How the reason of a run begins that its user ended."""
MEASURES = "runtime/cell.py"
"""What takes a cell, in every bundle that can be measured."""

Answers = Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """Who is measured, and where.

    Attributes:
        folder: what the link takes to its device: a bundle, or what a link of a teacher's own knows to run.
    """

    contender: Contender
    title: str
    engine: str
    engine_version: str
    file_bytes: int
    folder: Path
    link: Link


def of_bundle(folder: Path, link: Link, *, contender: Contender = "bundle") -> Entrant:
    """A bundle on a device.

    Raises:
        InputError: the measuring program in the bundle is of an older version, and takes no cells.
    """
    if not (folder / MEASURES).is_file():
        raise InputError(
            f"{folder} was built by an older version, whose runtime does not measure like this one",
            hint="build or export it again",
        )
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = [file for file in (*(folder / "model").rglob("*"), folder / "tokenizer.json") if file.is_file()]
    return Entrant(
        contender=contender,
        title=f"{content['name']}, {content['model']['recipe']}",
        engine=content["engine"]["name"],
        engine_version=content["engine"]["version"],
        file_bytes=sum(file.stat().st_size for file in files),
        folder=folder,
        link=link,
    )


@dataclass(slots=True, kw_only=True)
class Course:
    """What one entrant has come to so far.

    Attributes:
        writes: its model writes token by token.
        threads: of the timed rounds.
        asked_threads: the same, where the user chose them and no sweep did.
        repeated: processes that were disturbed, and taken again or left out; their samples are gone.
        spare: the last process that was disturbed; it is better than none when the benchmark is stopped.
        failure: what ended the course; of the kind of cells that it happened in, nothing that was taken counts.
        stopped: what the user's stopping left undone, in words; what was taken counts, and is unstable.
    """

    entrant: Entrant
    writes: bool
    threads: int
    asked_threads: int | None = None
    facts: Facts = field(default_factory=dict)
    sweep: tuple[Point, ...] = ()
    taken: list[Taken] = field(default_factory=list)
    repeated: int = 0
    spare: Taken | None = None
    failure: EdgeDistillError | None = None
    stopped: str = ""

    @property
    def clock(self) -> What:
        """What its model is timed with."""
        return "writing" if self.writes else "timing"

    def can(self, what: What) -> bool:
        """Whether the device is asked for it."""
        return self.failure is None and what in self.entrant.link.can and not (self.writes and what == "answers")

    def measure(self, texts: Sequence[Any], cell: Cell) -> Mapping[str, Any]:
        """Runs one cell in a fresh process there."""
        return self.entrant.link.measure(self.entrant.folder, texts, cell)

    def keep(self, cell: Cell, number: int, samples: Mapping[str, Any]) -> None:
        """Adds the samples of a cell that came to its end."""
        self.taken.append(Taken(cell=cell, round=number, samples=samples))

    @property
    def machine(self) -> str:
        """What the device says it is."""
        return str(self.facts.get("machine") or "")

    def fail(self, error: EdgeDistillError, what: What | None) -> None:
        """Ends the course, in a cell of a kind. What was finished of other kinds is whole, and kept.

        Of its own kind nothing is kept: the rounds that are missing may be those that would have told otherwise.
        """
        self.failure, self.spare = error, None
        self.taken = [one for one in self.taken if one.cell.what != what]
        if not self.rounds(self.clock):
            self.sweep = ()

    def stop(self, rounds: int, memory_rounds: int) -> None:
        """Ends the course because its user stopped the benchmark.

        Args:
            rounds, memory_rounds: that were asked for; a course that has them all is as good as ever.
        """
        if self.spare is not None and not self.rounds(self.clock):
            self.taken.append(self.spare)
            self.repeated -= 1
        timed = len(self.rounds(self.clock))
        asked: dict[What, int] = {self.clock: rounds, "memory": memory_rounds, "answers": 1}
        if any(self.can(what) and len(self.rounds(what)) < number for what, number in asked.items()):
            after = f" after {timed} of {rounds} timed processes" if self.can(self.clock) else ""
            self.stopped = f"{STOPPED}{after}"
        if not timed:
            self.sweep = ()

    def without_disturbed(self, needed: int) -> None:
        """Leaves out timed processes that something disturbed, where as many as are needed are left without them.

        They are counted with those that were taken again. A machine that disturbs most of them stays `unstable`.
        """
        if self.undisturbed >= needed:
            kept = [one for one in self.taken if one.cell.what != self.clock or not validity.passing(one.samples)]
            self.repeated += len(self.taken) - len(kept)
            self.taken = kept

    @property
    def undisturbed(self) -> int:
        """Timed processes that broke no rule which the next one may keep."""
        return sum(not validity.passing(samples) for samples in self.rounds(self.clock))

    def rounds(self, what: What) -> list[Mapping[str, Any]]:
        """The samples of every process that was asked for this."""
        return [one.samples for one in self.taken if one.cell.what == what]

    @property
    def answers(self) -> Answers | None:
        """What it said, a label's number or a span a row."""
        found = self.rounds("answers")
        return found[0]["answers"] if found else None


def said(samples: Mapping[str, Any]) -> Answers:
    """What a device answered: the number of the likeliest label of each row, or where its span begins and ends."""
    if "spans" in samples:
        return [[int(start), int(end)] for start, end, _ in samples["spans"]]
    return [int(np.argmax(logits)) for logits in samples["logits"]]


def finished(course: Course, asked: Asked, workload: Workload, host: Answers | str) -> DeviceRun:
    """The run that a course comes to.

    Args:
        asked: the rows that were timed.
        host: the host's answers, or why there are none to compare with.
    """
    entrant, link = course.entrant, course.entrant.link
    rounds = course.rounds(course.clock)
    texts = len(asked.texts)
    reasons = validity.reasons(rounds, taken.centers(rounds, texts), machine=course.machine, texts=texts)
    threads = min((samples["threads"] for samples in rounds if samples.get("threads")), default=course.threads)
    if threads != course.threads:
        reasons = (f"it ran with {threads} of {course.threads} threads", *reasons)
    if course.stopped:
        reasons = (course.stopped, *reasons)
    failed = (course.failure.message,) if course.failure is not None and course.taken else ()
    same = {"within": workload.within, "limit_s": workload.limit_s}
    version = course.facts.get("packages", {}).get(entrant.engine, entrant.engine_version)
    return DeviceRun(
        contender=entrant.contender,
        title=link.title if entrant.contender == "bundle" else f"{entrant.title} on {link.title}",
        link=link.address,
        kind=link.kind,
        engine=course.facts.get("engine", f"{entrant.engine} {version}"),
        file_bytes=entrant.file_bytes,
        environment=dict(course.facts),
        asked={"threads": course.asked_threads, "rounds": workload.rounds, **same},
        in_effect={"threads": threads, "rounds": len(rounds), "repeated": course.repeated, **same},
        stable=course.failure is None and not reasons,
        reasons=(*failed, *reasons),
        measurements=tuple(_figures(course, workload, host, stable=not reasons)),
        accuracy=_accuracy(course),
        sweep=course.sweep,
        taken=tuple(course.taken),
    )


def _figures(course: Course, workload: Workload, host: Answers | str, *, stable: bool) -> Iterator[taken.Figure]:
    kind = course.entrant.link.kind
    if rounds := course.rounds(course.clock):
        yield from (taken.writing if course.writes else taken.times)(rounds, kind, stable=stable)
        yield taken.energy(rounds, kind, stable=stable)
    else:
        names = ("cold_start", "load", *_of_prompts(workload)) if course.writes else taken.TIME_FIGURES
        yield from _missing(course, course.clock, (*names, "energy"))
    if rounds := course.rounds("memory"):
        yield from taken.memory(rounds, kind)
    else:
        yield from _missing(course, "memory", [name for name, _, _ in taken.MEMORY_FIGURES])
    yield from _equal(course, host)
    if course.writes:
        yield NotMeasured(name="accuracy", reason=JUDGED_BEFORE)


def _of_prompts(workload: Workload) -> list[str]:
    return [f"{name}@{tokens}" for tokens in workload.prompt_tokens for name, _, _ in taken.PROMPT_FIGURES]


def _missing(course: Course, what: What, names: Sequence[str]) -> Iterator[NotMeasured]:
    link = course.entrant.link
    remedy = None
    if course.failure is not None:
        reason, remedy = course.failure.message, course.failure.hint
    elif course.stopped and course.can(what):
        reason = course.stopped
    elif link.kind == "emulated" and what == course.clock:
        reason = NO_CLOCK
    else:
        reason = f"{link.title} cannot be asked for {what}"
    yield from (NotMeasured(name=name, reason=reason, remedy=remedy) for name in names)


def _equal(course: Course, host: Answers | str) -> Iterator[taken.Figure]:
    name = "answers_equal"
    if course.entrant.link.address == HERE:
        yield NotMeasured(name=name, reason="others are compared with the answers of this machine")
        return
    if course.answers is None:
        if course.writes and course.failure is None:
            yield NotMeasured(name=name, reason=COMPARED_AT_BUILD)
        else:
            yield from _missing(course, "answers", [name])
    elif isinstance(host, str):
        yield NotMeasured(name=name, reason=host)
    else:
        same = sum(a == b for a, b in zip(course.answers, host, strict=True)) / len(host)
        yield Measurement(name=name, unit="share", kind=course.entrant.link.kind, values=(same,))


def _accuracy(course: Course) -> Estimate | None:
    found = course.rounds("answers")
    if not found or found[0]["right"] is None:
        return None
    return mean_interval(np.array(found[0]["right"], dtype=np.float64))
