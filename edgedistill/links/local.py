"""This machine: commands in fresh process groups that never outlive the call, and the link `local`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgedistill.errors import EngineCrashed, StageError
from edgedistill.links.link import Facts, PythonLink

LAST_WORDS = 500
TIMEOUT_S = 3600.0
"""Long enough for whatever one command should do; it ends what hangs."""
QUIET = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
"""What measured processes are told, so that a tokenizer starts no threads of its own."""
PACKAGES = ("onnxruntime", "onnxruntime-genai", "llama-cpp-python", "tokenizers", "numpy")
"""What a bundle's runtime may run on."""


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


class Local(PythonLink):
    """This machine. A bundle is measured where it lies, each cell in a fresh child of this Python."""

    def __init__(self, address: str = "local") -> None:
        super().__init__(address, "this machine")

    def look(self, bundle: Path | None = None) -> Facts:
        """What this machine is, and whether the bundle's packages are installed in the versions that it pins."""
        if bundle is not None and (problems := _missing(bundle)):
            remedy = f"pip install -r {bundle / 'requirements.txt'}"
            raise StageError(f"{bundle} cannot run here: {'; '.join(problems)}", hint=remedy)
        return {
            "machine": processor(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "ram_bytes": _ram_bytes(),
            "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        }

    def put(self, folder: Path) -> str:
        """It is here."""
        return str(folder.resolve())

    def python(
        self, arguments: Sequence[str], *, where: str, files: Mapping[str, bytes], timeout_s: float, threads: int
    ) -> str:
        """Runs this Python in a fresh process, and waits without using the processor."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            return run(
                [sys.executable, *(argument.replace("{files}", folder) for argument in arguments)],
                cwd=Path(where),
                environment=QUIET | {"OMP_NUM_THREADS": str(threads)},
                timeout_s=timeout_s,
                what=f"python {' '.join(arguments[:2])} here",
            )


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model", "Hardware"))]
    return names[0] if names else platform.processor() or platform.machine()


def _missing(bundle: Path) -> list[str]:
    """What the bundle pins and is not installed so."""
    problems = []
    for line in (bundle / "requirements.txt").read_text(encoding="utf-8").splitlines():
        name, _, wanted = line.partition("==")
        found = _version(name)
        if found is None:
            problems.append(f"{name} is not installed")
        elif wanted and found != wanted:
            problems.append(f"it pins {name} {wanted}, and {found} is installed")
    return problems


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _ram_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
