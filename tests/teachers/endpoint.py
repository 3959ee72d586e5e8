"""A real HTTP server on loopback whose answers a test writes down beforehand, and which remembers what it was sent."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Message
    raw: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.raw)


@dataclass(frozen=True)
class Cut:
    """A body that breaks off: the connection is reset after these bytes."""

    start: bytes


Answer = tuple[int, Mapping[str, str], Any]
"""Status, headers, and a body: bytes, `Cut`, or anything that becomes JSON."""
Script = Answer | Callable[[Seen], Answer]


@dataclass
class Endpoint:
    """Gives the scripted answers one after the other, the last one for ever."""

    script: tuple[Script, ...]
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bodies(self) -> list[Any]:
        """What was sent as JSON, in its order."""
        return [seen.json for seen in self.seen]

    def answer(self, seen: Seen) -> Answer:
        """What the script says to a request."""
        with self._lock:
            self.seen.append(seen)
            next_ = self.script[min(len(self.seen), len(self.script)) - 1]
        return next_(seen) if callable(next_) else next_


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what some tests are about."""


@contextlib.contextmanager
def serving(*script: Script) -> Iterator[Endpoint]:
    """Serves in threads until the block ends."""
    endpoint = Endpoint(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits 40 ms for the acknowledgement of its headers

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen = Seen(self.command, parts.path, dict(parse_qsl(parts.query)), self.headers, raw)
            status, headers, body = endpoint.answer(seen)
            content = body.start if isinstance(body, Cut) else body if isinstance(body, bytes) else to_json(body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) + 100 * isinstance(body, Cut)))
            self.end_headers()
            self.wfile.write(content)
            if isinstance(body, Cut):
                self.close_connection = True
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        do_GET = do_POST = _serve  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = _Server(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def to_json(value: Any) -> bytes:
    """A body of JSON."""
    return json.dumps(value).encode()


def completion(text: str = "yes", *, finish: str = "stop", **more: Any) -> Answer:
    """A chat completion; `more` goes into its choice."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}
    return 200, {}, {"id": "c-1", "choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 3}}


def message(*blocks: Mapping[str, Any], stop: str = "end_turn") -> Answer:
    """An Anthropic message."""
    usage = {"input_tokens": 12, "output_tokens": 4}
    return 200, {}, {"id": "m-1", "content": list(blocks), "stop_reason": stop, "usage": usage}


def refused(status: int, said: str, **headers: str) -> Answer:
    """An error as OpenAI and Anthropic write it."""
    return status, headers, {"error": {"type": "invalid_request_error", "message": said}}
