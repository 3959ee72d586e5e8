"""Provider batches: what is handed in, what comes back damaged or not at all, and a run that is killed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from edgedistill.config import LabelTeacher
from edgedistill.labeling.journal import Journal
from edgedistill.teachers.answerer import Broken, Declined, Failure
from edgedistill.teachers.provider_batch import OpenAIBatch
from edgedistill.types import Ask, Reply


def completion(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}


def line(key: str, text: str) -> str:
    return json.dumps({"custom_id": key, "response": {"status_code": 200, "body": completion(text)}})


@dataclass
class Provider:
    """Files and batches in memory. A batch is done at its third look."""

    direct: list[str] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)
    looks: int = 0
    status: str = "completed"
    spoil: Callable[[list[str]], list[str]] = lambda lines: lines
    port: int = 0

    async def completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.direct.append(body["messages"][-1]["content"])
        return web.json_response(completion("direct"))

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        lines = form["file"].file.read().decode().splitlines()  # type: ignore[union-attr]
        self.handed_in = [json.loads(one) for one in lines]
        return web.json_response({"id": "file-in"})

    async def create(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert body == {
            "input_file_id": "file-in",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        self.batches.append([one["custom_id"] for one in self.handed_in])
        return web.json_response({"id": f"batch-{len(self.batches)}", "status": "validating"})

    async def look(self, request: web.Request) -> web.Response:
        self.looks += 1
        state = "in_progress" if self.looks % 3 else self.status
        return web.json_response({"status": state, "output_file_id": "out" if state == "completed" else None})

    async def content(self, request: web.Request) -> web.Response:
        lines = [line(key, f"answer to {key}") for key in reversed(self.batches[-1])]
        return web.Response(text="\n".join(self.spoil(lines)))

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        loop, started = asyncio.new_event_loop(), threading.Event()

        async def start() -> web.AppRunner:
            app = web.Application()
            app.router.add_post("/v1/chat/completions", self.completions)
            app.router.add_post("/v1/files", self.upload)
            app.router.add_post("/v1/batches", self.create)
            app.router.add_get("/v1/batches/{name}", self.look)
            app.router.add_get("/v1/files/out/content", self.content)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            started.set()
            return runner

        def serve() -> None:
            runner = loop.run_until_complete(start())
            loop.run_forever()
            loop.run_until_complete(runner.cleanup())
            loop.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        started.wait(10)
        yield f"http://127.0.0.1:{self.port}/v1"
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def asks(*keys: str) -> list[Ask]:
    return [
        Ask(key=k, messages=({"role": "user", "content": k},), schema=None, max_tokens=9, temperature=0.0) for k in keys
    ]


async def at_once(seconds: float) -> None:
    """Time passes."""


def run(
    url: str, book: Journal | None, wanted: Sequence[Ask], sleep: Callable[[float], Coroutine[Any, Any, None]] = at_once
) -> list[Reply | Failure]:
    teacher = OpenAIBatch(LabelTeacher(kind="openai", model="big", base_url=url, batch=True), {}, sleep=sleep)
    teacher.book = book

    async def go() -> list[Reply | Failure]:
        try:
            return list(await teacher.answer(wanted))
        finally:
            await teacher.close()

    return asyncio.run(go())


def test_the_first_request_goes_directly_and_the_others_as_one_batch(tmp_path: Path) -> None:
    provider = Provider()
    with provider.running() as url, Journal(tmp_path / "j.sqlite") as book:
        found = run(url, book, asks("a", "b", "c"))
        assert book.open_batches("big") == []
    assert [one.text for one in found if isinstance(one, Reply)] == ["direct", "answer to b", "answer to c"]
    assert provider.direct == ["a"]
    assert provider.batches == [["b", "c"]]
    assert [one["body"]["messages"][-1]["content"] for one in provider.handed_in] == ["b", "c"]


def spoiled(lines: list[str]) -> list[str]:
    """One answer missing, one twice, one damaged, one refused by the provider."""
    refused = json.dumps({"custom_id": "d", "response": {"status_code": 400, "body": {"error": "too long"}}})
    return [line("b", "first"), line("b", "second"), '{"custom_id": "c", "resp', refused]


def test_rows_that_are_missing_or_damaged_have_failed_and_the_first_of_two_answers_counts(tmp_path: Path) -> None:
    with Provider(spoil=spoiled).running() as url, Journal(tmp_path / "j.sqlite") as book:
        _, b, c, d, e = run(url, book, asks("a", "b", "c", "d", "e"))
    assert isinstance(b, Reply)
    assert b.text == "first"
    assert isinstance(c, Broken)
    assert isinstance(d, Declined)
    assert "too long" in str(d)
    assert isinstance(e, Broken)


class Killed(Exception):
    """The process ends here."""


def test_a_run_that_was_killed_while_it_waited_goes_on_waiting_for_the_same_batch(tmp_path: Path) -> None:
    async def die(seconds: float) -> None:
        raise Killed

    provider = Provider()
    with provider.running() as url, Journal(tmp_path / "j.sqlite") as book:
        with pytest.raises(Killed):
            run(url, book, asks("a", "b", "c"), die)
        assert book.open_batches("big") == [("batch-1", ["b", "c"])]
        provider.looks = 0
        (b,) = run(url, book, asks("b"))
        assert isinstance(b, Reply)
        assert b.text == "answer to b"
        assert book.open_batches("big") == [("batch-1", ["b", "c"])], "c was not taken yet"
        found = run(url, book, asks("b", "c"))
        assert [one.text for one in found if isinstance(one, Reply)] == ["answer to b", "answer to c"]
        assert len(provider.batches) == 1
        assert provider.direct == ["a"]
        assert book.open_batches("big") == []


def test_a_batch_that_failed_is_said(tmp_path: Path) -> None:
    with Provider(status="failed").running() as url, Journal(tmp_path / "j.sqlite") as book:
        a, b = run(url, book, asks("a", "b"))
        assert isinstance(a, Reply)
        assert isinstance(b, Declined)
        assert "the batch failed" in str(b)
        assert book.open_batches("big") == []
