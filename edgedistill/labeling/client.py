"""One teacher under load: as many requests at once as it takes, each recorded, none lost and none asked twice.

    ask ─► journal has it? ─► answer
             │ no
             ▼
         waiting ─► reserve money ─► journal: sent ─► call ─► journal: answered ─► answer
             ▲                                          │
             └── after a pause ── busy, broken ─────────┘── declined, or too often broken ─► failed, with the reason

How many are under way at once is `pace`'s business. Ten failures in a row open the circuit breaker: a pause, then one
request to try, twice as long a pause if that fails too.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgedistill.errors import EdgeDistillError, StageError
from edgedistill.labeling.cost import Budget, Price
from edgedistill.labeling.journal import Journal
from edgedistill.labeling.pace import START, Pace
from edgedistill.teachers.answerer import Answerer, Broken, Busy, Failure
from edgedistill.types import Ask, Reply

BREAK_AFTER = 10
GIVE_UP_AFTER = 6
"""Openings of the circuit breaker without one answer in between: 1 + 2 + … + 32 times its first pause."""
PATIENCE = 8
"""A busy endpoint is asked again this many times as often as a broken one: it said that it would answer later."""
LONGEST_PAUSE_S = 60.0
LONGEST_WAIT_S = 600.0
"""A Retry-After beyond this is not waited for; the endpoint is asked again and may say so again."""
IDS_KEPT = 4096
FIRST_RETRIES = 3
"""Of the first request: somebody waits there who may have made a mistake in the settings."""
CHECKPOINT_EVERY = 2000
"""Answers after which the journal's log is folded into its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A request that got no answer in this run. The journal keeps it as failed; a later run asks again."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How patient a client is. `pause_s` is the first pause after a failure; later ones double, with jitter."""

    retries: int = 6
    pause_s: float = 1.0
    batch: bool = False


@dataclass(slots=True)
class _Job:
    ask: Ask
    future: asyncio.Future[Reply | Failed]
    reserved: float = 0.0
    broken: int = 0
    busy: int = 0


@dataclass(slots=True)
class Counts:
    """What a client did in this run."""

    asked: int = 0
    answered: int = 0
    reused: int = 0
    failed: int = 0
    retried: int = 0
    slowed: int = 0


