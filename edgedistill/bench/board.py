"""A profile for a board from what a link finds out: facts, and a micro-benchmark of about 20 seconds that runs there.

    devices/NAME.toml   what edgedistill/catalog.py reads; each value with how it came about in [sources] and [gops]

What could not be measured is taken from the closest board of the catalogue, and says that it is assumed.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedistill import catalog, runtime
from edgedistill.errors import EngineCrashed, InputError, StageError
from edgedistill.export import isa
from edgedistill.links.link import Link, PythonLink, parsed
from edgedistill.runtime import probe
from edgedistill.store import write_atomically
from edgedistill.types import Device, Progress, silent

FOLDER = Path("devices")
SECONDS = 20.0
TIMEOUT_S = 600.0
"""A slow card or a busy board takes longer than it should."""
STAND_INS = frozenset({"cpu", "browser"})
"""Profiles of no board in particular."""
COMMAND = "edgedistill devices add"
SPREAD = 0.2
"""Repeats that lie further apart were disturbed."""
LEFT_FREE = 0.5
"""Share of memory that is taken for usable where the system does not tell."""
GLIBC = (2, 28)
PYTHON = (3, 11)
"""What the wheels of the engines need at least."""
ENGINES: Mapping[str, str] = {
    "onnxruntime": "onnxruntime",
    "llama.cpp": "llama-cpp-python",
    "onnxruntime-genai": "onnxruntime-genai",
    "numpy": "numpy",
}
"""As profiles name them, and their packages."""
CORES = {"0xd03": "cortex-a53", "0xd08": "cortex-a72", "0xd0b": "cortex-a76"}
"""What the system calls a core, and the emulator does."""
FACTS: Mapping[str, str] = {
    "bandwidth_bytes_s": "read_bytes_s",
    "gops.f32": "f32_ops_s",
    "gops.int8": "int8_ops_s",
    "storage_bandwidth_bytes_s": "storage_bytes_s",
}
"""As profiles name what was measured, and the probe does."""
OPSET, IR = 17, 8
"""Old enough for any onnxruntime that a board may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A profile that was written, the board of the catalogue that is closest to it, and what its user should know."""

    path: Path
    device: Device
    closest: Device
    warnings: tuple[str, ...]


def add(
    name: str,
    link: Link,
    *,
    folder: Path = FOLDER,
    force: bool = False,
    seconds: float = SECONDS,
    progress: Progress = silent,
) -> Added:
    """Writes a profile of the device behind a link.

    Args:
        name: of the file, and for `--target`.
        folder: of the profiles.
        force: replace a profile of that name.
        seconds: that the micro-benchmark takes on the device, about.

    Raises:
        InputError: the name is none, or taken; or the link leads to no clock of a board.
        StageError: the device cannot be reached, or what runs there failed.
    """
    path = folder / f"{name}.toml"
    _check_name(name, path, force=force)
    if link.kind != "measured" or not isinstance(link, PythonLink):
        raise InputError(
            f"{link.address} has no clock of a board: an emulated core or a page says nothing of how fast one is",
            hint="give local, ssh://user@host or adb://serial",
        )
    progress(0, 2, f"looking at {link.title}")
    machine = link.look().get("machine")
    progress(1, 2, f"measuring for {seconds:.0f} s")
    # In the working folder: a folder for temporary files may lie in memory, and its speed is none of a disk.
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=Path.cwd()) as work:
        _pack(Path(work))
        arguments = ["-m", "runtime.probe", "--models", "models", "--seconds", str(seconds)]
        try:
            where = link.put(Path(work))
            out = link.python(arguments, where=where, files={}, timeout_s=TIMEOUT_S + seconds, threads=1)
        finally:
            link.forget(Path(work))
        try:
            profile, closest, warnings = _profile(parsed(out, link.title), name, machine)
        except (EngineCrashed, ValueError, KeyError, TypeError, AttributeError) as error:
            said = f"it said {out.strip()[-200:]!r}"
            raise StageError(f"what {link.title} answered is no figures of a board", hint=said) from error
        written = Path(work) / path.name
        written.write_text(profile, encoding="utf-8")
        device = catalog.read_device(written)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, profile.encode())
    progress(2, 2)
    return Added(path=path, device=device, closest=closest, warnings=warnings)


def _check_name(name: str, path: Path, *, force: bool) -> None:
    if not catalog.NAME.fullmatch(name):
        raise InputError(f"{name[:80]!r} is no name of a board", hint="take up to 64 small letters, digits and hyphens")
    if force:
        return
    if path.exists():
        raise InputError(f"{path} exists already", hint="choose another name, or replace it with --force")
    if any(name in (known.name, *known.aliases) for known in catalog.devices(own=False)):
        raise InputError(
            f"{name} is a board that comes with edgedistill, and your file would take its place",
            hint="choose another name, or say --force",
        )


def _pack(folder: Path) -> None:
    """The program, and the products that it times, as they go to the device."""
    (folder / "runtime").mkdir()
    for module in (runtime, probe):
        source = Path(str(module.__file__))
        shutil.copyfile(source, folder / "runtime" / source.name)
    (folder / "models").mkdir()
    chance, shape = np.random.default_rng(0), (probe.WIDTH, probe.WIDTH)
    floats = numpy_helper.from_array(chance.normal(size=shape).astype(np.float32), "weights")
    _save([helper.make_node("MatMul", ["a", "weights"], ["y"])], [floats], folder / "models" / "f32.onnx")
    # As the recipe onnx-int8-dynamic writes it; the engine makes one product of all five.
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["a"], ["rounded", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["rounded", "weights", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "step"], ["scales"]),
        helper.make_node("Mul", ["floats", "scales"], ["y"]),
    ]
    integers = numpy_helper.from_array(chance.integers(-63, 64, size=shape, dtype=np.int8), "weights")
    step = numpy_helper.from_array(np.array(0.01, dtype=np.float32), "step")
    _save(nodes, [integers, step], folder / "models" / "int8.onnx")


def _save(nodes: Sequence[onnx.NodeProto], tensors: Sequence[onnx.TensorProto], path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", probe.WIDTH]) for name in ("a", "y")]
    graph = helper.make_graph(list(nodes), "product", ends[:1], ends[1:], list(tensors))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.save_model(model, str(path))


class _Figures:
    """What was measured, in words as well; what was not says why."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._found = found
        self.day = time.strftime("%Y-%m-%d", time.gmtime())

    def value(self, key: str) -> float | None:
        """The median of the repeats."""
        values = self._found[key].get("values")
        return statistics.median(values) if values else None

    def source(self, key: str) -> str:
        """How it was measured, with the least and the greatest of the repeats, in 10⁹ a second."""
        one = self._found[key]
        low, high = (f"{edge(one['values']) / 1e9:.3g}" for edge in (min, max))
        return f"measured by {COMMAND}, {self.day}, median of {len(one['values'])}, {low} to {high}: {one['by']}"

    def reason(self, key: str) -> str:
        """Why there is no figure."""
        return str(self._found[key]["reason"])

    def disturbed(self, key: str) -> float | None:
        """How far the repeats lie apart, as a share of their median, where that is too far."""
        values = self._found[key].get("values")
        if not values:
            return None
        apart = (max(values) - min(values)) / statistics.median(values)
        return apart if apart > SPREAD else None


