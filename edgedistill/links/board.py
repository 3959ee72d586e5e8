"""A Linux board looked at before anything is copied: one program asks for everything, and all problems come at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgedistill.links.link import Facts, Problem
from edgedistill.links.remote import first_number, megabytes, of_clock

CACHE = ".cache/edgedistill"
"""Below the home folder there: all that a link ever writes."""
VENV = f"{CACHE}/venv"
LOOK = rf"""
say() {{ printf '%s\t%s\n' "$1" "$2"; }}
exec 2>/dev/null
cd
say home "$HOME"
say architecture "$(uname -m)"
say kernel "$(uname -sr)"
say clock "$(date +%s)"
say cores "$(getconf _NPROCESSORS_ONLN)"
say ram_kib "$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
say release "$(. /etc/os-release; printf %s "$PRETTY_NAME")"
say machine "$(tr -d '\0' </proc/device-tree/model)"
say machine "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
for zone in /sys/class/thermal/thermal_zone*/temp; do say temperature "$(cat "$zone")"; done
say rsync "$(command -v rsync)"
say bundles "$(ls "$HOME/{CACHE}/bundles" | tr '\n' ' ')"
folder=$HOME/{CACHE}
while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
say folder "$folder"
[ -w "$folder" ] && say writable yes
df -Pk "$folder" | tail -n 1 | {{ read -r system _ _ free _; say file_system "$system"; say free_kib "$free"; }}
for name in "$HOME/{VENV}/bin/python" python3.11 python3.12 python3.13 python3.14 python3; do
  path=$(command -v "$name") || continue
  said=$("$path" -B -c "$1" "$2" "$3")
  right=$?
  said=$(printf '%s\n' "$said" | grep '^{{' | tail -n 1)
  [ -n "$said" ] && say python "$path" && say probe "$said"
  [ $right = 0 ] && break
