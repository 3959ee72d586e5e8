"""A real endpoint on loopback for tests of labelling: it counts what it accepts, and fails as often as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

FAULTS = ("busy", "error", "hang", "truncated", "schema", "duplicate", "reset")
LABELS = ("even", "odd")


def label_of(text: str) -> str:
    """What the server answers to a prompt; the same for the same text."""
    return LABELS[hashlib.sha256(text.encode()).digest()[0] % 2]


@dataclass
class Endpoint:
    """What the server did. `accepted` counts good answers by prompt, `charged` those that an account would pay for."""

    faults: tuple[str, ...] = ()
    share: float = 0.0
    delay_s: float = 0.0
    seed: int = 0
    unusable: int = 0
    says: Callable[[str], str] = label_of
    accepted: Counter[str] = field(default_factory=Counter)
    charged: set[str] = field(default_factory=set)
    failed: Counter[str] = field(default_factory=Counter)
    keys: list[str] = field(default_factory=list)
    most_at_once: int = 0
    port: int = 0
    _now: int = 0
    _last_id: str = "first"

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One chat completion, or a fault."""
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            body: dict[str, Any] = await request.json()
            self.keys.append(request.headers.get("Idempotency-Key", ""))
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self._random.random() < self.share:
                return await self._fault(self._random.choice(self.faults), request)
            return self._good(body, request)
        finally:
            self._now -= 1

    def _good(self, body: dict[str, Any], request: web.Request) -> web.Response:
        text = body["messages"][-1]["content"]
        self.accepted[text] += 1
        self.charged.add(request.headers["Idempotency-Key"])
        number = int(hashlib.sha256(text.encode()).hexdigest()[:6], 16)
        answer = "perhaps" if number % 100 < self.unusable else json.dumps({"answer": self.says(text)})
        self._last_id = f"id-{request.headers['Idempotency-Key'][:16]}"
        return web.json_response(self._completion(answer, self._last_id))

    async def _fault(self, fault: str, request: web.Request) -> web.StreamResponse:
        self.failed[fault] += 1
        match fault:
            case "busy":
                return web.Response(status=429, headers={"Retry-After": "0.05"}, text="slow down")
            case "error":
                return web.Response(status=500, text="oh no")
            case "hang":
                await asyncio.sleep(30)
            case "truncated":
                return web.Response(text='{"id": "x", "choices": [{"mess', content_type="application/json")
            case "schema":
                return web.json_response({"id": "y", "object": "list", "data": []})
            case "duplicate":
                return web.json_response(self._completion('{"answer": "odd"}', self._last_id))
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    @staticmethod
    def _completion(text: str, name: str) -> dict[str, Any]:
        usage = {"prompt_tokens": 50, "completion_tokens": 8}
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return {"id": name, "choices": [choice], "usage": usage}

    @contextlib.contextmanager
    def running(self) -> Iterator[Endpoint]:
        """Serves in a thread until the block ends."""
        self._random = random.Random(self.seed)
        started = threading.Event()
        loop = asyncio.new_event_loop()

        async def start() -> web.AppRunner:
            app = web.Application()
            app.router.add_post("/v1/chat/completions", self.answer)
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            started.set()
            return runner

        def serve() -> None:
            asyncio.set_event_loop(loop)
            runner = loop.run_until_complete(start())
            loop.run_forever()
            loop.run_until_complete(runner.cleanup())
            loop.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        started.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
