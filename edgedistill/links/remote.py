"""What the links to a distant device share: what a bundle needs there, and the small programs that look and check.

The programs run in the device's own Python. They write nothing, and old Pythons can read the first one, to say so.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgedistill.errors import EngineCrashed
from edgedistill.links.link import Facts, Problem

REQUIREMENTS = "requirements.txt"
KNOWN = ("onnxruntime", "onnxruntime-genai", "llama-cpp-python", "numpy", "tokenizers")
MODULES: Mapping[str, str] = {"llama-cpp-python": "llama_cpp", "onnxruntime-genai": "onnxruntime_genai"}
"""What a package is imported as, where that is not its name."""
BY_SIGNAL = 128
DAY_S = 86400.0
PROBE = """
import json, struct, sys
pins, modules = json.loads(sys.argv[1]), json.loads(sys.argv[2])
found, broken = {}, {}
for name in pins:
    try:
        from importlib.metadata import version
        found[name] = version(name)
        if name in modules:
            __import__(modules[name])
    except Exception as error:
        if name in found:
            broken[name] = str(error)
right = all(found.get(name) == pin or (pin is None and name in found) for name, pin in pins.items()) and not broken
print(json.dumps({
    "version": list(sys.version_info[:3]), "bits": 8 * struct.calcsize("P"), "packages": found, "broken": broken
}))
sys.exit(not (right and sys.version_info >= (3, 11)))
"""
"""Arguments: the versions wanted by package, null for any, and what to import for each. Status 0: all is right."""
HASHES = """
import hashlib, json, os, sys
found = {}
for folder, folders, files in os.walk(sys.argv[1]):
    folders[:] = [name for name in folders if name != "__pycache__"]
    for name in files:
        path = os.path.join(folder, name)
        if name != sys.argv[2]:
            with open(path, "rb") as file:
                found[os.path.relpath(path, sys.argv[1]).replace(os.sep, "/")] = \\
                    hashlib.file_digest(file, "sha256").hexdigest()
print(json.dumps(found))
"""
"""Arguments: a folder, and the name of files to leave out. Prints what `edgedistill.store.hashes` says of it."""


def pins(bundle: Path) -> dict[str, str | None]:
    """The packages that a bundle needs on the device, with the version of each; None where any does."""
    found: dict[str, str | None] = {}
    for line in (bundle / REQUIREMENTS).read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if re.match(r"[A-Za-z0-9]", name):
            found[re.split(r"[\s<>=!~;\[]", name)[0]] = version.partition(";")[0].strip() or None
    return found


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def told(text: str) -> dict[str, list[str]]:
    """Lines of a name, a tab and a value, by name; a name may stand in many lines. Empty values are left out."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, tab, value = line.partition("\t")
        if tab and value.strip():
            found.setdefault(name, []).append(value.strip())
    return found


def first_number(values: Iterable[str]) -> float | None:
    """The first of these words that is a number."""
    for value in values:
        for word in value.split():
            try:
                return float(word)
            except ValueError:
                continue
    return None


def of_clock(found: Facts, remedy: str) -> list[Problem]:
    """A clock that is far off: times in what a device writes would mislead, and certificates there are not valid."""
    offset = found["clock_offset_s"]
    if offset is None or abs(offset) < DAY_S:
        return []
    what = f"its clock is {abs(offset) / DAY_S:,.0f} days {'behind' if offset < 0 else 'ahead'}"
    return [Problem(what=what, remedy=remedy)]


def megabytes(number: float) -> str:
    """For people: "12 MB"."""
    return f"{number / 1e6:,.0f} MB"


def died(device: str, status: int, words: str) -> EngineCrashed:
    """How a process on a device ended, as a shell there tells it: 128 and the signal, when it was killed.

    Args:
        words: its last ones.
    """
    names = {BY_SIGNAL + number: number.name for number in signal.Signals}
    if status not in names:
        return EngineCrashed(f"Python on {device} ended with status {status}: {words}")
    return EngineCrashed(
        f"Python on {device} was killed by {names[status]}: {words}",
        hint="SIGKILL mostly means that its memory was full, SIGILL that the engine is for another processor, SIGSYS "
        "that the system there forbids what it did",
    )


def threads_environment(threads: int) -> dict[str, str]:
    """So that neither the engine nor numpy's matrix products start more threads, and nothing asks a network."""
    return {
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
