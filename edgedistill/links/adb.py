"""An Android phone by adb: a bundle and a Python for it are pushed to a folder that needs no rights, and run there.

No app and no Termux: the arm64 root that emulation uses (`edgedistill doctor --setup-emulator`) goes to the phone as it
is and is started through its own loader, so nothing of Android's system library is needed. The shell of adb is under
no app's filter of system calls. What a phone must have: 64-bit ARM, USB debugging allowed for this machine, 300 MB
free; no root rights. No phone has been measured with it yet: it was tried against a server that speaks adb's protocol,
and the start through the loader under qemu.

    /data/local/tmp/edgedistill/  python-<digest>/   the arm64 root, checked by hash, kept for the next run
                                  bundles/<digest>/  one a bundle, checked by hash, kept for the next run
                                  session-<id>/      what a call needs; removed with the call, and at the end
"""

from __future__ import annotations

import contextlib
import importlib
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill.archive import pack
from edgedistill.errors import EngineCrashed, InputError, MissingExtra, StageError
from edgedistill.links import arm64_root, local, phone, remote
from edgedistill.links.link import Facts, PythonLink, parsed, refusal
from edgedistill.store import ENTRY, digest, file_sha256, hashes

ADDRESS = re.compile(r"adb://(?P<serial>[A-Za-z0-9][A-Za-z0-9._:-]{0,127})")
"""As `adb devices` prints them: R58M12ABCDE, emulator-5554, 192.168.1.7:5555."""
SHOWN = 60
CALL_S = 120.0
PUSH_S = 600.0
TRIES = 2
READY = "ready"
UNPACK = 'rm -rf "$1" && mkdir -p "$1" && tar -xf "$2" -C "$1"; status=$?; rm -f "$2"; exit $status'
RUN = """
files=$1
cd "$2" || exit 1
shift 2
env "$@" </dev/null >"$files/out" 2>"$files/err" & child=$!
echo $child >"$files/pid"
wait $child
"""
"""Arguments: the folder of the call, one to work in, and a command. Where the call ends before the command does, `END`
ends that, too: on a phone it would go on otherwise."""
END = """
for pid in "$1/pid" "$1"/*/pid; do
  [ -f "$pid" ] && kill -9 "$(cat "$pid")"
done
rm -rf "$1" "$1.tar"
"""
"""Argument: the folder of a call or of a session. Nobody but this link makes files of these names."""


