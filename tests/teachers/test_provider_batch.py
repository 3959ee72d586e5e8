"""Batches: each request is paid for once, whatever the result files look like and whenever the run was killed."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgedistill.config import LabelTeacher
from edgedistill.errors import EdgeDistillError, InputError
from edgedistill.labeling.journal import Journal
from edgedistill.teachers.answerer import Broken, Declined, Failure
from edgedistill.teachers.provider_batch import LONGEST_POLL_S, BatchBook, OpenAIBatch
from edgedistill.types import Ask, Reply
from tests.teachers.asks import SCHEMA, ask
from tests.teachers.endpoint import Answer, Cut, Endpoint, Seen, completion, refused, serving

ENVIRONMENT = {"TEACHER_KEY": "sk-not-for-anybody-0123456789"}
ROWS = [ask(f"text {number}", schema=SCHEMA) for number in range(6)]

Spoil = Callable[[list[bytes]], list[bytes]]


class Killed(Exception):
    """What ends a run while it waits."""


@dataclass
class Book:
    """What is remembered of batches, in memory."""

    open: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)

    def open_batches(self, teacher: str) -> list[tuple[str, list[str]]]:
        return [(name, keys) for name, (owner, keys) in self.open.items() if owner == teacher]

    def open_batch(self, name: str, teacher: str, keys: Sequence[str]) -> None:
        self.open[name] = (teacher, list(keys))

    def close_batch(self, name: str) -> None:
        self.closed.append(name)
        del self.open[name]


@dataclass
class Provider:
    """Files and batches as OpenAI has them, in memory.

    Attributes:
        polls: how often a batch is still under way when it is looked at.
        spoil: what becomes of the lines of a result file.
        failing: keys whose lines stand in the error file, with their content.
        lost: batches that fail.
        before: called before each request is answered; what it returns is the answer instead.
    """

    polls: int = 2
    final: str = "completed"
    spoil: Spoil = list
    failing: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: Callable[[Seen], Answer | None] = lambda seen: None
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    looked: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, seen: Seen) -> Answer:
        with self._lock:
            return self.before(seen) or self._answer(seen)

    def _answer(self, seen: Seen) -> Answer:
        match (seen.method, *seen.path.removeprefix("/v1/").split("/")):
            case ("POST", "chat", "completions"):
                return completion("directly")
            case ("POST", "files"):
                name = f"file-{len(self.files)}"
                self.files[name] = seen.raw
                return 200, {}, {"id": name, "purpose": "batch"}
            case ("POST", "batches"):
                name = f"batch-{len(self.batches)}"
                self.batches[name] = {"id": name, "status": "validating", **seen.json}
                self.looked = 0
                return 200, {}, self.batches[name]
            case ("GET", "batches", name):
                return 200, {}, self._looked_at(name)
            case ("GET", "files", name, "content"):
                return 200, {"Content-Type": "application/octet-stream"}, self.files[name]
        return refused(404, f"nothing at {seen.path}")

    def requests(self, name: str) -> list[dict[str, Any]]:
        """What a batch was handed in with."""
        raw = self.files[self.batches[name]["input_file_id"]]
        return [json.loads(line) for line in raw.splitlines() if line.startswith(b'{"custom_id"')]

    def _looked_at(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        self.looked += 1
        if self.looked <= self.polls:
            return batch | {"status": "in_progress"}
        if self.final == "failed" or name in self.lost:
            return batch | {"status": "failed", "errors": {"data": [{"message": "the file is too large"}]}}
        keys = [request["custom_id"] for request in self.requests(name)]
        results = self.spoil([line(key) for key in keys if key not in self.failing])
        self.files[f"out-{name}"] = b"\n".join(results)
        self.files[f"errors-{name}"] = b"\n".join(
            json.dumps({"custom_id": key, **said}).encode() for key, said in self.failing.items()
        )
        found = {"status": self.final, "output_file_id": f"out-{name}", "error_file_id": None}
        return batch | found | ({"error_file_id": f"errors-{name}"} if self.failing else {})

    def handed_in(self, endpoint: Endpoint) -> int:
        """How many batches were made."""
        return sum((seen.method, seen.path) == ("POST", "/v1/batches") for seen in endpoint.seen)


def line(key: str, text: str | None = None, status: int = 200) -> bytes:
    """A line of a result file."""
    body = completion(f"answer to {key}" if text is None else text)[2]
    response = {"status_code": status, "request_id": "r", "body": body}
    return json.dumps({"id": "l", "custom_id": key, "response": response, "error": None}).encode()


def teacher(endpoint: Endpoint, book: BatchBook | None = None, pauses: list[float] | None = None) -> OpenAIBatch:
    async def sleep(seconds: float) -> None:
        if pauses is not None:
            pauses.append(seconds)

    settings = {"kind": "openai", "model": "big", "base_url": endpoint.url, "key_env": "TEACHER_KEY", "batch": True}
    made = OpenAIBatch(LabelTeacher.model_validate(settings), ENVIRONMENT, sleep=sleep)
    made.book = book
    return made


def called(made: OpenAIBatch, *calls: Sequence[Ask], closed: bool = True) -> list[list[Reply | Failure]]:
    """What comes of calls, one after the other; without `closed`, as a run that is killed leaves it."""

    async def go() -> list[list[Reply | Failure]]:
        try:
            return [list(await made.answer(asks)) for asks in calls]
        finally:
            await (made.close() if closed else made.http.close())

    return asyncio.run(go())


def texts(found: Sequence[Reply | Failure]) -> list[str]:
    return [one.text if isinstance(one, Reply) else type(one).__name__ for one in found]


def expected(asks: Sequence[Ask]) -> list[str]:
    return [f"answer to {one.key}" for one in asks]


def test_the_first_request_goes_directly_and_the_others_come_back_in_order_from_one_batch() -> None:
    pauses: list[float] = []
    with serving(provider := Provider()) as endpoint:
        (found,) = called(teacher(endpoint, Book(), pauses), ROWS)
    assert texts(found) == ["directly", *expected(ROWS[1:])]
    paths = [(seen.method, seen.path) for seen in endpoint.seen]
    assert paths[:3] == [("POST", "/v1/chat/completions"), ("POST", "/v1/files"), ("POST", "/v1/batches")]
    assert paths[3:6] == [("GET", "/v1/batches/batch-0")] * 3
    assert len(pauses) == 2
    assert pauses == sorted(pauses)
    assert all(0 < pause <= LONGEST_POLL_S for pause in pauses)
    made = provider.batches["batch-0"]
    assert (made["endpoint"], made["completion_window"]) == ("/v1/chat/completions", "24h")


def test_a_batch_holds_the_requests_that_would_be_sent_directly() -> None:
    with serving(provider := Provider()) as endpoint:
        made = teacher(endpoint, Book())
        called(made, ROWS)
    requests = provider.requests("batch-0")
    assert [one["custom_id"] for one in requests] == [one.key for one in ROWS[1:]]
    assert {(one["method"], one["url"]) for one in requests} == {("POST", "/v1/chat/completions")}
    assert [one["body"] for one in requests] == [json.loads(json.dumps(made.body(one))) for one in ROWS[1:]]
    assert b'name="purpose"' in provider.files["file-0"]


def test_every_request_to_the_provider_carries_the_key() -> None:
    with serving(Provider()) as endpoint:
        called(teacher(endpoint, Book()), ROWS)
    assert {seen.headers["Authorization"] for seen in endpoint.seen} == {f"Bearer {ENVIRONMENT['TEACHER_KEY']}"}


def shuffled(lines: list[bytes]) -> list[bytes]:
    return random.Random(1).sample(lines, len(lines))


def no_second(lines: list[bytes]) -> list[bytes]:
    return [lines[0], *lines[2:]]


def twice(lines: list[bytes]) -> list[bytes]:
    return [*lines, line(ROWS[2].key, "another answer")]


def from_elsewhere(lines: list[bytes]) -> list[bytes]:
    return [line("of somebody else"), b"", *lines]


def cut(at: int) -> Spoil:
    return lambda lines: [lines[0], lines[1][:at], *lines[2:]]


def replaced(by: bytes) -> Spoil:
    return lambda lines: [lines[0], by, *lines[2:]]


@pytest.mark.parametrize(
    ("spoil", "lost"),
    [
        (shuffled, None),
        (twice, None),
        (from_elsewhere, None),
        (no_second, "Broken"),
        (cut(0), "Broken"),
        (cut(40), "Broken"),
        (cut(150), "Broken"),
        (replaced(b"7"), "Broken"),
        (replaced(b"[" * 100_000), "Broken"),
        (replaced(json.dumps({"custom_id": ROWS[2].key, "response": {"status_code": 200}}).encode()), "Broken"),
        (replaced(json.dumps({"custom_id": ROWS[2].key, "response": "yes"}).encode()), "Broken"),
        (replaced(json.dumps({"custom_id": ROWS[2].key}).encode()), "Broken"),
        (replaced(line(ROWS[2].key, status=500)), "Broken"),
        (replaced(line(ROWS[2].key, status=429)), "Broken"),
        (replaced(line(ROWS[2].key, status=400)), "Declined"),
    ],
    ids=[
        "shuffled", "a duplicate", "a line of another batch", "a row is missing", "an empty line", "a line cut early",
        "a line cut late", "a number", "too deep", "no body", "no response", "nothing", "its 500", "its 429", "its 400",
    ],
)  # fmt: skip
def test_answers_are_found_by_their_key_and_a_spoilt_line_costs_only_its_own_row(
    spoil: Spoil, lost: str | None
) -> None:
    with serving(Provider(spoil=spoil)) as endpoint:
        (found,) = called(teacher(endpoint, Book()), ROWS)
    whole = ["directly", *expected(ROWS[1:])]
    assert texts(found) == ([*whole[:2], lost, *whole[3:]] if lost else whole)


def test_a_row_in_the_error_file_says_why_and_never_shows_the_key() -> None:
    key = ENVIRONMENT["TEACHER_KEY"]
    failing: dict[str, dict[str, Any]] = {
        ROWS[2].key: {"response": {"status_code": 400, "body": {"error": {"message": f"too long, {key}"}}}},
        ROWS[4].key: {"response": None, "error": {"code": "batch_expired", "message": f"not in time, {key}"}},
    }
    with serving(Provider(failing=failing, final="expired")) as endpoint:
        (found,) = called(teacher(endpoint, Book()), ROWS)
    assert texts(found)[1::2] == expected(ROWS[1::2])
    assert type(found[2]) is Declined
    assert "too long" in str(found[2])
    assert type(found[4]) is Broken  # it was never looked at
    assert "not in time" in str(found[4])
    assert key not in f"{found}"


def test_the_id_of_a_batch_is_recorded_before_it_is_first_looked_at(tmp_path: Path) -> None:
    recorded: list[list[tuple[str, list[str]]]] = []

    def before(seen: Seen) -> None:
        if seen.path.startswith("/v1/batches/"):
            with Journal(tmp_path / "journal.sqlite") as other:
                recorded.append(other.open_batches("big"))

    with serving(Provider(before=before, polls=0)) as endpoint, Journal(tmp_path / "journal.sqlite") as journal:
        called(teacher(endpoint, journal), ROWS)
        assert recorded == [[("batch-0", [one.key for one in ROWS[1:]])]]
        assert journal.open_batches("big") == []


def killed_while_waiting(endpoint: Endpoint, book: BatchBook) -> None:
    first = teacher(endpoint, book)

    async def killed(seconds: float) -> None:
        raise Killed

    first._sleep = killed
    with pytest.raises(Killed):
        called(first, ROWS, closed=False)


def test_a_run_that_was_killed_while_it_waited_goes_on_with_the_same_batch(tmp_path: Path) -> None:
    with serving(provider := Provider()) as endpoint:
        with Journal(tmp_path / "journal.sqlite") as journal:
            killed_while_waiting(endpoint, journal)
            assert [name for name, _ in journal.open_batches("big")] == ["batch-0"]
        with Journal(tmp_path / "journal.sqlite") as journal:
            (found,) = called(teacher(endpoint, journal), ROWS)
            assert journal.open_batches("big") == []
    assert texts(found) == ["directly", *expected(ROWS[1:])]
    assert provider.handed_in(endpoint) == 1


def test_what_a_killed_run_had_not_handed_in_goes_into_a_batch_of_its_own() -> None:
    more = [ask(f"one more {number}") for number in range(2)]
    book = Book()
    with serving(provider := Provider()) as endpoint:
        killed_while_waiting(endpoint, book)
        (found,) = called(teacher(endpoint, book), [*ROWS, *more])
    assert texts(found) == ["directly", *expected([*ROWS[1:], *more])]
    assert [one["custom_id"] for one in provider.requests("batch-1")] == [one.key for one in more]
    assert (book.open, book.closed) == ({}, ["batch-0", "batch-1"])


def test_answers_of_an_old_batch_that_are_asked_for_in_a_later_call_are_not_paid_for_again() -> None:
    book = Book()
    with serving(provider := Provider()) as endpoint:
        killed_while_waiting(endpoint, book)
        calls = called(teacher(endpoint, book), ROWS[:1], ROWS[1:3], ROWS[3:])
    assert [texts(found) for found in calls] == [["directly"], expected(ROWS[1:3]), expected(ROWS[3:])]
    assert provider.handed_in(endpoint) == 1


def test_a_run_that_was_killed_before_its_answers_were_written_down_reads_the_batch_again() -> None:
    book = Book()
    with serving(provider := Provider()) as endpoint:
        called(teacher(endpoint, book), ROWS, closed=False)
        assert list(book.open) == ["batch-0"]
        (found,) = called(teacher(endpoint, book), ROWS)
    assert texts(found) == ["directly", *expected(ROWS[1:])]
    assert provider.handed_in(endpoint) == 1
    assert (book.open, book.closed) == ({}, ["batch-0"])


def test_what_an_old_batch_holds_is_not_asked_for_directly_either() -> None:
    book = Book()
    with serving(Provider()) as endpoint:
        killed_while_waiting(endpoint, book)
        calls = called(teacher(endpoint, book), ROWS[1:2], ROWS[2:])
    assert [texts(found) for found in calls] == [expected(ROWS[1:2]), expected(ROWS[2:])]
    assert sum(seen.path.endswith("/completions") for seen in endpoint.seen) == 1
    assert book.open == {}


def test_an_old_batch_whose_answers_were_not_all_asked_for_stays_recorded() -> None:
    book = Book()
    with serving(provider := Provider()) as endpoint:
        killed_while_waiting(endpoint, book)
        called(teacher(endpoint, book), ROWS[:3])
        assert list(book.open) == ["batch-0"]
        (found,) = called(teacher(endpoint, book), ROWS[1:])
    assert texts(found) == expected(ROWS[1:])
    assert provider.handed_in(endpoint) == 1
    assert book.open == {}


def test_an_old_batch_that_holds_nothing_of_what_is_asked_is_not_waited_for() -> None:
    book = Book(open={"batch-7": ("big", ["of other rows"])})
    with serving(Provider()) as endpoint:
        called(teacher(endpoint, book), ROWS)
        assert "/v1/batches/batch-7" not in {seen.path for seen in endpoint.seen}
    assert list(book.open) == ["batch-7"]


def test_an_old_batch_that_failed_is_forgotten_so_that_the_next_run_hands_its_rows_in_again() -> None:
    book = Book()
    with serving(provider := Provider()) as endpoint:
        killed_while_waiting(endpoint, book)
        provider.lost = ("batch-0",)
        (found,) = called(teacher(endpoint, book), ROWS)
        assert texts(found) == ["directly"] + ["Declined"] * 5
        assert book.open == {}
        (found,) = called(teacher(endpoint, book), ROWS)
    assert texts(found) == ["directly", *expected(ROWS[1:])]


def test_batches_of_another_teacher_are_left_alone() -> None:
    book = Book(open={"batch-7": ("another", [one.key for one in ROWS])})
    with serving(Provider()) as endpoint:
        (found,) = called(teacher(endpoint, book), ROWS)
    assert texts(found) == ["directly", *expected(ROWS[1:])]
    assert list(book.open) == ["batch-7"]


def test_a_batch_that_the_provider_refuses_declines_its_rows_and_is_forgotten() -> None:
    book = Book()
    with serving(Provider(final="failed")) as endpoint:
        (found,) = called(teacher(endpoint, book), ROWS)
    assert texts(found) == ["directly"] + ["Declined"] * 5
    assert "the file is too large" in str(found[1])
    assert (book.open, book.closed) == ({}, ["batch-0"])


def test_a_provider_that_stumbles_while_a_batch_is_waited_for_loses_nothing() -> None:
    stumbles = {"/v1/batches/": refused(500, "oh no"), "/v1/files/": (200, {}, Cut(b"{"))}

    def before(seen: Seen) -> Answer | None:
        return next((stumbles.pop(path) for path in [*stumbles] if seen.path.startswith(path)), None)

    with serving(provider := Provider(before=before)) as endpoint:
        made = teacher(endpoint, Book())
        with pytest.raises(Broken, match="oh no"):
            called(made, ROWS, closed=False)
        with pytest.raises(Broken, match="the connection broke"):
            called(made, ROWS, closed=False)
        (found,) = called(made, ROWS)
    assert texts(found) == ["directly", *expected(ROWS[1:])]
    assert provider.handed_in(endpoint) == 1
    assert sum(seen.path.endswith("/completions") for seen in endpoint.seen) == 1


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
@pytest.mark.parametrize("body", [b"", b'{"id": ', b"[1]", b"{}", b"[" * 100_000], ids=lambda body: str(body)[:12])
def test_a_provider_that_answers_nonsense_is_broken(path: str, body: bytes) -> None:
    def before(seen: Seen) -> Answer | None:
        return (200, {}, body) if seen.path == path else None

    with serving(Provider(before=before)) as endpoint, pytest.raises(Broken):
        called(teacher(endpoint, Book()), ROWS)


def test_a_wrong_model_is_found_out_before_anything_is_handed_in() -> None:
    with serving(lambda seen: refused(404, "there is no model 'big'")) as endpoint:
        with pytest.raises(InputError, match="there is no model"):
            called(teacher(endpoint, Book()), ROWS)
        assert [seen.path for seen in endpoint.seen] == ["/v1/chat/completions"]


def test_an_endpoint_without_batches_says_so() -> None:
    def before(seen: Seen) -> Answer | None:
        return refused(404, "no files here") if seen.path == "/v1/files" else None

    with serving(Provider(before=before)) as endpoint, pytest.raises(EdgeDistillError, match="no files here"):
        called(teacher(endpoint, Book()), ROWS)


def test_without_a_book_batches_work_all_the_same() -> None:
    with serving(Provider()) as endpoint:
        (found,) = called(teacher(endpoint), ROWS)
    assert texts(found) == ["directly", *expected(ROWS[1:])]
