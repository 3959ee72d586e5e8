"""A phone looked at before anything is copied, and the Python that goes there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgedistill.links import arm64_root
from edgedistill.links.link import Facts, Problem
from edgedistill.links.remote import first_number, megabytes, of_clock
from edgedistill.store import digest

FOLDER = "/data/local/tmp/edgedistill"
"""All that a link ever writes. Users of adb may write there and run what they have written."""
ABI = "arm64-v8a"
ROOT_BYTES = 300_000_000
ROOM = 1.1
HOT_C = 45.0
"""Of the battery; Android has no one limit, and phones act between 40 and 50 °C."""
NO_SPACE = "No space left on device"
MAKE_ROOM = f"adb shell rm -rf {FOLDER} (all of edgedistill there), or make room otherwise"
LOADER = "lib/ld-linux-aarch64.so.1"
LIBRARIES = ("usr/lib/aarch64-linux-gnu", "lib/aarch64-linux-gnu")
SITE = "site"
LEFT_OUT = {"__pycache__", "tests", "test", "include", "engines-3", "ossl-modules"}
"""Folders of the arm64 root that nothing on a device reads."""
LOOK = rf"""
say() {{ printf '%s\t%s\n' "$1" "$2"; }}
exec 2>/dev/null
say abi "$(getprop ro.product.cpu.abilist)"
say machine "$(getprop ro.product.manufacturer) $(getprop ro.product.model)"
say android "$(getprop ro.build.version.release)"
say api "$(getprop ro.build.version.sdk)"
say kernel "$(uname -sr)"
say architecture "$(uname -m)"
say clock "$(date +%s)"
say cores "$(nproc)"
say ram_kib "$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
dumpsys battery | while read -r name value; do
  case $name in level:) say battery "$value";; temperature:) say temperature "$value";; esac
done
say tar "$(command -v tar)"
say lying "$(ls {FOLDER} | tr '\n' ' ')"
[ -w /data/local/tmp ] && say writable yes
say free_kib "$(df -k /data/local/tmp | tail -n 1 | while read -r _ _ _ free _; do echo "$free"; done)"
exit 0
"""
"""Prints names and values; nothing is written."""


def unusable(serial: str, state: str | None, others: Sequence[str]) -> tuple[str, str]:
    """What is wrong with a phone that adb does not let us use, and what to do about it.

    Args:
        state: as adb calls it; None where adb does not know the phone.
    """
    if state is None:
        known = ", ".join(others) or "none at all"
        return f"adb sees no device {serial}; it sees {known}", "plug it in, and allow USB debugging in its settings"
    if state == "unauthorized":
        return (
            f"{serial} has not allowed this machine yet",
            "unlock it and answer its question about USB debugging; it asks again after `adb kill-server`",
        )
    if state == "offline":
        return f"{serial} is offline", "unlock it, pull the cable and plug it in again, or run `adb reconnect`"
    return f"{serial} is in the state {state!r}, and not running Android", "start it up as usual: `adb reboot`"


def sent() -> Mapping[str, str]:
    """The packages that go to the phone, with their versions: of the arm64 root, those for encoders."""
    return {name: version for name, version in arm64_root.held().items() if name in arm64_root.WHEELS}


def contents(base: Path) -> list[str]:
    """What goes to the phone of an arm64 root: its loader, libraries, Python and the packages for encoders."""
    wheels = [path for name in arm64_root.WHEELS for path in sorted((base / SITE).glob(f"{name}*"))]
    tops = [base / "lib", base / "usr" / "lib", base / arm64_root.PYTHON, *wheels]
    found = [path for top in tops for path in [top, *sorted(top.rglob("*"))]]
    return [path.relative_to(base).as_posix() for path in found if _goes(path, base)]


def _goes(path: Path, base: Path) -> bool:
    """Files, and links that stay in the root: Debian has some into /etc, which a phone does not have."""
    if LEFT_OUT & set(path.relative_to(base).parts):
        return False
    return path.is_file() and path.resolve().is_relative_to(base.resolve())


def root_name() -> str:
    """The name of the root on a phone: other packages, or other files, are another root."""
    base = arm64_root.root()
    return f"python-{digest({name: (base / name).stat().st_size for name in contents(base)})[:16]}"


def started(root: str, arguments: Sequence[str]) -> list[str]:
    """Python of a root anywhere, started through the root's own loader, so that no library of the system is needed."""
    libraries = ":".join(f"{root}/{name}" for name in LIBRARIES)
    return [f"{root}/{LOADER}", "--library-path", libraries, f"{root}/{arm64_root.PYTHON}", *arguments]


