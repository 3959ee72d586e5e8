"""Commands on this machine, each in a fresh process group that never outlives the call."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgedistill.errors import EngineCrashed

LAST_WORDS = 500
TIMEOUT_S = 3600.0
"""Long enough for whatever one command should do; it ends what hangs."""


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
    try:
        child = subprocess.Popen(
            [str(part) for part in argv],
            cwd=cwd,
            env=dict(os.environ) | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise EngineCrashed(f"{argv[0]} could not be started: {error.strerror}") from error
    with child:
        try:
            out, err = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise EngineCrashed(
                f"{what or Path(argv[0]).name} did not finish in {timeout_s:.0f} s",
                hint="is the machine busy, or the workload too large for it?",
            ) from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    if child.returncode != 0:
        how = (
            f"status {child.returncode}" if child.returncode > 0 else f"signal {signal.Signals(-child.returncode).name}"
        )
        raise EngineCrashed(f"{Path(argv[0]).name} ended with {how}: {err.strip()[-LAST_WORDS:] or 'it said nothing'}")
    return out
