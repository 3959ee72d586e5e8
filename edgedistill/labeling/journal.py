"""Every request to a teacher, recorded before it is sent and after it is answered, in one SQLite file.

    requests:  key ─► teacher, request, attempts, state: sent ─► answered | failed, reply, cost

The key is a hash over the teacher's identity, the parameters, all messages, the schema and the prompt's template. An
answer is in here before anything uses it, so a killed run asks again for nothing but what was in flight. Write-ahead
logging keeps what was committed through a kill at any instant.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgedistill.errors import IntegrityError
from edgedistill.store import disk_errors
from edgedistill.types import Ask, Reply

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    key TEXT PRIMARY KEY,
    teacher TEXT NOT NULL,
    job TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('sent', 'answered', 'failed')),
    attempts INTEGER NOT NULL,
    sent_at REAL NOT NULL,
    ended_at REAL,
    reply TEXT,
    reason TEXT,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    usd REAL,
    reserved_usd REAL NOT NULL DEFAULT 0,
    lost_usd REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, teacher TEXT NOT NULL, keys TEXT NOT NULL, sent_at REAL NOT NULL, ended_at REAL
);
"""


COLUMNS = (
    "key, teacher, job, request, state, attempts, sent_at, ended_at, reply, reason, prompt_tokens, completion_tokens,"
    " usd, reserved_usd, lost_usd"
)
MERGE = (
    "ON CONFLICT (key) DO UPDATE SET state = excluded.state, ended_at = excluded.ended_at, reply = excluded.reply,"
    " reason = excluded.reason, prompt_tokens = excluded.prompt_tokens, usd = excluded.usd,"
    " completion_tokens = excluded.completion_tokens, attempts = attempts + excluded.attempts,"
    " lost_usd = lost_usd + excluded.lost_usd, reserved_usd = 0"
    " WHERE requests.state != 'answered' AND excluded.state = 'answered'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one teacher was asked and what it cost.

    Attributes:
        unanswered: requests whose answer never came: a kill, a broken connection, a refusal.
        usd: cost of the answers; None when the teacher has no price.
        lost_usd: the most that attempts without an answer can have cost.
    """

    teacher: str
    answered: int
    unanswered: int
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None
    lost_usd: float


class Journal:
    """The record of one labelling run, and of all that came before it. One process at a time writes it.

    Args:
        path: the file, made when it is missing.

    Attributes:
        job: what requests are booked under: the same rows with the same settings, in however many runs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job = ""
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint=0")  # `checkpoint` does it, where nobody waits for it
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise IntegrityError(
                f"the journal {path} cannot be read: {error}", hint="move it away; its answers will be asked for again"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def checkpoint(self) -> None:
        """Moves what was committed from the log into the file. Safe in another thread, while this one writes."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as db:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def find(self, key: str) -> Reply | None:
        """The answer to a request, if it was ever given."""
        found = self._db.execute("SELECT reply FROM requests WHERE key = ? AND state = 'answered'", (key,)).fetchone()
        return None if found is None else reply_of(found[0])

    def send(self, teacher: str, asks: Iterable[Ask], reserved_usd: Sequence[float] | None = None) -> None:
        """Records requests that are about to be sent. Those that were sent before count one attempt more."""
        now = time.time()
        rows = [
            (ask.key, teacher, self.job, request_of(ask), now, 0.0 if reserved_usd is None else reserved_usd[number])
            for number, ask in enumerate(asks)
        ]
        self._write(
            "INSERT INTO requests (key, teacher, job, request, state, attempts, sent_at, reserved_usd)"
            " VALUES (?, ?, ?, ?, 'sent', 1, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET state = 'sent', attempts = attempts + 1, sent_at = excluded.sent_at,"
            " reason = NULL, lost_usd = lost_usd + reserved_usd, reserved_usd = excluded.reserved_usd"
            " WHERE state != 'answered'",
            rows,
        )

    def answer(self, answers: Iterable[tuple[str, Reply, float | None]]) -> None:
        """Records answers, each with its cost in USD. Afterwards they are never asked for again."""
        now = time.time()
        self._write(
            "UPDATE requests SET state = 'answered', ended_at = ?, reply = ?, prompt_tokens = ?, completion_tokens = ?,"
            " usd = ?, reason = NULL, reserved_usd = 0 WHERE key = ? AND state != 'answered'",
            [
                (now, text_of(reply), reply.prompt_tokens, reply.completion_tokens, usd, key)
                for key, reply, usd in answers
            ],
        )

    def fail(self, key: str, reason: str, *, charged: bool) -> None:
        """Records that an attempt came to nothing. A later run asks again.

        Args:
            charged: whether the teacher may have charged for it: the connection broke after the request was sent.
        """
        self._write(
            "UPDATE requests SET state = 'failed', ended_at = ?, reason = ?, lost_usd = lost_usd + reserved_usd * ?,"
            " reserved_usd = 0 WHERE key = ? AND state != 'answered'",
            [(time.time(), reason[:500], int(charged), key)],
        )

    def accounts(self) -> dict[str, Account]:
        """What each teacher was asked for this job and what it cost, over all of its runs."""
        found = self._db.execute(
            "SELECT teacher, SUM(state = 'answered'), SUM(state != 'answered'), SUM(attempts), SUM(prompt_tokens),"
            " SUM(completion_tokens), SUM(usd),"
            " SUM(lost_usd + reserved_usd) FROM requests"
            " WHERE job = ? GROUP BY teacher",
            (self.job,),
        )
        names = (
            "teacher",
            "answered",
            "unanswered",
            "attempts",
            "prompt_tokens",
            "completion_tokens",
            "usd",
            "lost_usd",
        )
        return {row[0]: Account(**dict(zip(names, row, strict=True))) for row in found}

    def usual(self, teacher: str) -> tuple[int, float, float] | None:
        """What a teacher's answers to this job took: their number, mean tokens read, mean tokens written.

        None when there are fewer than five.
        """
        count, read, written = self._db.execute(
            "SELECT COUNT(*), AVG(prompt_tokens), AVG(completion_tokens) FROM requests"
            " WHERE job = ? AND teacher = ? AND state = 'answered'",
            (self.job, teacher),
        ).fetchone()
        return (count, read, written) if count >= 5 else None

    def spent(self) -> float:
        """What this job has cost so far in USD, with the most that unanswered requests can have cost."""
        return sum((account.usd or 0.0) + account.lost_usd for account in self.accounts().values())

    def states(self) -> dict[str, int]:
        """How many requests there are in each state."""
        return dict(self._db.execute("SELECT state, COUNT(*) FROM requests GROUP BY state").fetchall())

    def merge(self, other: Path) -> int:
        """Takes over what another journal knows and this one does not. Returns how many answers are new.

        An answer wins over a request without one; of two answers the one that is here stays. A journal that another
        process is about to make holds nothing yet.
        """
        before = self.states().get("answered", 0)
        self._db.execute("ATTACH ? AS other", (str(other),))
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                if not self._db.execute("SELECT 1 FROM other.sqlite_master WHERE name = 'requests'").fetchone():
                    return 0
                self._db.execute(
                    f"INSERT INTO requests ({COLUMNS}) SELECT {COLUMNS} FROM other.requests WHERE true {MERGE}"  # noqa: S608
                )
        finally:
            self._db.execute("DETACH other")
        return self.states().get("answered", 0) - before

    def entries(self, keys: Sequence[str]) -> list[str]:
        """What is recorded under each key, as JSON; nothing where nothing is."""
        found = self._db.execute(
            f"SELECT {COLUMNS} FROM requests WHERE key IN (SELECT value FROM json_each(?))",  # noqa: S608 - our names
            (json.dumps(list(keys)),),
        )
        return [json.dumps(row) for row in found]

    def take(self, entries: Iterable[str]) -> int:
        """Records entries of another journal, as `merge` does. Returns how many answers are new."""
        before = self.states().get("answered", 0)
        marks = ", ".join("?" * len(COLUMNS.split(",")))
        self._write(f"INSERT INTO requests ({COLUMNS}) VALUES ({marks}) {MERGE}", [json.loads(e) for e in entries])  # noqa: S608
        return self.states().get("answered", 0) - before

    def open_batches(self, teacher: str) -> list[tuple[str, list[str]]]:
        """Provider batches that were handed in and not fetched yet: their id and the keys of their requests."""
        found = self._db.execute("SELECT id, keys FROM batches WHERE teacher = ? AND ended_at IS NULL", (teacher,))
        return [(name, json.loads(keys)) for name, keys in found]

    def open_batch(self, name: str, teacher: str, keys: Sequence[str]) -> None:
        """Records a batch that a provider has taken on."""
        self._write(
            "INSERT OR IGNORE INTO batches (id, teacher, keys, sent_at) VALUES (?, ?, ?, ?)",
            [(name, teacher, json.dumps(keys), time.time())],
        )

    def close_batch(self, name: str) -> None:
        """Records that a batch was fetched, or given up."""
        self._write("UPDATE batches SET ended_at = ? WHERE id = ?", [(time.time(), name)])

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Runs a statement for each row, all or none."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(statement, rows)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: {error}") from error


def request_of(ask: Ask) -> str:
    """What was asked, for whoever reads the journal."""
    return json.dumps({"messages": ask.messages, "schema": ask.schema}, ensure_ascii=False, default=dict)


def text_of(reply: Reply) -> str:
    """A reply as JSON, without the fields that say nothing."""
    values = {field.name: getattr(reply, field.name) for field in fields(reply)}
    return json.dumps({name: value for name, value in values.items() if value not in (None, ())}, default=dict)


def reply_of(text: str) -> Reply:
    """A reply that was written by `text_of`."""
    value: Mapping[str, Any] = json.loads(text)
    lists = {name: tuple(value[name]) for name in ("tokens", "top_logprobs") if name in value}
    return Reply(**{**value, **lists})
