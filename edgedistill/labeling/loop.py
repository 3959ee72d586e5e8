"""The loop that turns candidates into accepted rows, as many at once as the teachers take, decided in their order.

    candidates ─► ask (several at once) ─► parse ─► gates ─► wait for the rows before ─► balance ─► accepted | rejected

Answers come in any order, but row 7 is decided after row 6: what is accepted does not depend on who was faster. No
more rows are under way than are still wanted, so that exactly as many are accepted as were asked for, and none is paid
for in vain.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from edgedistill.data.curate import Balance, finish_problem
from edgedistill.errors import StageError
from edgedistill.labeling.asking import Asking
from edgedistill.labeling.client import Client, Failed
from edgedistill.labeling.signals import label_probabilities
from edgedistill.tasks.task import Answer, Unusable
from edgedistill.teachers.panel import Said
from edgedistill.types import Progress

Gate = Callable[[Mapping[str, Any], Answer], str | None]

SAMPLE = 20
"""Rows that must be decided before the success ratio may stop a run."""
AHEAD = 8
TELL_EVERY_S = 0.1
WINDOW = 1024
"""Rows that may be under way or wait for the rows before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A row to be answered, and where it came from."""

    number: int
    source: str
    row: Mapping[str, Any]


class Sink(Protocol):
    """Where decided rows go, in their order."""

    def accepted(self, row: Mapping[str, Any]) -> None:
        """Takes a row with its answer."""

    def rejected(self, source: str, reason: str, row: Mapping[str, Any]) -> None:
        """Takes a row that is not used, with the reason."""


@dataclass(slots=True)
class Tally:
    """What became of the rows so far.

    Attributes:
        usable: rows whose teachers gave a whole answer in the form asked for; gates come after that.
        reasons: of rejection and failure, by their first word.
        stopped: why the loop ended before its goal: "budget", "rows" when they ran out, or None.
    """

    decided: int = 0
    usable: int = 0
    accepted: int = 0
    rejected: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    by_teacher: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    agreed: list[float] = field(default_factory=lambda: [0.0, 0.0])
    stopped: Literal["budget", "rows"] | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    candidate: Candidate
    kind: Literal["accepted", "rejected", "failed", "not asked"]
    usable: bool = False
    reason: str = ""
    said: Said | None = None


class Loop:
    """One run over candidates.

    Args:
        clients: one for each member of the panel, by its name.
        goal: how many accepted rows are wanted; None for all.
    """

    def __init__(
        self,
        *,
        asking: Asking,
        clients: Mapping[str, Client],
        gate: Gate,
        balance: Balance,
        goal: int | None,
        min_success: float,
        sink: Sink,
        progress: Progress,
        total: int,
        spent: Callable[[], float],
    ) -> None:
        self.tally = Tally()
        self._asking, self._clients = asking, clients
        self._task = asking.task
        self._members = {member.name: member for member in asking.panel.members}
        self._gate, self._balance = gate, balance
        self._goal, self._min_success = goal, min_success
        self._sink, self._progress, self._total, self._spent = sink, progress, total, spent
        self._waiting: dict[int, _Verdict] = {}
        self._hopeful = 0
        self._told = 0.0
        self._started = 0.0
        self._next = 0
        self._wake = asyncio.Event()
        self._error: BaseException | None = None
        window = max((4 * c.answerer.batch * c.answerer.slots for c in clients.values()), default=1)
        self._window = max(WINDOW, window)

    async def run(self, candidates: Iterator[Candidate]) -> Tally:
        """Asks until the goal is reached, the candidates run out or the money does.

        Raises:
            StageError: a teacher's first request fails, too few answers are usable, or a teacher gave up.
            InputError: a teacher refuses access.
        """
        self._started = time.monotonic()

        def done(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            self._wake.set()

        tasks: set[asyncio.Task[None]] = set()
        try:
            exhausted = False
            while self._error is None:
                while not exhausted and self.tally.stopped is None and self._may_start(len(tasks)):
                    candidate = next(candidates, None)
                    if candidate is None:
                        exhausted = True
                        break
                    task = asyncio.create_task(self._row(candidate))
                    tasks.add(task)
                    task.add_done_callback(done)
                if not tasks:
                    break
                await self._wake.wait()
                self._wake.clear()
                if self.tally.stopped is None and self._out_of_money():
                    self.tally.stopped = "budget"
                    for client in self._clients.values():
                        client.drop_waiting()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.tally.seconds = time.monotonic() - self._started
        if self._error is not None:
            raise self._error
        if self.tally.stopped is None and self._goal is not None and self.tally.accepted < self._goal:
            self.tally.stopped = "rows"
        if self.tally.stopped != "budget":
            self._check_success(1)
        return self.tally

    def woken(self) -> None:
        """Called when something happened that the loop may have to act on."""
        self._wake.set()

    def _may_start(self, running: int) -> bool:
        # A few more than can be sent, so that the next one is ready; not a thousand, which the first would wait for.
        ready = AHEAD + 2 * sum(client.capacity for client in self._clients.values())
        room = running < ready and running + len(self._waiting) < self._window
        return room and (self._goal is None or self.tally.accepted + running + self._hopeful < self._goal)

    def _out_of_money(self) -> bool:
        clients = self._clients.values()
        return any(client.waits_for_money for client in clients) and all(client.idle for client in clients)

    async def _row(self, candidate: Candidate) -> None:
        try:
            verdict = await self._judged(candidate)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._error = self._error or error
        else:
            self._waiting[candidate.number] = verdict
            self._hopeful += verdict.kind == "accepted"
            self._decide()

    async def _judged(self, candidate: Candidate) -> _Verdict:
        said: list[Said] = []
        try:
            requests = self._asking.requests(candidate.row)
            if len(requests) == 1:
                replies = [await self._clients[requests[0][0]].ask(requests[0][1])]
            else:
                replies = await asyncio.gather(*(self._clients[name].ask(ask) for name, ask in requests))
            for (name, _), reply in zip(requests, replies, strict=True):
                if isinstance(reply, Failed):
                    kind: Literal["failed", "not asked"] = (
                        "not asked" if reply.reason.startswith("not asked") else "failed"
                    )
                    return _Verdict(candidate=candidate, kind=kind, reason=f"failed: {reply.reason}")
                if problem := finish_problem(reply):
                    raise Unusable(problem)
                answer = self._task.parse(reply.text, candidate.row, self._asking.style)
                beliefs = label_probabilities(reply, self._asking.style.labels) if self._task.has_labels else None
                said.append(Said(by=self._members[name], answer=answer, probabilities=beliefs))
            one = self._asking.panel.combined(said, self._task)
        except Unusable as unusable:
            reason = str(unusable)
            named = reason.startswith(("truncated:", "refusal:"))
            return _Verdict(candidate=candidate, kind="rejected", reason=reason if named else f"form: {reason}")
        if refused := self._gate(candidate.row, one.answer):
            return _Verdict(candidate=candidate, kind="rejected", usable=True, reason=refused, said=one)
        return _Verdict(candidate=candidate, kind="accepted", usable=True, said=one)

    def _decide(self) -> None:
        """Decides every row whose predecessors are all decided."""
        while (verdict := self._waiting.pop(self._next, None)) is not None:
            self._next += 1
            self._hopeful -= verdict.kind == "accepted"
            if verdict.kind != "not asked":
                self._settle(verdict)

    def _settle(self, verdict: _Verdict) -> None:
        tally, reason = self.tally, verdict.reason
        tally.decided += 1
        tally.usable += verdict.usable
        if verdict.kind == "accepted" and verdict.said is not None:
            self._compare(verdict)
            reason = (self._task.has_labels and self._balance.problem(verdict.said.answer.value)) or ""
            if not reason:
                tally.accepted += 1
                if self._task.has_labels:
                    tally.labels[verdict.said.answer.value] += 1
                tally.by_teacher[verdict.said.by.name] += 1
                self._sink.accepted(self._answered(verdict.candidate.row, verdict.said))
        elif verdict.said is not None:
            self._compare(verdict)
        if reason:
            tally.failed += verdict.kind == "failed"
            tally.rejected += verdict.kind != "failed"
            kind = reason.partition(":")[0]
            tally.reasons[kind] += 1
            tally.examples.setdefault(kind, f"{verdict.candidate.source}: {reason}")
            self._sink.rejected(verdict.candidate.source, reason, verdict.candidate.row)
        self._check_success(SAMPLE)
        self._tell()

    def _compare(self, verdict: _Verdict) -> None:
        """Counts how well the teacher agrees with rows that have an answer already."""
        gold = self._task.gold(verdict.candidate.row)
        if gold is not None and verdict.said is not None:
            self.tally.agreed[0] += self._task.score(verdict.said.answer.value, gold)
            self.tally.agreed[1] += 1

    def _answered(self, row: Mapping[str, Any], said: Said) -> dict[str, Any]:
        """The row as it is written: the answer in its field, and beside it what else the teacher said."""
        more: dict[str, Any] = {"teacher": said.by.name}
        if said.answer.rationale is not None:
            more["rationale"] = said.answer.rationale
        if said.probabilities is not None:
            more["probabilities"] = {label: round(share, 6) for label, share in said.probabilities.items()}
        if (gold := self._task.gold(row)) is not None:
            more["gold"] = gold
        return self._task.apply(row, said.answer) | more

    def _check_success(self, least: int) -> None:
        tally = self.tally
        if self._error is None and tally.decided >= least and tally.usable < self._min_success * tally.decided:
            shown = "; ".join(f"{count} × {tally.examples[kind]}" for kind, count in tally.reasons.most_common(3))
            self._error = StageError(
                f"only {tally.usable} of {tally.decided} rows got a usable answer, less than min_success = "
                f"{self._min_success:g}: {shown}",
                hint="mend the cause or lower [label] min_success; answers so far are kept",
            )
            if least == 1:
                raise self._error

    def _tell(self) -> None:
        tally = self.tally
        now = time.monotonic()
        if now - self._told < TELL_EVERY_S and tally.decided < self._total:
            return
        self._told = now
        done = tally.decided if self._goal is None else tally.accepted
        total = self._total if self._goal is None else self._goal
        rate = tally.decided / max(1e-9, now - self._started)
        refused = tally.rejected + tally.failed
        note = f"{rate:.3g} rows/s, {tally.accepted} accepted, {refused} not, ${self._spent():.4g} spent"
        self._progress(done, total, note)
