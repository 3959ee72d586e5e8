"""A benchmark: every contender on every device, cell by cell in fresh processes, in rounds that are spread over all.

    look        can each device run it at all?
    sweep       a few texts with 1, 2, 4 … threads; the fewest that are as fast as the best are taken
    round 1     timing of a, b, c; memory of a, b, c; answers of a, b, c
    round 2     timing of c, b, a; memory of c, b, a            round 3 like round 1 …

A drift of the machine meets all of them alike. Each round is a fresh process, because where a process lies in memory
moves its times by some percent and stays for its life. A device that fails ends its own course; the others go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill import __version__
from edgedistill.bench import differences, rows, sweep, taken, validity
from edgedistill.bench.course import HERE, Answers, Course, Entrant, finished, said
from edgedistill.bench.pace import Pace
from edgedistill.bench.results import SCHEMA
from edgedistill.bench.rows import Asked
from edgedistill.bench.stopped import Stopped
from edgedistill.errors import EdgeDistillError, InputError
from edgedistill.evaluate.stats import quantile_interval
from edgedistill.links.link import Link
from edgedistill.store import digest
from edgedistill.types import Cell, Contender, Progress, Result, Taken, What, Workload, silent

MEMORY_ROUNDS = 3
"""Memory hardly differs from process to process, and each round of it answers every text once more."""
REPEATS = 10
"""Disturbed processes of a course that are taken again. A machine that is never quiet is `unstable` all the same."""
MOST_ROUNDS = 3
"""Times the rounds that were asked for, where the interval over the rounds is still wider than asked."""
LEAST_MS = 1e-6
"""What a clock too coarse for a call is taken for."""
MORE_S = 180.0
"""For rounds beyond those, of all devices. Rounds of a small model take two seconds, those of a decoder minutes."""


def bench(
    bundle: Path,
    entrants: Sequence[Entrant],
    asked: Asked,
    workload: Workload,
    *,
    threads: int | Mapping[tuple[str, Contender], int] | None = None,
    host: Link | None = None,
    progress: Progress = silent,
) -> Result:
    """Measures a bundle, and whoever it is compared with, on every device.

    Args:
        bundle: what it is all about; its manifest says what is measured.
        entrants: contenders with their links, which the caller closes.
        asked: rows; the workload says how many are taken, evenly spread.
        threads: of every engine, or of some contenders on some links, by address and name; a sweep chooses for the
            others.
        host: this machine, for the answers that others are compared with, where it is no entrant itself.

    Raises:
        InputError: there is nothing to measure.
        Stopped: the program was told to end.
    """
    if not entrants or not asked.texts:
        raise InputError("there is nothing to measure", hint="give a link with --on, and rows with --data")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    built_for = int(manifest["engine"]["threads"])
    writes = rows.writes(manifest)
    places = [(one.link.address, one.contender) for one in entrants]
    fixed = dict.fromkeys(places, threads) if isinstance(threads, int) else threads or {}
    courses = [
        Course(entrant=entrant, writes=writes, threads=built_for, asked_threads=fixed.get(place))
        for entrant, place in zip(entrants, places, strict=True)
    ]
    timed = asked.spread(workload.rows)
    judged = asked.spread(workload.answer_rows)
    finish = partial(_result, manifest, courses, timed, workload)
    try:
        _Bench(courses, timed, judged, workload, progress).run()
        return finish(_host_answers(courses, host, judged, built_for))
    except (KeyboardInterrupt, SystemExit) as stop:
        for course in courses:
            course.stop(workload.rounds, min(workload.rounds, MEMORY_ROUNDS))
        left = partial(finish, _host_answers(courses, None, judged, built_for))
        raise Stopped(stop, left if any(course.taken for course in courses) else None) from stop


def _result(
    manifest: Mapping[str, Any],
    courses: Sequence[Course],
    timed: Asked,
    workload: Workload,
    answers: Callable[[Path], Answers | str],
) -> Result:
    for course in courses:
        course.without_disturbed(workload.rounds)
    return Result(
        schema=SCHEMA,
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle={
            "name": manifest["name"],
            "target": manifest["target"],
            "task": manifest["task"],
            "recipe": manifest["model"]["recipe"],
            "digest": manifest["digest"],
            "engine": manifest["engine"]["name"],
            "engine_version": manifest["engine"]["version"],
        },
        workload={
            **asdict(workload),
            "texts": len(timed.texts),
            "texts_sha256": digest(list(timed.texts)),
            "metric": timed.metric,
        },
        runs=tuple(finished(course, timed, workload, answers(course.entrant.folder)) for course in courses),
        remarks=() if timed.remark is None else (timed.remark,),
    )


class _Bench:
    """The rounds of a benchmark; what comes out is in the courses."""

    def __init__(
        self, courses: Sequence[Course], timed: Asked, judged: Asked, workload: Workload, progress: Progress
    ) -> None:
        self.courses = courses
        self.timed = timed
        self.judged = judged
        self.workload = workload
        self.progress = progress
        self.pace = Pace()

    def run(self) -> None:
        for course in self.courses:
            self._expect(course)
        for course in self.courses:
            with self._step(course, "looking", "looking"):
                course.facts = course.entrant.link.look(course.entrant.folder)
        for course in self.courses:
            if course.asked_threads is not None:
                course.threads = course.asked_threads
            elif course.can(course.clock):
                with self._step(course, "threads", "trying numbers of threads", course.clock):
                    self._sweep(course)
        asked = self.workload.rounds
        since = 0
        for number in range(MOST_ROUNDS * asked):
            if number <= asked:
                since = self.pace.spent_ms
            elif self.pace.spent_ms - since > 1e3 * MORE_S:
                break
            turn = self.courses if number % 2 == 0 else tuple(reversed(self.courses))
            waiting = [course for course in turn if number < asked or not self._settled(course)]
            if not waiting:
                break
            for course in waiting:
                self._each(course, course.clock, number, self._timed)
            for course in waiting:
                if number < MEMORY_ROUNDS:
                    self._each(course, "memory", number, self._plain)
            for course in waiting:
                if number == 0:
                    self._each(course, "answers", number, self._judged)
        self.progress(1, 1)

    def _expect(self, course: Course) -> None:
        """The steps that a course is going to make, if nothing comes between."""
        rounds = self.workload.rounds
        tried = 1 if course.asked_threads is None and course.can(course.clock) else 0
        steps = {course.clock: rounds, "memory": min(rounds, MEMORY_ROUNDS), "answers": 1}
        self.pace.expect(id(course), "looking")
        self.pace.expect(id(course), "threads", tried)
        for what, times in steps.items():
            self.pace.expect(id(course), what, times if course.can(what) else 0)

    @contextmanager
    def _step(self, course: Course, step: str, note: str, what: What | None = None) -> Iterator[None]:
        """One step of one course, on the way to a kind of cells: an error in it ends that course and no other."""
        try:
            with self.pace.step(id(course), step):
                self._tell(f"{course.entrant.link.address}, {course.entrant.contender}, {note}")
                yield
        except EdgeDistillError as error:
            self.pace.drop(id(course))
            course.fail(error, what)

    def _tell(self, note: str) -> None:
        spent = self.pace.spent_ms
        self.progress(spent, spent + self.pace.left_ms, note)

    def _each(self, course: Course, what: What, number: int, do: Callable[[Course, Cell, int], None]) -> None:
        if course.can(what):
            asked = self.workload.rounds
            most = f" of at most {MOST_ROUNDS * asked}" if number >= asked else ""
            with self._step(course, what, f"{what}, round {number + 1}{most}", what):
                do(course, self._cell(course, what), number)

    def _cell(self, course: Course, what: What) -> Cell:
        return Cell(
            what=what,
            threads=course.threads,
            batch_rows=self.workload.batch_rows,
            within=self.workload.within,
            limit_s=self.workload.limit_s,
            prompt_tokens=self.workload.prompt_tokens,
            new_tokens=self.workload.new_tokens,
        )

    def _sweep(self, course: Course) -> None:
        cell = self._cell(course, course.clock)
        course.sweep = sweep.sweep(course.measure, self.timed.texts, cell, int(course.facts.get("cores") or 1))
        course.threads = sweep.choose(course.sweep) if course.sweep else 1

    def _timed(self, course: Course, cell: Cell, number: int) -> None:
        """Takes a process that was disturbed once more, as long as that may help."""
        while True:
            samples = course.measure(self.timed.texts, cell)
            lasting = validity.lasting(samples, course.machine, len(self.timed.texts))
            if not validity.passing(samples) or lasting or course.repeated == REPEATS:
                course.keep(cell, number, samples)
                return
            course.spare = Taken(cell=cell, round=number, samples=samples)
            course.repeated += 1
            self._tell(f"{course.entrant.link.address}, disturbed, taken again: {course.repeated} of {REPEATS} times")

    def _plain(self, course: Course, cell: Cell, number: int) -> None:
        # What writes sets aside the memory for a full context with its first answer, and each answer takes seconds.
        texts = rows.spread(self.timed.texts, sweep.PROMPTS) if course.writes else self.timed.texts
        course.keep(cell, number, course.measure(texts, replace(cell, within=None)))

    def _judged(self, course: Course, cell: Cell, number: int) -> None:
        """Keeps what was said, not the logits of every label: those of one round outweigh all other samples."""
        answers = said(course.measure(self.judged.texts, replace(cell, within=None)))
        course.keep(cell, number, {"answers": answers, "right": self.judged.right(answers)})

    def _settled(self, course: Course) -> bool:
        """Whether what the rounds came to is known as closely as asked; a course without a clock has nothing to."""
        centers = taken.centers(course.rounds(course.clock), len(self.timed.texts))
        if not centers or self.workload.within is None or course.failure is not None:
            return True
        if 0 < course.undisturbed < self.workload.rounds:
            return False
        known = [quantile_interval([found], 0.5) for found in centers.values()]
        close = all((found.high - found.low) / 2 <= self.workload.within * found.value for found in known)
        return close and (course.writes or self._can_be_told(course, self.workload.within / 2))

    def _can_be_told(self, course: Course, within: float) -> bool:
        """Whether another result could be told from this one: each of the two may be off by half of what is asked."""
        rounds, texts = course.rounds("timing"), len(self.timed.texts)
        costs = [np.log(np.maximum(samples["latency_ms"], LEAST_MS)) for samples in rounds]
        if len(rounds) < 2 or any(len(samples) < texts for samples in costs):
            return True
        return differences.known(costs, texts, taken.clocks(rounds)) <= within


def _host_answers(
    courses: Sequence[Course], host: Link | None, judged: Asked, threads: int
) -> Callable[[Path], Answers | str]:
    """What this machine answers, by folder; taken once, and only where a device is compared with it."""
    found: dict[Path, Answers | str] = {}
    for course in courses:
        if course.entrant.link.address == HERE and course.answers is not None:
            found[course.entrant.folder] = course.answers

    def answers(folder: Path) -> Answers | str:
        compared = any(
            course.answers is not None for course in courses if course.entrant.folder == folder
        )  # else nobody wants to know
        if folder not in found and compared:
            try:
                if host is None:
                    return "this machine was not asked"
                found[folder] = said(host.measure(folder, judged.texts, Cell(what="answers", threads=threads)))
            except EdgeDistillError as error:
                found[folder] = f"this machine could not answer: {error.message}"
        return found.get(folder, "nothing was answered")

    return answers
