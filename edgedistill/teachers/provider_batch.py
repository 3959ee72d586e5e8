"""OpenAI-style batches: many requests in one file, answered within a day at about half the price.

    requests ─► /files (JSON lines) ─► /batches ─► poll ─► /files/ID/content ─► answers, matched by custom_id

The id of a batch is recorded as soon as the provider gives it, so a run that was killed while it waited goes on waiting
for the same batch instead of handing in another.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from edgedistill.config import LabelTeacher
from edgedistill.teachers.answerer import Broken, Declined, Failure
from edgedistill.teachers.api import OpenAI, read_completion
from edgedistill.teachers.http import AGAIN, BUSY
from edgedistill.types import Ask, Reply

MOST = 50_000
"""Requests that a provider takes in one batch."""
LINGER_S = 1.0
FIRST_POLL_S = 1.0
LONGEST_POLL_S = 60.0
RUNNING = ("validating", "in_progress", "finalizing", "cancelling")
ENDPOINT = "/v1/chat/completions"


class BatchBook(Protocol):
    """Where batches that were handed in are remembered; the journal is one."""

    def open_batches(self, teacher: str) -> list[tuple[str, list[str]]]:
        """Batches that were not fetched yet: id and keys."""

    def open_batch(self, name: str, teacher: str, keys: Sequence[str]) -> None:
        """Remembers a batch."""

    def close_batch(self, name: str) -> None:
        """Forgets a batch that was fetched."""


class OpenAIBatch(OpenAI):
    """An endpoint with files and batches. One call answers as many requests as came together."""

    batch = MOST
    slots = 1
    linger_s = LINGER_S

    def __init__(
        self,
        settings: LabelTeacher,
        environment: Mapping[str, str] | None = None,
        *,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        super().__init__(settings, environment)
        self.slots = 1
        self.book: BatchBook | None = None
        self._sleep = sleep
        self._proven = False
        self._fetched: dict[str, Reply | Failure] = {}
        self._untaken: dict[str, set[str]] = {}
        self._forms = self._forms[:1]  # nobody can be asked beforehand

    async def answer(self, asks: Sequence[Ask]) -> Sequence[Reply | Failure]:
        """Takes what earlier batches hold, hands in the rest, waits, and fetches.

        A row that is missing in the result has failed. The very first request is asked for directly, at the full price:
        better than to learn tomorrow that the model's name was wrong.
        """
        wanted = {ask.key for ask in asks}
        # Each time: a connection that broke while a batch was waited for must lead back to it, not to another one.
        for name, keys in self.book.open_batches(self.name) if self.book is not None else ():
            if name not in self._untaken and not wanted.isdisjoint(keys):
                await self._fetch(name, keys)
        left = [ask for ask in asks if ask.key not in self._fetched]
        if left and not self._proven:
            self._fetched[left[0].key] = (await super().answer(left[:1]))[0]
            left = left[1:]
        self._proven = True
        if left:
            await self._fetch(await self._hand_in(left), [ask.key for ask in left])
        return [self._taken(ask.key) for ask in asks]

    def _taken(self, key: str) -> Reply | Failure:
        """An answer that was fetched; from now on it is the caller's."""
        for keys in self._untaken.values():
            keys.discard(key)
        return self._fetched.pop(key, Broken("the batch has no answer to it"))

    async def close(self) -> None:
        """Forgets the batches whose answers were all taken, and closes the connections."""
        for name, keys in self._untaken.items():
            if not keys and self.book is not None:
                self.book.close_batch(name)
        await super().close()

    async def _hand_in(self, asks: Sequence[Ask]) -> str:
        import aiohttp

        lines = "\n".join(
            json.dumps({"custom_id": ask.key, "method": "POST", "url": ENDPOINT, "body": self.body(ask)}, default=dict)
            for ask in asks
        )
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", lines.encode(), filename="requests.jsonl", content_type="application/jsonl")
        file = await self._made("/files", form)
        body = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"}
        name = await self._made("/batches", json.dumps(body).encode())
        if self.book is not None:
            self.book.open_batch(name, self.name, [ask.key for ask in asks])
        return name

    async def _fetch(self, name: str, keys: Sequence[str]) -> None:
        """Waits for a batch and reads its answers. The first answer to a request counts.

        The batch stays in the book until its answers were taken: a kill in between costs another look, no money.
        """
        pause = FIRST_POLL_S
        while (state := await self._json("GET", f"/batches/{name}")).get("status") in RUNNING:
            await self._sleep(pause)
            pause = min(LONGEST_POLL_S, pause * 1.5)
        found: dict[str, Reply | Failure] = {}
        for kind in ("output_file_id", "error_file_id"):
            if state.get(kind):
                for line in (await self._raw("GET", f"/files/{state[kind]}/content")).splitlines():
                    key, answer = _read_line(line, self.http.scrubbed)
                    if key is not None and not isinstance(found.get(key), Reply):
                        found[key] = answer
        self._fetched |= found
        self._untaken[name] = set(found)
        if not found and state.get("status") != "completed":
            said = self.http.scrubbed(json.dumps(state.get("errors") or state.get("status")))
            self._fetched |= {key: Declined(f"the batch {state.get('status')}: {said}") for key in keys}

    async def _made(self, path: str, body: Any) -> str:
        """The id of what is made."""
        found = (await self._json("POST", path, body)).get("id")
        if not isinstance(found, str) or not found:
            raise Broken(f"{path}: the answer has no id", charged=True)
        return found

    async def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        try:
            found = json.loads(await self._raw(method, path, body))
        except (ValueError, RecursionError) as error:
            raise Broken(f"{path}: the answer is not complete JSON", charged=method == "POST") from error
        if not isinstance(found, dict):
            raise Broken(f"{path}: the answer is no JSON object", charged=method == "POST")
        return found

    async def _raw(self, method: str, path: str, body: Any = None) -> bytes:
        status, headers, raw = await self.http.call(method, self.base + path, body)
        if status != 200:
            self.http.fail(status, headers, raw)
        return raw


def _read_line(line: bytes, scrubbed: Callable[[str], str]) -> tuple[str | None, Reply | Failure]:
    """The key and the answer in one line of a result file. A line that is damaged answers nothing."""
    try:
        value = json.loads(line)
        key = str(value["custom_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, Broken("a damaged line")
    try:
        response = value.get("response") or {}
        status = response.get("status_code")
        if status == 200:
            return key, read_completion(response["body"])
        said = scrubbed(str(value.get("error") or response.get("body")))
    except (Broken, AttributeError, KeyError, TypeError) as error:
        return key, Broken(f"{type(error).__name__}: {error}", charged=True)
    # Without a status the provider never came to it: the batch expired or was cancelled.
    return key, Broken(said) if status is None or status in (*BUSY, *AGAIN) else Declined(said)