def environment(root: str) -> dict[str, str]:
    """What that Python needs to find its packages, and a folder for what it writes."""
    return {"PYTHONPATH": f"{root}/{SITE}", "PYTHONDONTWRITEBYTECODE": "1", "HOME": FOLDER, "TMPDIR": FOLDER}


def facts(told: Mapping[str, Sequence[str]], held: Mapping[str, str], *, now: float) -> Facts:
    """What the phone said about itself, in plain units. What it did not tell is None.

    Args:
        held: packages that will run there.
        now: seconds since 1970 by the host's clock when the phone was asked for its own.
    """
    first = {name: values[0] for name, values in told.items()}
    number = {name: first_number(values) for name, values in told.items()}
    android = f"Android {first.get('android', '?')} (API {first.get('api', '?')})"
    ram, free, clock, warm = (number.get(name) for name in ("ram_kib", "free_kib", "clock", "temperature"))
    return {
        "machine": first.get("machine"),
        "system": ", ".join([android, *(first[name] for name in ("kernel", "architecture") if name in first)]),
        "architecture": first.get("architecture"),
        "python": arm64_root.PYTHON.rpartition("python")[2] if held else None,
        "packages": dict(held),
        "cores": None if number.get("cores") is None else int(number["cores"] or 0),
        "ram_bytes": None if ram is None else int(ram) * 1024,
        "free_bytes": None if free is None else int(free) * 1024,
        "clock_offset_s": None if clock is None else clock - now,
        "temperature_c": None if warm is None else warm / 10,
        "battery_percent": number.get("battery"),
    }


def problems(
    told: Mapping[str, Sequence[str]],
    held: Mapping[str, str],
    found: Facts,
    *,
    pins: Mapping[str, str | None],
    needed_bytes: float,
) -> list[Problem]:
    """Everything that keeps the phone from running a bundle.

    Args:
        held: packages of the arm64 root on this machine.
        pins: the packages that the bundle needs.
        needed_bytes: what will be copied there.
    """
    listed = []
    abis = " ".join(told.get("abi", ()))
    if ABI not in abis:
        what = f"it runs {abis or 'an unknown kind of programs'}, and not {ABI}"
        listed.append(Problem(what=what, remedy="64-bit ARM is needed; measure in the app, or on another phone"))
    if not held:
        what = "there is no arm64 Python on this machine to send there"
        listed.append(Problem(what=what, remedy=arm64_root.REMEDY))
    else:
        listed += _of_packages(held, pins)
    if "tar" not in told or "writable" not in told:
        what = f"its shell cannot unpack in {FOLDER}"
        listed.append(
            Problem(what=what, remedy="an Android of 2016 (7) or later has tar, and lets its shell write there")
        )
    free = found["free_bytes"]
    if free is not None and free < ROOM * needed_bytes:
        what = f"no space: {megabytes(free)} free, and {megabytes(ROOM * needed_bytes)} are needed in {FOLDER}"
        listed.append(Problem(what=what, remedy=MAKE_ROOM))
    listed += of_clock(found, "set date and time to automatic in its settings")
    warm = found["temperature_c"]
    if warm is not None and warm >= HOT_C:
        what = f"its battery is {warm:.0f} °C hot, and a phone slows itself down from about {HOT_C:.0f} °C on"
        listed.append(Problem(what=what, remedy="let it cool down, out of its case and the sun, and not charging fast"))
    return listed


def _of_packages(held: Mapping[str, str], pins: Mapping[str, str | None]) -> list[Problem]:
    lacking = [f"{name} {pin or ''}".strip() for name, pin in pins.items() if pin != held.get(name) or name not in held]
    if not lacking:
        return []
    has = ", ".join(f"{name} {version}" for name, version in held.items())
    if pins.keys() - held.keys():
        remedy = "bundles for onnxruntime and numpy run by adb; measure others in the app, or on a board by ssh"
    else:
        remedy = f"{arm64_root.SETUP} with the versions that made the bundle, or build the bundle again"
    return [Problem(what=f"the bundle needs {', '.join(lacking)}, and the arm64 Python has {has}", remedy=remedy)]
