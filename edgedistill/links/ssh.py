"""A device behind the system's own OpenSSH, with the user's configuration and known hosts.

One connection is made, and everything goes through it: a cell costs no handshake, and a command that finds the
connection cut fails instead of making another one in the middle of a measurement.

What lies on the device, below the user's home folder:

    .cache/edgedistill/  bundles/<digest>/  one a bundle, checked by hash, kept for the next run
                         sessions/<id>/     what a call needs; removed with the call, and at the end
                         venv/              a Python that is looked at first; the user makes it
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgedistill.errors import EngineCrashed, StageError
from edgedistill.links import board, local, openssh, remote
from edgedistill.links.link import Facts, PythonLink, parsed, refusal
from edgedistill.links.local import Ended
from edgedistill.store import ENTRY, digest, hashes

PAUSES_S = (1.0, 3.0)
"""Before a connection is tried again: a board that was just switched on, or a network that lost a packet."""
CALL_S = 120.0
CHECK_S = 600.0
"""For a slow card to read a large model."""
TRIES = 3
"""Of a transfer. It goes on from where it was cut."""
CUT = 255
"""What ssh ends with when it failed itself, and not what it ran."""
OF_THE_LINE = {10, 12, 30, 35, CUT}
"""Ends of rsync and scp that another connection may mend: socket, protocol stream, timeout."""
NO_SPACE = "No space left on device"
THERE = "device"
"""The host's name for commands that go through the connection: it stands for nothing."""
FORGET = 'rm -rf "$1"'
REMOVE = 'rm -rf "$1"; rmdir "$(dirname "$1")"'
STORE = 'mkdir -p "$1" && cat >"$1/$2"'
CELL = """
files=$1
cd "$2" || exit 1
shift 2
exec 3<&0
env "$@" </dev/null 3<&- & child=$!
{ read -r _ <&3; kill -9 $child; rm -rf "$files"; } >/dev/null 2>&1 & watch=$!
wait $child
status=$?
kill $watch
rm -rf "$files"
exit $status
"""
"""Arguments: a folder to remove, one to work in, and a command. Its input ends when the link does, and the command
with it: nothing goes on working where nobody listens. Waiting for that takes no processor time."""