class Adb(PythonLink):
    """One phone.

    Args:
        address: adb://serial, as `adb devices` prints it.

    Raises:
        InputError: this cannot be a serial number.
        MissingExtra: adbutils is not installed.
    """

    def __init__(self, address: str) -> None:
        found = ADDRESS.fullmatch(address)
        if found is None:
            raise InputError(
                f"{address[:SHOWN]!r} is no address for adb",
                hint="adb://serial, with a serial that `adb devices` prints",
            )
        self._serial = found["serial"]
        super().__init__(address, title=self._serial)
        try:
            self._adb: Any = importlib.import_module("adbutils")
        except ImportError as error:
            raise MissingExtra("adbutils", extra="android") from error
        self._root, self._runs = "", False
        self._session = f"{phone.FOLDER}/session-{secrets.token_hex(8)}"
        self._calls = 0
        self._wrote = False
        self._lying: dict[Path, str] = {}

    def look(self, bundle: Path | None = None) -> Facts:
        """Is the phone there, has it allowed this machine, and can it run the bundle?"""
        with self._linked("looked at"):
            self._check_state()
            asked = time.time()
            status, out = self._shell(phone.LOOK)
        if status != 0:
            raise StageError(f"the shell of {self.title} ended with status {status}: {out[-local.LAST_WORDS :]}")
        told = remote.told(out)
        held = phone.sent()
        found = phone.facts(told, held, now=asked)
        self.title = found["machine"] or self._serial
        self._root = f"{phone.FOLDER}/{phone.root_name()}" if held else ""
        lying = told.get("lying", [""])[0].split()
        needed = 0 if self._root.rpartition("/")[2] in lying else phone.ROOT_BYTES
        problems = phone.problems(
            told,
            held,
            found,
            pins={} if bundle is None else remote.pins(bundle),
            needed_bytes=needed + (0 if bundle is None else remote.size(bundle)),
        )
        if problems:
            raise refusal(self.title, problems)
        return found

    def put(self, folder: Path) -> str:
        """Pushes the files that are not there yet, and compares every byte's hash there."""
        if folder not in self._lying:
            self._ready()
            files = hashes(folder)
            place = f"{phone.FOLDER}/bundles/{digest(files)}"
            with self._linked("sent files"):
                self._send(folder, place, files)
            self._lying[folder] = place
        return self._lying[folder]

    def forget(self, folder: Path) -> None:
        """Removes it there, where the link still holds."""
        place = self._lying.pop(folder, None)
        if place is not None:
            with contextlib.suppress(StageError), self._linked("tidied up"):
                self._shell('rm -rf "$1"', place)

    def python(
        self, arguments: Sequence[str], *, where: str, files: Mapping[str, bytes], timeout_s: float, threads: int
    ) -> str:
        """Runs Python there. What it prints is written to a file there and fetched at the end.

        Raises:
            StageError: the link broke; nothing of the cell is kept.
            EngineCrashed: Python failed, was killed or took too long.
        """
        self._ready()
        self._calls += 1
        self._wrote = True
        place = f"{self._session}/{self._calls}"
        settings = {**remote.threads_environment(threads), **phone.environment(self._root)}
        command = phone.started(self._root, [argument.replace("{files}", place) for argument in arguments])
        try:
            with self._linked("in the middle of a cell; nothing of the cell is kept"):
                self._do('mkdir -p "$1"', place)
                for name, content in files.items():
                    self._device.sync.push(content, f"{place}/{name}")
                named = [f"{name}={value}" for name, value in settings.items()]
                status, said = self._shell(RUN, place, where, *named, *command, timeout_s=timeout_s)
                out, err = (self._device.sync.read_bytes(f"{place}/{name}") for name in ("out", "err"))
                self._do('rm -rf "$1"', place)
        except BaseException:  # a key that was pressed, too
            self._end(place)
            raise
        if status == 0:
            return str(out.decode(errors="replace"))
        words = (err.decode(errors="replace").strip() or said.strip())[-local.LAST_WORDS :] or "it said nothing"
        raise remote.died(self.title, status, words)

    def close(self) -> None:
        """Ends and removes what belonged to this session there."""
        if self._wrote:
            self._end(self._session)

    def _end(self, place: str) -> None:
        """Ends what was started in a folder there, and removes it; what is gone cannot be tidied up."""
        with contextlib.suppress(StageError), self._linked("tidied up"):
            self._shell(END, place)

    @property
    def _device(self) -> Any:
        return self._adb.AdbClient().device(self._serial)

    @contextlib.contextmanager
    def _linked(self, when: str) -> Iterator[None]:
        """What adbutils raises, in words: which phone, and when."""
        try:
            yield
        except self._adb.AdbTimeout as error:
            raise EngineCrashed(f"{self.title} did not answer in time when it was {when}") from error
        except (self._adb.AdbError, OSError, EOFError) as error:
            said = " ".join(map(str, error.args))
            if "adb exe" in said or "adb server" in said:
                remedy = (
                    "ANDROID_ADB_SERVER_HOST and ANDROID_ADB_SERVER_PORT name one elsewhere; `adb devices` starts one"
                )
                raise StageError(
                    f"no adb server answers here, and none could be started: {said}", hint=remedy
                ) from error
            raise StageError(
                f"the link to {self.title} broke {when}: {said[-local.LAST_WORDS :] or type(error).__name__}",
                hint="is the cable in, and the phone awake? Start again: what was pushed lies there",
            ) from error

    def _check_state(self) -> None:
        states = {found.serial: found.state for found in self._adb.AdbClient().list()}
        state = states.get(self._serial)
        if state != "device":
            what, remedy = phone.unusable(self._serial, state, sorted(states))
            raise StageError(what, hint=remedy)

    def _shell(self, script: str, *arguments: str, timeout_s: float = CALL_S) -> tuple[int, str]:
        """Runs a script there. Each of its arguments arrives as it is, whatever letters it has."""
        done = self._device.shell2(shlex.join(["sh", "-c", script, "sh", *arguments]), timeout=timeout_s)
        return done.returncode, done.output

    def _do(self, script: str, *arguments: str, timeout_s: float = CALL_S) -> str:
        """The same, of a script that must not fail."""
        status, out = self._shell(script, *arguments, timeout_s=timeout_s)
        if status == 0:
            return out
        if phone.NO_SPACE in out:
            raise StageError(f"{self.title} has no space left in {phone.FOLDER}", hint=phone.MAKE_ROOM)
        raise StageError(f"a command on {self.title} ended with status {status}: {out.strip()[-local.LAST_WORDS :]}")

    def _ready(self) -> None:
        """A Python that runs lies there."""
        if self._runs:
            return
        if not self._root:
            self.look()
        base = arm64_root.root()
        with self._linked("sent its Python"):
            if READY not in self._do('ls "$1" 2>/dev/null; exit 0', self._root).split():
                names = phone.contents(base)
                with tempfile.TemporaryDirectory() as folder:
                    archive = Path(folder) / "python.tar"
                    pack(base, names, archive)
                    self._wrote = True
                    self._do('mkdir -p "$1"', phone.FOLDER)
                    self._device.sync.push(archive, f"{self._session}.tar")
                self._do(UNPACK, self._root, f"{self._session}.tar", timeout_s=PUSH_S)
                if self._hashes(self._root) != {name: file_sha256(base / name) for name in names}:
                    raise StageError(f"the Python on {self.title} is not what was sent", hint="start again")
                self._do('touch "$1"', f"{self._root}/{READY}")
        self._runs = True

    def _hashes(self, place: str) -> Mapping[str, str]:
        command = phone.started(self._root, ["-I", "-S", "-c", remote.HASHES, place, ENTRY])
        named = [f"{name}={value}" for name, value in phone.environment(self._root).items()]
        return parsed(self._do('env "$@"', *named, *command, timeout_s=PUSH_S), self.title)

    def _send(self, folder: Path, place: str, files: Mapping[str, str]) -> None:
        for _ in range(TRIES):
            there = self._hashes(place)
            if there == files:
                return
            for name in there.keys() - files.keys():
                self._do('rm -f "$1"', f"{place}/{name}")
            missing = [name for name in files if there.get(name) != files[name]]
            self._do('mkdir -p "$@"', *sorted({str(Path(place, name).parent) for name in missing}))
            for name in missing:
                self._device.sync.push(folder / name, f"{place}/{name}", mode=0o644)
        if self._hashes(place) != files:
            raise StageError(f"the files that arrived on {self.title} are not those that were sent", hint="start again")