class Client:
    """Sends requests to one teacher.

    Args:
        price: None when nobody knows it; then nothing is booked.
        budget: shared by all clients of a run.
        poor: called when a request waits for money.
    """

    def __init__(
        self,
        answerer: Answerer,
        journal: Journal,
        budget: Budget,
        price: Price | None,
        settings: Settings,
        poor: Callable[[], None] = lambda: None,
    ) -> None:
        self.answerer = answerer
        self.counts = Counts()
        self.price = price
        self.waits_for_money = False
        self._journal = journal
        self._budget = budget
        self._settings = settings
        self._poor = poor
        self._pace = Pace(answerer.slots)
        self._waiting: deque[_Job] = deque()
        self._under_way: dict[str, asyncio.Future[Reply | Failed]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = 0
        self._paused = False
        self._held_until = 0.0
        self._lingering: asyncio.TimerHandle | None = None
        self._resting: dict[str, _Job] = {}
        self._ended = False
        self._in_a_row = 0
        self._openings = 0
        self._finished: list[tuple[_Job, Reply]] = []
        self._ids: dict[str, str] | None = {}
        self._fatal: BaseException | None = None
        budget.on_release(self._pump)

    @property
    def calls(self) -> int:
        """Calls that are under way now."""
        return self._calls

    @property
    def idle(self) -> bool:
        """Whether nothing is under way and nothing will be sent again by itself."""
        return not self._calls and not self._resting and not self._finished

    @property
    def capacity(self) -> int:
        """How many requests may be under way now."""
        return (self.limit if self._pace.proven else min(START, self.answerer.slots)) * self.answerer.batch

    @property
    def limit(self) -> int:
        """How many calls may be under way now."""
        return int(self._pace.limit)

    async def ask(self, ask: Ask) -> Reply | Failed:
        """The answer to a request: from the journal, from an identical request under way, or from the teacher.

        Raises:
            EdgeDistillError: the teacher cannot be used at all, or the circuit breaker gave up.
        """
        if self._fatal is not None:
            raise self._fatal
        running = self._under_way.get(ask.key)
        if running is not None:
            self.counts.reused += 1
            return await asyncio.shield(running)
        known = self._journal.find(ask.key)
        if known is not None:
            self.counts.reused += 1
            return known
        future: asyncio.Future[Reply | Failed] = asyncio.get_running_loop().create_future()
        self._under_way[ask.key] = future
        self._waiting.append(_Job(ask, future))
        self._gather()
        try:
            return await future
        finally:
            self._under_way.pop(ask.key, None)

    def drop_waiting(self) -> None:
        """Sends nothing any more; used when a run ends early. Calls under way still come to their end."""
        self._ended = True
        for job in (*self._waiting, *self._resting.values()):
            if not job.future.done():
                job.future.set_result(Failed(reason="not asked: the run ended"))
        self._waiting.clear()
        self._resting.clear()

    async def close(self) -> None:
        """Ends the calls that are under way and lets the connections go."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.answerer.close()

    def _gather(self) -> None:
        """Starts calls now, or waits a moment for more requests where a call takes many."""
        full = len(self._waiting) >= self.answerer.batch
        if not self.answerer.linger_s or full or not self._pace.proven:
            self._pump()
        else:
            if self._lingering is not None:
                self._lingering.cancel()
            self._lingering = asyncio.get_running_loop().call_later(self.answerer.linger_s, self._pump)

    def _pump(self) -> None:
        """Starts as many calls as pace and money allow, and records them in one transaction."""
        starting: list[list[_Job]] = []
        self.waits_for_money = False
        held = self._paused or self._ended or self._fatal is not None
        while self._waiting and not held and self._calls + len(starting) < self.limit:
            group: list[_Job] = []
            while self._waiting and len(group) < (self.answerer.batch if self._pace.proven else 1):
                reserved = self._most(self._waiting[0].ask)
                if not self._budget.reserve(reserved):
                    self.waits_for_money = True
                    break
                job = self._waiting.popleft()
                job.reserved = reserved
                group.append(job)
            if not group:
                break
            starting.append(group)
        if self.waits_for_money and not starting:
            self._poor()
        if not starting:
            return
        jobs = [job for group in starting for job in group]
        self._journal.send(self.answerer.name, [job.ask for job in jobs], [job.reserved for job in jobs])
        self.counts.asked += len(jobs)
        self._calls += len(starting)
        self._pace.begin(asyncio.get_running_loop().time())
        for group in starting:
            task = asyncio.get_running_loop().create_task(self._call(group, self._pace.rounds))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _call(self, group: list[_Job], round_: int) -> None:
        try:
            replies = await self.answerer.answer([job.ask for job in group])
        except Failure as failure:
            replies = [failure] * len(group)
        except EdgeDistillError as error:
            self._calls -= 1
            self._stop(error)
            return
        except Exception as error:  # a bug in a teacher must end the run, not leave it waiting for ever
            self._calls -= 1
            self._stop(StageError(f"teacher {self.answerer.name} failed: {type(error).__name__}: {error}"))
            return
        self._calls -= 1
        failed: list[tuple[_Job, Failure]] = []
        answered: list[tuple[_Job, Reply]] = []
        for job, reply in zip(group, replies, strict=True):
            if isinstance(reply, Failure):
                failed.append((job, reply))
            elif (reason := self._second_use(job, reply)) is not None:
                failed.append((job, Broken(reason)))
            else:
                answered.append((job, reply))
        if answered:
            self._in_a_row = self._openings = 0
            self._pace.up(len(answered), asyncio.get_running_loop().time())
            if not self._finished:
                asyncio.get_running_loop().call_soon(self._book)
            self._finished += answered
        if failed:
            self._failed(failed, round_)

    def _book(self) -> None:
        """Records the answers that came in since the last turn of the loop, in one transaction, then hands them out."""
        finished, self._finished = self._finished, []
        costs = [None if self.price is None else self.price.of(r, batch=self._settings.batch) for _, r in finished]
        try:
            self._journal.answer([(job.ask.key, reply, usd) for (job, reply), usd in zip(finished, costs, strict=True)])
        except OSError as error:
            self._stop(StageError(f"the journal cannot be written: {error}", hint="free some space, and run it again"))
            return
        before = self.counts.answered
        self.counts.answered += len(finished)
        if before // CHECKPOINT_EVERY < self.counts.answered // CHECKPOINT_EVERY:
            asyncio.get_running_loop().run_in_executor(None, self._journal.checkpoint)
        for (job, reply), usd in zip(finished, costs, strict=True):
            self._budget.settle(job.reserved, usd or 0.0)
            if not job.future.done():
                job.future.set_result(reply)
        self._pump()

    def _failed(self, failures: Sequence[tuple[_Job, Failure]], round_: int) -> None:
        """Decides what becomes of requests of a call that came to nothing: again after a pause, or never."""
        loop = asyncio.get_running_loop()
        for job, failure in failures:
            self._journal.fail(job.ask.key, str(failure), charged=failure.charged)
            self._budget.settle(job.reserved, job.reserved if failure.charged else 0.0)
            job.busy += isinstance(failure, Busy)
            job.broken += isinstance(failure, Broken)
            most = self._settings.retries if self._pace.proven else min(FIRST_RETRIES, self._settings.retries)
            again = job.broken <= most and job.busy <= PATIENCE * (self._settings.retries + 1)
            if isinstance(failure, (Busy, Broken)) and again and self._fatal is None and not self._ended:
                self.counts.retried += 1
                self._resting[job.ask.key] = job
                loop.call_later(self._pause(job.broken), self._again, job)
            else:
                self.counts.failed += 1
                if not self._pace.proven and not self._ended:
                    self._stop(
                        StageError(
                            f"the first request to {self.answerer.name} failed: {failure}",
                            hint="mend [[label.teachers]] or [judge], and run the same command again",
                        )
                    )
                elif not job.future.done():
                    job.future.set_result(Failed(reason=str(failure)))
        last = failures[-1][1]
        if isinstance(last, Busy):
            self.counts.slowed += self._pace.down(round_)
            self._hold(self._pause(failures[-1][0].busy) if last.wait_s is None else min(last.wait_s, LONGEST_WAIT_S))
        elif last.charged:
            self._pace.down(round_)  # a time-out or a reset: it may be too much for it
        if isinstance(last, Broken) or (isinstance(last, Busy) and last.wait_s is None):
            self._in_a_row += 1
            if self._in_a_row >= BREAK_AFTER and not self._paused:
                self._break(last)
        self._pump()

    def _again(self, job: _Job) -> None:
        if self._resting.pop(job.ask.key, None) is not None:
            self._waiting.appendleft(job)
            self._pump()

    def _pause(self, failures: int) -> float:
        """Doubling pauses with jitter, so that clients who failed together do not return together."""
        doubled = self._settings.pause_s * 2.0 ** min(failures, 16)
        return random.uniform(0.5, 1.0) * min(LONGEST_PAUSE_S, doubled)

    def _break(self, failure: Failure) -> None:
        """Opens the circuit breaker: nothing is sent for a while, then one request at a time until one is answered."""
        self._openings += 1
        if self._openings > GIVE_UP_AFTER:
            self._stop(
                StageError(
                    f"teacher {self.answerer.name} does not answer: {self._in_a_row} requests in a row failed, "
                    f"the last with: {failure}",
                    hint="every answer so far is kept; run it again when the teacher is back",
                )
            )
            return
        self._pace.restart()
        self._hold(min(LONGEST_PAUSE_S, self._settings.pause_s * 2**self._openings))

    def _hold(self, seconds: float) -> None:
        """Sends nothing for a while."""
        self._paused = True
        loop = asyncio.get_running_loop()
        self._held_until = max(self._held_until, loop.time() + seconds)
        loop.call_at(self._held_until, self._go_on)

    def _go_on(self) -> None:
        if asyncio.get_running_loop().time() >= self._held_until - 1e-3:
            self._paused = False
            self._pump()

    def _stop(self, error: BaseException) -> None:
        """Ends the run: everything that waits gets the error."""
        self._fatal = error
        for future in self._under_way.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # who waits for it may have been cancelled, and nobody else needs to be told

    def _second_use(self, job: _Job, reply: Reply) -> str | None:
        """Why an answer must be another request's: endpoints that number their answers give no number twice.

        One whose first two numbers are equal does not number them.
        """
        if self._ids is None or reply.id is None:
            return None
        owner = self._ids.setdefault(reply.id, job.ask.key)
        if owner == job.ask.key:
            if len(self._ids) > IDS_KEPT:
                del self._ids[next(iter(self._ids))]
            return None
        if len(self._ids) == 1:
            self._ids = None
            return None
        return f"the answer has the id {reply.id[:40]!r}, which another request's answer had"

    def _most(self, ask: Ask) -> float:
        return 0.0 if self.price is None else self.price.most(ask, batch=self._settings.batch)