class Ssh(PythonLink):
    """One device with Python, reached by `ssh`.

    Args:
        address: ssh://user@host:port; user and port may be left to the user's ssh configuration.

    Raises:
        InputError: the address holds what cannot be the name of a user or a host. Nothing was started.
    """

    def __init__(self, address: str) -> None:
        self._target = openssh.target(address)
        super().__init__(address, title=self._target.host)
        name = secrets.token_hex(8)
        self._socket = Path(tempfile.gettempdir()) / f"edgedistill-{name}" / "s"  # sockets need a short path
        self._session = f"{board.CACHE}/sessions/{name}"
        self._calls = 0
        self._told: dict[str, list[str]] = {}
        self._python = ""
        self._lying: dict[Path, str] = {}

    def look(self, bundle: Path | None = None) -> Facts:
        """Asks for everything in one round trip."""
        self._connect()
        pins = dict.fromkeys(remote.KNOWN) if bundle is None else remote.pins(bundle)
        imported = {} if bundle is None else {name: remote.MODULES.get(name, name) for name in pins}
        asked = time.time()
        self._told = remote.told(self._done(board.LOOK, remote.PROBE, json.dumps(pins), json.dumps(imported)))
        python = board.interpreter(self._told, pins)
        found = board.facts(self._told, python, now=asked)
        problems = board.problems(
            self._told,
            python,
            found,
            pins={} if bundle is None else pins,
            needed_bytes=0 if bundle is None or self._lies(bundle) else remote.size(bundle),
            by_hand=self._target.typed,
        )
        if problems or python is None:
            raise refusal(self.title, problems)
        self._python = python.path
        return found

    def put(self, folder: Path) -> str:
        """Sends what is not there yet, by rsync where both sides have it, and compares every byte's hash there."""
        if folder not in self._lying:
            self._looked()
            files = hashes(folder)
            place = f"{board.CACHE}/bundles/{digest(files)}"
            if self._hashes(place) != files:
                self._send(folder, place, files)
            self._lying[folder] = f"{self._told['home'][0]}/{place}"
        return self._lying[folder]

    def forget(self, folder: Path) -> None:
        """Removes it there, where the link still holds."""
        place = self._lying.pop(folder, None)
        if place is not None:
            with contextlib.suppress(EngineCrashed):  # the device hangs, and it stays there
                self._run(FORGET, place)

    def python(
        self, arguments: Sequence[str], *, where: str, files: Mapping[str, bytes], timeout_s: float, threads: int
    ) -> str:
        """Runs Python there. A link that breaks meanwhile ends it there, too, and it is not run again.

        Raises:
            StageError: the link broke.
            EngineCrashed: Python failed, was killed or took too long.
        """
        self._looked()
        self._connect()
        self._calls += 1
        place = f"{self._session}/{self._calls}"
        for name, content in files.items():
            self._done(STORE, place, name, given=content)
        here = f"{self._told['home'][0]}/{place}"
        settings = [f"{name}={value}" for name, value in remote.threads_environment(threads).items()]
        command = [self._python, *(argument.replace("{files}", here) for argument in arguments)]
        ended = self._run(
            CELL, here, where, *settings, *command, timeout_s=timeout_s, held=True, what=f"Python on {self.title}"
        )
        if ended.status == CUT:
            raise StageError(
                f"the link to {self.title} broke in the middle of a cell; nothing of the cell is kept: "
                f"{ended.last_words}",
                hint="is the device still on? Start again: its bundle lies there, and other devices are not affected",
            )
        if ended.status != 0:
            raise remote.died(self.title, ended.status, ended.last_words)
        return ended.out

    def close(self) -> None:
        """Removes what belonged to this session there, and ends the connection."""
        if not self._socket.parent.exists():
            return
        with contextlib.suppress(EngineCrashed):  # the device hangs, and what lies there stays
            if self._alive():
                self._run(REMOVE, self._session)
                self._control("exit")
        shutil.rmtree(self._socket.parent, ignore_errors=True)

    def _looked(self) -> None:
        if not self._python:
            self.look()

    def _lies(self, bundle: Path) -> bool:
        """Whether something of the bundle lies there. What may be wrong with it needs no further space."""
        lying = " ".join(self._told.get("bundles", ())).split()
        return bool(lying) and digest(hashes(bundle)) in lying

    def _connect(self) -> None:
        """Makes the connection when there is none. This alone is tried again.

        Raises:
            StageError: there is none to be had; what ssh said, in words.
        """
        if self._alive():
            return
        self._socket.parent.mkdir(mode=0o700, exist_ok=True)
        for pause in (*PAUSES_S, None):
            self._socket.unlink(missing_ok=True)  # of a connection that was cut
            way = [*openssh.settings(), "-o", "ControlMaster=yes", "-o", f"ControlPath={self._socket}"]
            try:
                ended = self._local(["ssh", "-f", "-N", *way, *self._target.argv])
            except EngineCrashed as error:
                if isinstance(error.__cause__, OSError):
                    hint = "install OpenSSH's client: apt install openssh-client"
                else:
                    hint = f"is it switched on, and not too busy? Try `{self._target.typed}`"
                raise StageError(f"no connection to {self.title}: {error.message}", hint=hint) from error
            if ended.status == 0:
                return
            why = openssh.explained(ended.err, self._target)
            if pause is None or not why.passing:
                raise why
            time.sleep(pause)

    def _alive(self) -> bool:
        return self._socket.exists() and self._control("check").status == 0

    def _control(self, what: str) -> Ended:
        return self._local(["ssh", *openssh.borrowed(str(self._socket)), "-O", what, "--", THERE])

    def _local(
        self,
        argv: Sequence[str | Path],
        *,
        timeout_s: float = CALL_S,
        given: bytes | None = None,
        held: bool = False,
        what: str = "",
    ) -> Ended:
        return local.ended(
            argv,
            cwd=self._socket.parent,
            environment={"LC_ALL": "C"},
            timeout_s=timeout_s,
            given=given,
            held=held,
            what=what,
        )

    def _run(
        self,
        script: str,
        *arguments: str,
        timeout_s: float = CALL_S,
        given: bytes | None = None,
        held: bool = False,
        what: str = "",
    ) -> Ended:
        """Runs a script there, in any user's shell. Each of its arguments arrives as it is, whatever letters it has."""
        command = shlex.join(["sh", "-c", script, "sh", *arguments])
        argv = ["ssh", *openssh.borrowed(str(self._socket)), "--", THERE, command]
        return self._local(argv, timeout_s=timeout_s, given=given, held=held, what=what or f"a command on {self.title}")

    def _done(self, script: str, *arguments: str, timeout_s: float = CALL_S, given: bytes | None = None) -> str:
        """The same, of a script that must not fail."""
        ended = self._run(script, *arguments, timeout_s=timeout_s, given=given)
        if ended.status == 0:
            return ended.out
        if ended.status == CUT:
            raise StageError(f"the link to {self.title} broke: {ended.last_words}")
        raise self._failed(ended)

    def _failed(self, ended: Ended) -> StageError:
        if NO_SPACE in ended.err:
            return StageError(
                f"{self.title} has no space left for ~/{board.CACHE}",
                hint=f"{self._target.typed} rm -rf {board.CACHE}/bundles (older bundles), or make room otherwise",
            )
        return StageError(f"a command on {self.title} ended with {ended.how}")

    def _hashes(self, place: str) -> Mapping[str, str]:
        out = self._done('"$@"', self._python, "-I", "-S", "-c", remote.HASHES, place, ENTRY, timeout_s=CHECK_S)
        return parsed(out, self.title)

    def _send(self, folder: Path, place: str, files: Mapping[str, str]) -> None:
        """Files that were cut are gone on with; what lies there is only used when all of it is right."""
        send = self._rsync if "rsync" in self._told and shutil.which("rsync") else self._scp
        why = ""
        for _ in range(TRIES):
            self._connect()
            ended = send(folder, place)
            if ended.status == 0 and self._hashes(place) == files:
                return
            why = ended.how if ended.status else "the files that arrived are not those that were sent"
            if NO_SPACE in ended.err:
                self._run(REMOVE, place)  # a full file system helps nobody
                raise self._failed(ended)
            if ended.status not in {0, *OF_THE_LINE} and self._alive():
                break
        raise StageError(
            f"{folder.name} could not be copied to {self.title}: {why}",
            hint="start again: with rsync on both sides it goes on from where it was cut",
        )

    def _rsync(self, folder: Path, place: str) -> Ended:
        self._done('mkdir -p "$1"', place)
        through = shlex.join(["ssh", *openssh.borrowed(str(self._socket))])
        left_out = ["--exclude=__pycache__/", f"--exclude={ENTRY}"]
        options = ["--recursive", "--checksum", "--partial", "--delete", "--timeout=60", *left_out, "-e", through]
        return self._local(
            ["rsync", *options, "--", f"{folder.resolve()}/", f"{THERE}:{place}/"], timeout_s=local.TIMEOUT_S
        )

    def _scp(self, folder: Path, place: str) -> Ended:
        """Into a fresh folder, because scp neither compares nor removes anything."""
        fresh = f"{self._session}/fresh"
        self._done('rm -rf "$1" && mkdir -p "$2" "$3"', fresh, self._session, str(Path(place).parent))
        argv = [
            "scp",
            "-q",
            "-r",
            *openssh.borrowed(str(self._socket)),
            "--",
            str(folder.resolve()),
            f"{THERE}:{fresh}",
        ]
        ended = self._local(argv, timeout_s=local.TIMEOUT_S)
        if ended.status == 0:
            self._done('rm -rf "$2" && mv "$1" "$2"', fresh, place)
        return ended
