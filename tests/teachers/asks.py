"""Requests for tests of teachers, and what a teacher makes of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from edgedistill.teachers.answerer import Answerer, Failure
from edgedistill.types import Ask, Reply

LABELS = ("door", "light", "music")
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": list(LABELS)}},
    "required": ["answer"],
    "additionalProperties": False,
}


def ask(text: str = "open the door", *, system: str = "", **changes: Any) -> Ask:
    """A request with a user's turn, and a system's before it."""
    turns = ({"role": "system", "content": system},) if system else ()
    values: dict[str, Any] = {
        "messages": (*turns, {"role": "user", "content": text}),
        "schema": None,
        "max_tokens": 16,
        "temperature": 0.0,
        **changes,
    }
    named = json.dumps(values, default=str)
    return Ask(**{"key": hashlib.sha256(named.encode()).hexdigest(), **values})


def answers(teacher: Answerer, *asks: Ask) -> list[Reply | Failure]:
    """What a teacher answers to one call, with its connections closed afterwards."""

    async def call() -> Sequence[Reply | Failure]:
        try:
            return await teacher.answer(asks)
        finally:
            if teacher.identity["kind"] in ("openai", "anthropic"):
                await teacher.close()

    return list(asyncio.run(call()))


def reply(teacher: Answerer, one: Ask) -> Reply:
    """A teacher's answer to one request; a failure is raised."""
    (found,) = answers(teacher, one)
    if isinstance(found, Failure):
        raise found
    return found