def _profile(found: Mapping[str, Any], name: str, machine: Any) -> tuple[str, Device, tuple[str, ...]]:
    """The text of a profile, the board that is closest, and what its user should know.

    Args:
        machine: what the link to the board calls it, in a benchmark as well; None where it does not tell.
    """
    facts, figures = found["facts"], _Figures(found)
    read = f"read by {COMMAND}, {figures.day}"
    words = isa.named(_machine(facts), facts["flags"])
    bandwidth, f32, int8 = (figures.value(key) for key in ("read_bytes_s", "f32_ops_s", "int8_ops_s"))
    usable = facts["available_bytes"]
    closest = _closest(words, bandwidth, f32, int8, facts["cores"], exclude=name)
    like = f"as of {closest.name}, the closest board of the catalogue"
    sources = {
        "isa": f"{read}: /proc/cpuinfo"
        if facts["flags"]
        else f"{read}: the family alone, as this system tells no more",
        "cores": f"{read}: those that a program may use",
        "ram_bytes": f"{read}: what the system has of it",
        "ram_usable_bytes": f"assumed: {LEFT_FREE:.0%} of RAM" if usable is None else f"{read}: what was free then",
        "storage_bytes": f"{read}: what was free then",
        "bandwidth_bytes_s": f"assumed: {like} ({figures.reason('read_bytes_s')})"
        if bandwidth is None
        else figures.source("read_bytes_s"),
        "budget": f"assumed: {like}, and no more than is free",
    }
    engines, sources["engines"] = _engines(facts, read)
    gops = {
        "f32": _fact(figures, "f32_ops_s", closest.gops["f32"].value, like),
        "int8": _fact(figures, "int8_ops_s", _int8_of(f32, closest), f"in proportion to f32 {like}"),
    }
    core = _emulated(words, facts["parts"])
    ram, cores = int(facts["ram_bytes"]), int(facts["cores"])
    usable = int(LEFT_FREE * ram if usable is None else usable)
    budget = dict(closest.budget) | {
        "model_bytes": min(int(closest.budget["model_bytes"]), int(facts["storage_bytes"])),
        "memory_bytes": min(int(closest.budget["memory_bytes"]), usable),
    }
    reading = figures.value("storage_bytes_s")
    notes = [f"Storage speed is not known: {figures.reason('storage_bytes_s')}."] if reading is None else []
    if reading is not None:
        sources["storage_bandwidth_bytes_s"] = figures.source("storage_bytes_s")
    top: dict[str, Any] = {
        "title": f"{_plain(facts['title'])}, {cores} cores, {ram / 1e9:.1f} GB",
        **({"machine": machine.strip()} if isinstance(machine, str) and machine.strip() else {}),
        "isa": list(words),
        **({} if core is None else {"emulated_cpu": core}),
        "cores": cores,
        "ram_bytes": ram,
        "ram_usable_bytes": usable,
        "storage_bytes": int(facts["storage_bytes"]),
        "bandwidth_bytes_s": _three_digits(closest.bandwidth_bytes_s if bandwidth is None else bandwidth),
        **({} if reading is None else {"storage_bandwidth_bytes_s": _three_digits(reading)}),
        "engines": engines,
        "notes": notes,
    }
    text = "\n".join(
        [
            _table(top),
            "# What a user of this target expects when the configuration asks for nothing else.",
            _table(budget, "budget"),
            "# Dense throughput of one core, in 10⁹ operations a second; a multiply and an add count as two.",
            _table(gops, "gops"),
            "# Where each fact at the top was read.",
            _table(sources, "sources"),
        ]
    )
    warnings = tuple(
        f"{fact}: the repeats lie {apart:.0%} apart; was the board busy? measure it again with --force"
        for fact, key in FACTS.items()
        if (apart := figures.disturbed(key)) is not None
    )
    return text, closest, warnings


