"""The files of one page, served to the browser on this machine and to nobody else."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

HOST = "127.0.0.1"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
}
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
"""With the first two a page may have threads, and a clock in steps of 5 µs (HTML standard, cross-origin isolation)."""


class Server:
    """Answers on a free port of this machine while it is open, as a context manager.

    A path is looked up in a table and never on the disk, so there is nothing to be had beside what is in the table.

    Args:
        files: what is served at each path: a file, or its bytes.
    """

    def __init__(self, files: Mapping[str, Path | bytes]) -> None:
        self._files = dict(files)
        self._server = ThreadingHTTPServer((HOST, 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def origin(self) -> str:
        """What addresses of the page begin with."""
        return f"http://{self._name}"

    @property
    def _name(self) -> str:
        return f"{HOST}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _open(self, path: str) -> tuple[BinaryIO, int]:
        """A file by its path, and its size in bytes. Raises KeyError where there is none."""
        found = self._files[path]
        if isinstance(found, bytes):
            return BytesIO(found), len(found)
        return found.open("rb"), found.stat().st_size

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                # Another name for this machine in the address is a page of someone else that was led here.
                if self.headers.get("Host") != server._name:
                    self._refuse(421)
                    return
                try:
                    file, size = server._open(self.path)
                except (KeyError, OSError):
                    self._refuse(404)
                    return
                with file:
                    self.send_response(200)
                    self._head(TYPES.get(Path(self.path).suffix, "application/octet-stream"), size)
                    shutil.copyfileobj(file, self.wfile)

            def _refuse(self, status: int) -> None:
                self.send_response(status)
                self._head("text/plain", 0)

            def _head(self, kind: str, size: int) -> None:
                for name, value in {"Content-Type": kind, "Content-Length": str(size), **ISOLATED}.items():
                    self.send_header(name, value)
                self.end_headers()

            def handle(self) -> None:
                try:
                    super().handle()
                except ConnectionError:
                    return  # a page that is closed stops reading

            def log_message(self, *_: object) -> None:
                return  # a library prints nothing

        return Handler
