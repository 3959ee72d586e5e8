"""The arm64 files that emulated programs run on: Debian's Python, and the wheels of the engine that bundles pin.

They are unpacked without root rights, once, and shared by all builds:

    <cache>/aarch64/  usr/bin/python3.11  lib/ld-linux-aarch64.so.1  site/onnxruntime …  ready.json

Encoders run on that. Decoders need llama.cpp too, which `install_decoding` adds: a root without it is still a root.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs

from edgedistill.archive import unzip
from edgedistill.errors import StageError
from edgedistill.links import local
from edgedistill.store import canonical, replace, write_atomically

EMULATOR = "qemu-aarch64-static"
SYSTEM = ("debian", "12")
"""Where the packages below have these names; on others they have other ones."""
PYTHON = "usr/bin/python3.11"
READY = "ready.json"
PACKAGES = (
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "libssl3",
    "libbz2-1.0",
    "liblzma5",
    "libuuid1",
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
)
WHEELS = ("onnxruntime", "numpy", "tokenizers")
DECODING: Mapping[str, str] = {"xllamacpp": "2026.10.11549"}
"""llama.cpp for decoders. llama-cpp-python, which bundles pin, has no arm64 package; this one has."""
DECODING_PACKAGES = ("libgomp1",)
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
SETUP = "edgedistill doctor --setup-emulator"
REMEDY = f"apt install qemu-user-static, then {SETUP} (needs Debian 12, 270 MB)"


def root() -> Path:
    """Where the arm64 files lie; the environment variable EDGEDISTILL_AARCH64_ROOT moves it."""
    return Path(os.environ.get("EDGEDISTILL_AARCH64_ROOT") or platformdirs.user_cache_path("edgedistill") / "aarch64")


def wanted() -> dict[str, str]:
    """The packages that must run on the device, with the versions that bundles pin: the ones installed here."""
    return {name: importlib.metadata.version(name) for name in WHEELS}


def held() -> Mapping[str, str]:
    """The packages of the root on this machine, with their versions; none where there is no root."""
    try:
        found: Mapping[str, str] = json.loads((root() / READY).read_text())
    except (OSError, ValueError):
        return {}
    return found


def install() -> Path:
    """Makes the arm64 root from Debian's packages and the package index. Nothing outside the cache is touched.

    Raises:
        StageError: this is not Debian 12, or a package cannot be had.
    """
    _check_system()
    for tool in ("apt-get", "dpkg", EMULATOR):
        if shutil.which(tool) is None:
            raise StageError(f"{tool} is not installed", hint=REMEDY)
    final = root()
    fresh = final.with_name(f".{final.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    _unpack_debian(fresh, PACKAGES)
    _unpack_wheels(fresh, wanted())
    (fresh / READY).write_text(json.dumps(wanted()))
    shutil.rmtree(final, ignore_errors=True)
    replace(fresh, final)
    return final


def install_decoding() -> None:
    """Adds what decoders run on to the root that `install` has made.

    Raises:
        EngineCrashed: the package cannot be had; the root still serves encoders.
    """
    base = root()
    _unpack_debian(base, DECODING_PACKAGES)
    _unpack_wheels(base, DECODING)
    write_atomically(base / READY, canonical({**held(), **DECODING}))


def _check_system() -> None:
    """Packages are taken from the system's own sources by their names, so it must be the system they are named for."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    if (release.get("ID"), release.get("VERSION_ID")) != SYSTEM:
        found = release.get("PRETTY_NAME", platform.system())
        raise StageError(
            f"emulation is set up from the packages of Debian 12, and this is {found}",
            hint="set it up on Debian 12, or in a container of it; everything else works without",
        )


def _unpack_debian(base: Path, names: Sequence[str]) -> None:
    """Downloads arm64 packages with apt state of our own, so the system's packages stay as they are."""
    state, packages = base / "apt", base / "apt" / "packages"
    shutil.rmtree(state, ignore_errors=True)  # of an attempt that was cut short
    for folder in (state / "lists" / "partial", state / "cache" / "archives" / "partial", packages):
        folder.mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "1",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::State::Lists": state / "lists",
        "Dir::Cache": state / "cache",
    }
    options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    local.run(["apt-get", "-qq", *options, "update"], cwd=packages)
    local.run(["apt-get", "-qq", *options, "download", *names], cwd=packages)
    for package in sorted(packages.glob("*.deb")):
        local.run(["dpkg", "-x", package, base], cwd=packages)
    shutil.rmtree(state)


def _unpack_wheels(base: Path, wanted: Mapping[str, str]) -> None:
    wheels, site = base / "wheels", base / "site"
    shutil.rmtree(wheels, ignore_errors=True)  # of an attempt that was cut short
    wheels.mkdir()
    site.mkdir(exist_ok=True)
    pins = [f"{name}=={version}" for name, version in wanted.items()]
    where = [part for name in PLATFORMS for part in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    local.run([*pip, "--python-version", "3.11", "--implementation", "cp", *where, "-d", wheels, *pins], cwd=base)
    for wheel in sorted(wheels.glob("*.whl")):
        unzip(wheel, site)  # from the package index, checked by pip
    shutil.rmtree(wheels)
