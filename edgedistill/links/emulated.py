"""aarch64 programs on this machine under qemu-user: right instruction set and answers, never right times.

Answers are those of the emulated core, which decides the kernels that the engine takes: a cortex-a53 has no dot
products. Memory is the program's own, as it would be on a board with these files: what the system tells of the process
holds the emulator too, with its translations of all code that ran, so `guest.py` counts apart what the program asked
for. Of a process that held 166 MB so, 69 MB were the program's, and the same program took 70 MB on this machine. The
highest mark of a process is the emulator's alone, so there is no peak.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from edgedistill.errors import InputError, StageError
from edgedistill.links import guest, local
from edgedistill.links.arm64_root import EMULATOR, PYTHON, REMEDY, SETUP, WHEELS, held, root, wanted
from edgedistill.links.link import Facts, PythonLink, beside
from edgedistill.types import Cell, Kind, NotMeasured, What

CUT_SHORT = "the emulated run did not come to its end"
"""How the reason begins when a check was tried and said nothing: the next build tries again."""
CORES = ("cortex-a53", "cortex-a72", "cortex-a76")
NO_PEAK = "the highest mark of an emulated process is the emulator's"
SHOWN = 60


class Emulated(PythonLink):
    """A core of a board, emulated on this machine."""

    kind: ClassVar[Kind] = "emulated"
    can: ClassVar[frozenset[What]] = frozenset({"answers", "memory"})

    def __init__(self, address: str) -> None:
        core = address.partition("://")[2]
        if core not in CORES:
            raise InputError(
                f"{address[:SHOWN]!r} is no core that is emulated",
                hint=" or ".join(f"emulated://{name}" for name in CORES),
            )
        super().__init__(address, f"{core}, emulated")
        self._core = core

    def look(self, bundle: Path | None = None) -> Facts:
        """Looks for the emulator, the arm64 files and, of a bundle, the packages that it pins.

        Raises:
            StageError: something is missing, or the bundle's engine has no arm64 package.
        """
        lacking = missing(None if bundle is None else _pinned(bundle))
        if lacking is not None:
            raise StageError(f"{self.title}, is not ready: {lacking.reason}", hint=lacking.remedy)
        return {
            "machine": "aarch64",
            "system": f"{EMULATOR} on {os.uname().sysname}",
            "python": Path(PYTHON).name.removeprefix("python"),
            "cores": os.cpu_count(),
            "ram_bytes": None,
            "packages": held(),
        }

    def put(self, folder: Path) -> str:
        """The files are on this machine already."""
        return str(folder.resolve())

    def python(
        self, arguments: Sequence[str], *, where: str, files: Mapping[str, bytes], timeout_s: float, threads: int
    ) -> str:
        """Runs arm64 Python; a module of the bundle has its memory counted without the emulator's."""
        with beside(files, arguments) as given:
            return run(
                [guest.__file__, *given] if given[0] == "-m" else given,
                cpu=self._core,
                cwd=Path(where),
                environment={"OMP_NUM_THREADS": str(threads)},
                timeout_s=timeout_s,
            )

    def measure(self, bundle: Path, texts: Sequence[Any], cell: Cell) -> Mapping[str, Any]:
        """Runs a cell of answers or memory.

        Raises:
            InputError: times were asked for.
            EngineCrashed: the process died.
        """
        if cell.what not in self.can:
            raise InputError(f"{self.title}, has no clock to ask for {cell.what}", hint="it can: answers, memory")
        return without_peak(super().measure(bundle, texts, cell))


def without_peak(samples: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same samples without the highest mark of memory, which is the emulator's."""
    told = {name: found for name, found in samples.items() if isinstance(found, dict) and "peak" in found}
    return {**samples, **{name: {**found, "peak": None} for name, found in told.items()}, "reason": NO_PEAK}


def missing(needed: Mapping[str, str] | None = None) -> NotMeasured | None:
    """Why nothing can be emulated here, or None when it can.

    Args:
        needed: packages with their versions; None takes those of encoders.
    """
    name = "emulation"
    if shutil.which(EMULATOR) is None:
        return NotMeasured(name=name, reason=f"{EMULATOR} is not installed", remedy=REMEDY)
    ready = held()
    if not ready:
        return NotMeasured(name=name, reason="there is no arm64 root to run in", remedy=REMEDY)
    needed = wanted() if needed is None else needed
    if not needed.items() <= ready.items():
        reason = f"the arm64 root holds {_named(ready)}, and what runs in it is {_named(needed)}"
        return NotMeasured(name=name, reason=reason, remedy=SETUP)
    return None


def _pinned(bundle: Path) -> Mapping[str, str]:
    """The packages that a bundle names, with their versions.

    Raises:
        StageError: one of them is never in the arm64 root.
    """
    lines = (bundle / "requirements.txt").read_text(encoding="utf-8").split()
    found = dict(line.split("==") for line in lines)
    if others := sorted(found.keys() - set(WHEELS)):
        raise StageError(
            f"{bundle} runs on {', '.join(others)}, and emulated bundles run on {', '.join(WHEELS)}",
            hint="what a decoder writes under emulation is compared when its file is made; measure it on a board",
        )
    return found


def _named(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def run(
    arguments: Sequence[str | Path],
    *,
    cpu: str,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = local.TIMEOUT_S,
) -> str:
    """Runs arm64 Python with these arguments on an emulated core. Raises EngineCrashed when it fails.

    Args:
        cpu: the core's name in qemu, which decides the instruction set: "cortex-a53" has no dot products.
    """
    base = root()
    argv = [EMULATOR, "-cpu", cpu, "-L", base, base / PYTHON, *arguments]
    path = {"PYTHONPATH": str(base / "site"), **(environment or {})}
    return local.run(argv, cwd=cwd, environment=path, timeout_s=timeout_s, what=f"Python on an emulated {cpu}")
