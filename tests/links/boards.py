"""A board to test against: a real sshd on this machine, with a home folder, a PATH and keys of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
SFTP = next((p for p in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server") if Path(p).exists()), "")
SEPARATION = Path("/run/sshd")
NAME = "kitchen"


class Board:
    """sshd in the foreground. `home` is what its users find as theirs; `programs` comes first in their PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.programs = folder, folder / "home", folder / "programs"
        self.home.mkdir(parents=True)
        self.programs.mkdir()
        self.program("python3.11", f'exec {sys.executable} "$@"')
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for name in ("host", "user", "stranger"):
            self._key(name)
        shutil.copy(folder / "user.pub", folder / "authorized")
        self.known = folder / "known_hosts"
        self.knows((folder / "host.pub").read_text())
        self.config = folder / "ssh_config"
        self._write_config()
        self._write_sshd_config()
        self._start()

    @property
    def address(self) -> str:
        return f"ssh://{NAME}"

    def program(self, name: str, script: str) -> None:
        """Puts a program on the board, before the system's own of that name."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def knows(self, public_key: str) -> None:
        """Makes this the one host key that the client knows."""
        self.known.write_text(f"[127.0.0.1]:{self.port} {public_key}")

    def cut(self) -> None:
        """Kills the sessions; the server goes on."""
        for process in self.sessions():
            os.kill(process, signal.SIGKILL)

    def sessions(self) -> list[int]:
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text().split()
        below = [Path(f"/proc/{child}/task/{child}/children").read_text().split() for child in children]
        return [int(child) for child in children] + [int(one) for some in below for one in some if self._is_sshd(one)]

    def stop(self) -> None:
        self.cut()
        self._server.terminate()
        self._server.wait()

    @staticmethod
    def _is_sshd(process: str) -> bool:
        return Path(f"/proc/{process}/comm").read_text().strip() == "sshd"

    def _key(self, name: str) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name)]
        subprocess.run(command, check=True)

    def _write_config(self) -> None:
        settings = {
            "HostName": "127.0.0.1",
            "Port": self.port,
            "User": getpass.getuser(),
            "IdentityFile": self.folder / "user",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.known,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "no",  # what a careless user has written; the link must not follow it
        }
        self.config.write_text(f"Host {NAME}\n" + "".join(f"  {name} {value}\n" for name, value in settings.items()))

    def _write_sshd_config(self) -> None:
        entry = self.folder / "entry"  # sshd starts sessions in the home folder that the system knows
        entry.write_text('#!/bin/sh\ncd "$HOME" && exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
        entry.chmod(0o755)
        path = f"{self.programs}:/usr/bin:/bin"
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": self.folder / "host",
            "AuthorizedKeysFile": self.folder / "authorized",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "UsePAM": "no",
            "StrictModes": "no",
            "PermitRootLogin": "prohibit-password",
            "PidFile": "none",
            "Subsystem": f"sftp {SFTP}",
            "SetEnv": f"HOME={self.home} PATH={path}",
            "ForceCommand": entry,
        }
        (self.folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    def _start(self) -> None:
        if os.geteuid() == 0:
            SEPARATION.mkdir(exist_ok=True)  # sshd wants it where nothing has started it before
        with (self.folder / "log").open("w") as log:
            command = [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self._server = subprocess.Popen(command, stderr=log)
        for _ in range(100):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError((self.folder / "log").read_text())