done
exit 0
"""
"""Arguments: the probe and its own. Prints names and values; nothing is written."""
SERVED = {"aarch64", "arm64", "x86_64", "amd64"}
"""What the engines have packages for. Numpy alone is had on others, too."""
OLDEST = (3, 11)
HOT_C = 80.0
"""Where a Raspberry Pi begins to slow down; others do so a little later."""
ROOM = 1.1
"""Of the bundle's size that must be free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python on the board, and what it has of the packages that were asked for."""

    path: str
    version: tuple[int, ...]
    bits: int
    packages: Mapping[str, str]
    broken: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its version: "3.11.2"."""
        return ".".join(map(str, self.version))

    def lacks(self, pins: Mapping[str, str | None]) -> list[str]:
        """What is not as it must be, in words, a package each."""
        found = []
        for name, pin in pins.items():
            version = self.packages.get(name)
            if version is None:
                found.append(f"{name} {pin or ''}".strip() + " is not installed")
            elif pin not in (None, version):
                found.append(f"{name} is {version}, and the bundle needs {pin}")
            elif name in self.broken:
                found.append(f"{name} {version} cannot be imported: {self.broken[name]}")
        return found


def interpreter(told: Mapping[str, Sequence[str]], pins: Mapping[str, str | None]) -> Interpreter | None:
    """The Python to run: of those that are new enough the one that lacks least; None where there is none at all."""
    probed = zip(told.get("python", ()), told.get("probe", ()), strict=False)
    found = [one for path, probe in probed if (one := _probed(path, probe)) is not None]
    return min(found, key=lambda one: (one.version < OLDEST, len(one.lacks(pins))), default=None)


def _probed(path: str, probe: str) -> Interpreter | None:
    """What a Python said of itself; None where that is something else, and it is no Python to trust."""
    try:
        said = json.loads(probe)
        return Interpreter(path=path, **said | {"version": tuple(said["version"])})
    except (ValueError, KeyError, TypeError):
        return None


def facts(told: Mapping[str, Sequence[str]], python: Interpreter | None, *, now: float) -> Facts:
    """What the board said about itself, in plain units. What it did not tell is None.

    Args:
        now: seconds since 1970 by the host's clock when the board was asked for its own.
    """
    first = {name: values[0] for name, values in told.items()}
    numbers = {name: first_number(told.get(name, ())) for name in ("cores", "ram_kib", "free_kib", "clock")}
    cores, ram, free, clock = numbers.values()
    zones = [number for number in map(first_number, ([value] for value in told.get("temperature", ()))) if number]
    return {
        "machine": first.get("machine", first.get("architecture")),
        "system": ", ".join(first[name] for name in ("release", "kernel", "architecture") if name in first),
        "architecture": first.get("architecture"),
        "python": None if python is None else python.name,
        "packages": {} if python is None else dict(python.packages),
        "cores": None if cores is None else int(cores),
        "ram_bytes": None if ram is None else int(ram) * 1024,
        "free_bytes": None if free is None else int(free) * 1024,
        "clock_offset_s": None if clock is None else clock - now,
        "temperature_c": max(zones) / 1000 if zones else None,
    }


def problems(
    told: Mapping[str, Sequence[str]],
    python: Interpreter | None,
    found: Facts,
    *,
    pins: Mapping[str, str | None],
    needed_bytes: float,
    by_hand: str,
) -> list[Problem]:
    """Everything that keeps the board from running a bundle.

    Args:
        pins: the packages that the bundle needs; empty when only Python is needed.
        needed_bytes: what will be copied there.
        by_hand: the command with which the user gets there.
    """
    return [
        *_of_python(python, found, pins, by_hand),
        *_of_space(told, found, needed_bytes, by_hand),
        *of_clock(found, f"{by_hand} sudo timedatectl set-ntp true, or sudo date -s @$(date +%s)"),
        *_of_heat(found),
    ]


def _of_python(python: Interpreter | None, found: Facts, pins: Mapping[str, str | None], by_hand: str) -> list[Problem]:
    if python is None or python.version < OLDEST:
        there = "there is no Python 3.11 or later" + ("" if python is None else f", only {python.name}")
        new = f"{by_hand} sudo apt install python3 python3-venv (Debian 12, Ubuntu 24.04 or later)"
        return [Problem(what=there, remedy=new)]
    lacking = python.lacks(pins)
    if not lacking:
        return []
    if found["architecture"] not in SERVED or python.bits < 64:
        what = (
            f"{'; '.join(lacking)}; for {found['architecture']} with {python.bits} bits there may be no package of it"
        )
        return [
            Problem(what=what, remedy="run it on a board with a 64-bit system, or build a static student for numpy")
        ]
    wanted = " ".join(name if pin is None else f"{name}=={pin}" for name, pin in pins.items())
    install = f"{by_hand} 'python3 -m venv ~/{VENV} && ~/{VENV}/bin/pip install {wanted}'"
    return [Problem(what="; ".join(lacking), remedy=install)]


def _of_space(told: Mapping[str, Sequence[str]], found: Facts, needed_bytes: float, by_hand: str) -> list[Problem]:
    folder = told.get("folder", ["the home folder"])[0]
    if "writable" not in told:
        return [Problem(what=f"{folder} cannot be written", remedy=f"{by_hand} ls -ld {folder}")]
    free = found["free_bytes"]
    if free is None or free >= ROOM * needed_bytes:
        return []
    system = told.get("file_system", ["its file system"])[0]
    what = f"no space: {megabytes(free)} free on {system}, and {megabytes(ROOM * needed_bytes)} are needed in {folder}"
    return [Problem(what=what, remedy=f"{by_hand} rm -rf {CACHE}/bundles (older bundles), or make room otherwise")]


def _of_heat(found: Facts) -> list[Problem]:
    warm = found["temperature_c"]
    if warm is None or warm < HOT_C:
        return []
    what = f"it is {warm:.0f} °C hot, and a board slows itself down from {HOT_C:.0f} °C on"
    return [Problem(what=what, remedy="let it cool down, end what keeps it busy, or give it a heat sink or a fan")]
