"""A judge at a real endpoint on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.labeling.server import Endpoint

Verdict = Callable[[dict[str, Any]], str]


class Judge(Endpoint):
    """An endpoint that answers with what a verdict function says of the JSON that it is given."""

    verdict: Verdict

    def _good(self, body: dict[str, Any], request: web.Request) -> web.Response:
        text = body["messages"][-1]["content"]
        self.accepted[text] += 1
        name = request.headers["Idempotency-Key"][:16]
        return web.json_response(self._completion(self.verdict(json.loads(text)), name))


def says(name: str) -> str:
    return json.dumps({"winner": name})


def longer(shown: dict[str, Any]) -> str:
    a, b = len(shown["A"]), len(shown["B"])
    return says("tie" if a == b else "A" if a > b else "B")
