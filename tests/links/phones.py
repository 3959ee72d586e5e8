"""A stand-in for adb's server with one phone: it speaks the protocol, and its shell runs in a folder here."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import socketserver
import struct
import subprocess
import threading
from pathlib import Path

SERIAL = "R58M12ABCDE"
TEMPORARY = "/data/local/tmp"
VERSION = 41
PROPERTIES = {
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a",
    "ro.product.manufacturer": "Acme",
    "ro.product.model": "Phone 7",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
}


class Phone:
    """The server and its one phone.

    Attributes:
        state: as `adb devices` prints it.
        cut_at: the connection breaks while a shell command with this in it runs.
    """

    def __init__(self, folder: Path) -> None:
        self.temporary, self.programs = folder / "tmp", folder / "programs"
        self.temporary.mkdir(parents=True)
        self.programs.mkdir()
        self.state = "device"
        self.cut_at = ""
        self.program("getprop", f'cat "{folder}/properties/$1"')
        self.program("dumpsys", 'printf "Current Battery Service state:\\n  level: 81\\n  temperature: 287\\n"')
        (folder / "properties").mkdir()
        for name, value in PROPERTIES.items():
            (folder / "properties" / name).write_text(value)
        self.property = lambda name, value: (folder / "properties" / name).write_text(value)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.phone = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def program(self, name: str, script: str) -> None:
        """Puts a program on the phone."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def here(self, text: str) -> str:
        """Paths there, as they are on this machine."""
        return text.replace(TEMPORARY, str(self.temporary))

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    phone: Phone


class _Handler(socketserver.BaseRequestHandler):
    """One connection: requests to the server, then at most one service of the phone."""

    server: _Server
    request: socket.socket

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, EOFError):
            while self._one(self._exactly(int(self._exactly(4), 16)).decode()):
                pass

    def _one(self, wanted: str) -> bool:
        """Answers a request and says whether another may follow."""
        phone = self.server.phone
        if wanted == "host:version":
            self._okay(f"{VERSION:04x}".encode())
        elif wanted == "host:devices":
            self._okay(f"{SERIAL}\t{phone.state}\n".encode())
        elif wanted == f"host:tport:serial:{SERIAL}" and phone.state == "device":
            self.request.sendall(b"OKAY" + struct.pack("<Q", 1))
            return True
        elif wanted.startswith("shell:"):
            self._shell(phone.here(wanted.removeprefix("shell:")))
        elif wanted == "sync:":
            self.request.sendall(b"OKAY")
            self._sync()
        else:
            reason = f"device '{wanted}' not found".encode()
            self.request.sendall(b"FAIL" + f"{len(reason):04x}".encode() + reason)
        return False

    def _shell(self, command: str) -> None:
        phone = self.server.phone
        self.request.sendall(b"OKAY")
        path = f"{phone.programs}:/usr/bin:/bin"
        with subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": path, "HOME": "/"},
            start_new_session=True,
        ) as child:
            if phone.cut_at and phone.cut_at in command:
                os.killpg(child.pid, signal.SIGKILL)  # as adbd ends what ran in a shell that was closed
                return
            out, _ = child.communicate()
            self.request.sendall(out)

    def _sync(self) -> None:
        while True:
            what, size = struct.unpack("<4sI", self._exactly(8))
            path = self.server.phone.here(self._exactly(size).decode())
            if what == b"STAT":
                found = Path(path).stat() if Path(path).exists() else None
                told = (0, 0, 0) if found is None else (found.st_mode, found.st_size, 1)
                self.request.sendall(b"STAT" + struct.pack("<III", *told))
            elif what == b"SEND":
                self._receive(path)
            elif what == b"RECV":
                self._give(Path(path))

    def _receive(self, named: str) -> None:
        path, _, mode = named.rpartition(",")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("wb") as file:
            while True:
                what, size = struct.unpack("<4sI", self._exactly(8))
                if what == b"DONE":
                    break
                file.write(self._exactly(size))
        Path(path).chmod(int(mode) & 0o777)
        self.request.sendall(b"OKAY" + struct.pack("<I", 0))

    def _give(self, path: Path) -> None:
        if not path.is_file():
            self.request.sendall(b"FAIL" + struct.pack("<I", 9) + b"not found")
            return
        content = path.read_bytes()
        for start in range(0, len(content), 65536):
            part = content[start : start + 65536]
            self.request.sendall(b"DATA" + struct.pack("<I", len(part)) + part)
        self.request.sendall(b"DONE" + struct.pack("<I", 0))

    def _okay(self, answer: bytes) -> None:
        self.request.sendall(b"OKAY" + f"{len(answer):04x}".encode() + answer)

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = self.request.recv(size - len(found))
            if not part:
                raise EOFError
            found += part
        return found
