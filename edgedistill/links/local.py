"""Commands on this machine, each in a fresh process group that never outlives the call."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedistill.errors import EngineCrashed

LAST_WORDS = 500
TIMEOUT_S = 3600.0
"""Long enough for whatever one command should do; it ends what hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended: its exit status, negative for a signal, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The end of what it complained about."""
        return self.err.strip()[-LAST_WORDS:] or "it said nothing"

    @property
    def how(self) -> str:
        """The status in words, and the last ones of the command."""
        status = f"status {self.status}" if self.status > 0 else f"signal {signal.Signals(-self.status).name}"
        return f"{status}: {self.last_words}"


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    what: str = "",
) -> str:
    """Runs a command and returns what it printed. It waits without using the processor.

    Args:
        argv: the program and its arguments; no shell is involved.
        environment: laid over this process's own.
        what: the command's purpose, for the message when it takes too long; its program's name without one.

    Raises:
        EngineCrashed: the command could not be started, failed, was killed or took too long; with its last words.
    """
    done = ended(argv, cwd=cwd, environment=environment, timeout_s=timeout_s, what=what)
    if done.status != 0:
        raise EngineCrashed(f"{Path(argv[0]).name} ended with {done.how}")
    return done.out


def ended(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    what: str = "",
    given: bytes | None = None,
    held: bool = False,
) -> Ended:
    """Runs a command to its end, whatever that is.

    Args:
        given: what the command reads from its standard input; None is nothing.
        held: its standard input stays open, and empty, until the command ends or this process does.

    Raises:
        EngineCrashed: the command could not be started, or took too long.
    """
    read, write = os.pipe() if held else (None, None)
    try:
        child = subprocess.Popen(
            [str(part) for part in argv],
            cwd=cwd,
            env=dict(os.environ) | dict(environment or {}),
            stdin=read if read is not None else subprocess.DEVNULL if given is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        _close(read, write)
        raise EngineCrashed(f"{argv[0]} could not be started: {error.strerror}") from error
    with child:
        try:
            out, err = child.communicate(given, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise EngineCrashed(
                f"{what or Path(argv[0]).name} did not finish in {timeout_s:.0f} s",
                hint="is the machine busy, or the workload too large for it?",
            ) from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            _close(read, write)
    return Ended(status=child.returncode, out=out.decode(errors="replace"), err=err.decode(errors="replace"))


def _close(*ends: int | None) -> None:
    for end in ends:
        if end is not None:
            os.close(end)
