"""This machine: commands in fresh process groups that never outlive the call, and the link `local`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedistill import catalog
from edgedistill.errors import EngineCrashed, StageError
from edgedistill.links.link import Facts, PythonLink, beside
from edgedistill.types import Device

LAST_WORDS = 500
TIMEOUT_S = 3600.0
"""Long enough for whatever one command should do; it ends what hangs."""
QUIET = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
"""What measured processes are told, so that a tokenizer starts no threads of its own."""
ITSELF = "cpu"
"""The target that is the machine one sits at."""
SAME_RAM = 0.02
"""What a system has of it differs a little from kernel to kernel."""
PACKAGES = ("onnxruntime", "onnxruntime-genai", "llama-cpp-python", "tokenizers", "numpy")
"""What a bundle's runtime may run on."""


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
        with beside(files, arguments) as given:
            return run(
                [sys.executable, *given],
                cwd=Path(where),
                environment=QUIET | {"OMP_NUM_THREADS": str(threads)},
                timeout_s=timeout_s,
                what=f"python {' '.join(arguments[:2])} here",
            )


def is_here(device: Device) -> bool:
    """Whether a profile is of the machine that this runs on, or of another one like it: by name, cores and memory.

    A name alone says little: processors of clouds are called after their maker, and many boards "aarch64".
    """
    if device.name == ITSELF:
        return True
    ram = _ram_bytes()
    alike = ram is not None and math.isclose(ram, device.ram_bytes, rel_tol=SAME_RAM)
    same = device.machine is not None and catalog.is_named(device, processor())
    return same and alike and device.cores == os.cpu_count()


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
