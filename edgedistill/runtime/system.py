"""What the system's files and the programs of a board's maker say; None where there is nothing to read or to ask."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path("/")
BOARD = "proc/device-tree/model"
"""The name of a board, where there is one: a Raspberry Pi's own program is asked nowhere else."""
TIMEOUT_S = 5.0


def text(path: Path) -> str | None:
    """What a file of the system says."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return None


def number(path: Path) -> float | None:
    """The one number in a file of the system."""
    try:
        return float(text(path) or "")
    except ValueError:
        return None


def asked(command: Sequence[str]) -> str | None:
    """What a program says. It takes milliseconds of a core, so nothing is timed meanwhile."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
