"""What a page needs beside the model: ONNX Runtime for WebAssembly, and a tokenizer that reads tokenizer.json.

Both come from npm once, in the versions and with the hashes below, and only the files that a page loads are kept:

    <cache>/browser/  ort.js  ort.wasm  tokenizers.js  ready.json
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from edgedistill.archive import take
from edgedistill.errors import IntegrityError, StageError
from edgedistill.links import local
from edgedistill.store import replace
from edgedistill.types import NotMeasured

READY = "ready.json"
SETUP = "edgedistill doctor --setup-browser"
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package of npm.

    Attributes:
        sha512: of the archive, in base64, as npm writes it.
        files: what is taken out of it, and what it is called here.
    """

    name: str
    version: str
    sha512: str
    files: Mapping[str, str]


PACKAGES = (
    Package(
        name="onnxruntime-web",
        version="1.26.0",  # as the onnxruntime that bundles pin
        sha512="LbRr/8zZt2xilI2smrVQGGKINo0U46i8qJp+UXyMBGfqN7KjnH1BiwCwLwyNIVV4i9CKFv7Sf4PwLKWnT8/bEA==",
        files={
            "package/dist/ort.wasm.bundle.min.mjs": "ort.js",
            "package/dist/ort-wasm-simd-threaded.wasm": "ort.wasm",
        },
    ),
    Package(
        name="@huggingface/tokenizers",
        version="0.2.0",
        sha512="LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        files={"package/dist/tokenizers.min.mjs": "tokenizers.js"},
    ),
)
FILES = tuple(name for package in PACKAGES for name in package.files.values())


def root() -> Path:
    """Where the files lie; the environment variable EDGEDISTILL_BROWSER_ROOT moves it."""
    return Path(os.environ.get("EDGEDISTILL_BROWSER_ROOT") or platformdirs.user_cache_path("edgedistill") / "browser")


def wanted() -> dict[str, str]:
    """The packages and their versions."""
    return {package.name: package.version for package in PACKAGES}


def missing() -> NotMeasured | None:
    """Why no page can be served, or None when one can."""
    try:
        ready = json.loads((root() / READY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        ready = None
    if ready != wanted() or not all((root() / name).is_file() for name in FILES):
        named = " and ".join(f"{name} {version}" for name, version in wanted().items())
        return NotMeasured(name="browser", reason=f"{named} are not set up", remedy=f"{SETUP} (needs npm, 13 MB)")
    return None


def install() -> Path:
    """Takes the files from npm. Nothing outside the cache is touched, and no package's scripts are run.

    Raises:
        StageError: npm is not installed.
        EngineCrashed: a package cannot be had.
        IntegrityError: an archive is not the one that was pinned.
    """
    if shutil.which("npm") is None:
        raise StageError("npm is not installed", hint=f"install Node.js, which brings it, then run {SETUP}")
    final = root()
    fresh = final.with_name(f".{final.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)  # of an attempt that was cut short
    fresh.mkdir(parents=True)
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as folder:
            _take(package, Path(folder), fresh)
    (fresh / READY).write_text(json.dumps(wanted()), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    replace(fresh, final)
    return final


def _take(package: Package, work: Path, folder: Path) -> None:
    what = f"{package.name}@{package.version}"
    command = ["npm", "pack", "--silent", "--ignore-scripts", what]
    local.run(command, cwd=work, timeout_s=TIMEOUT_S, what=f"the download of {what}")
    (archive,) = work.glob("*.tgz")
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != package.sha512:
        raise IntegrityError(
            f"the archive of {what} has the SHA-512 {found}, and not {package.sha512}",
            hint="ask where npm takes its packages from: npm config get registry",
        )
    take(archive, package.files, folder)