def _fact(figures: _Figures, key: str, otherwise: float, why: str) -> dict[str, Any]:
    value = figures.value(key)
    if value is None:
        source = f"{why} ({figures.reason(key)})"
        return {"value": _three_digits(otherwise), "trust": "assumed", "source": source}
    return {"value": _three_digits(value / 1e9), "trust": "measured", "source": figures.source(key)}


def _int8_of(f32: float | None, closest: Device) -> float:
    """8-bit throughput, in 10⁹ operations a second, where only the other one is known."""
    known = {key: fact.value for key, fact in closest.gops.items()}
    return known["int8"] if f32 is None else f32 / 1e9 * known["int8"] / known["f32"]


def _machine(facts: Mapping[str, Any]) -> str:
    """What programs are run as: a 32-bit system on a 64-bit core runs those of 32 bits."""
    machine = str(facts["machine"])
    return "armv7l" if facts["bits"] == 32 and machine in ("aarch64", "arm64") else machine


def _engines(facts: Mapping[str, Any], read: str) -> tuple[list[str], str]:
    """What runs there: what is installed, and on a system that the wheels are made for, all of them."""
    installed = {engine: facts["packages"].get(package) for engine, package in ENGINES.items()}
    there = [f"{ENGINES[engine]} {version}" for engine, version in installed.items() if version]
    said = f"{read}: {', '.join(there) or 'none'} installed"
    name, _, version = str(facts["libc"]).partition(" ")
    fitting = (
        name == "glibc"
        and facts["bits"] == 64
        and isa.named(facts["machine"], ())[0] in ("x86_64", "aarch64")
        and _version(version) >= GLIBC
        and _version(facts["python"]) >= PYTHON
    )
    if fitting and len(there) < len(ENGINES):
        wheels = ".".join(map(str, GLIBC))
        said = f"assumed: there are packages for 64-bit Linux with glibc {wheels} and newer; {said}"
    return [engine for engine in ENGINES if fitting or installed[engine]], said


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _emulated(words: Sequence[str], parts: Sequence[str]) -> str | None:
    """The core that answers are checked on without the board; None where none computes as this one does."""
    if words[0] != "aarch64" or "i8mm" in words:
        return None
    if len(parts) == 1 and parts[0] in CORES:
        return CORES[parts[0]]
    return "cortex-a76" if "dotprod" in words else "cortex-a53"


def _closest(
    words: Sequence[str], bandwidth: float | None, f32: float | None, int8: float | None, cores: int, *, exclude: str
) -> Device:
    """The built-in board that differs least: in factors of speed, and in what it has instructions for."""
    known = [one for one in catalog.devices(own=False) if one.name not in {exclude, *STAND_INS}]
    family = [one for one in known if words[0] in one.isa] or known

    def distance(other: Device) -> float:
        pairs = [
            (bandwidth, other.bandwidth_bytes_s),
            (f32, 1e9 * other.gops["f32"].value),
            (int8, 1e9 * other.gops["int8"].value),
            (cores, other.cores),
        ]
        factors = sum(abs(math.log(mine / theirs)) for mine, theirs in pairs if mine)
        return factors + math.log(2) * len(set(words) ^ set(other.isa))

    return min(family, key=distance)


def _plain(text: str) -> str:
    """What a device calls itself, fit to be printed."""
    return "".join(letter for letter in text if letter.isprintable())[:60].strip() or "a board"


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def _table(content: Mapping[str, Any], name: str | None = None) -> str:
    """TOML of some keys; text and lists of text in JSON's form, which TOML shares."""
    head = [] if name is None else [f"[{name}]"]
    return "\n".join([*head, *(f"{key} = {_toml(value)}" for key, value in content.items()), ""])


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, str):  # a device may say anything
        value = "".join(letter if letter.isprintable() else " " for letter in value)
    return json.dumps(value, ensure_ascii=False)
