"""The list of everything in a bundle with its hash, and the check that nothing was changed, added or taken away.

manifest.json is canonical JSON. Its own bytes are covered by `digest`, the hash of all the rest of it; that finds
accidents. It is no signature: whoever can write the folder can write a manifest that fits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError, IntegrityError
from edgedistill.store import ENTRY, canonical, digest, hashes
from edgedistill.types import Bundle

MANIFEST = "manifest.json"
SCHEMA = 1
MAX_BYTES = 10_000_000


def seal(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the manifest of a finished folder and returns it.

    Args:
        folder: everything but the manifest is in place.
        content: what the manifest says beside the files' hashes.
    """
    files = {name: found for name, found in hashes(folder).items() if name != MANIFEST}
    manifest = {"schema": SCHEMA, **content, "files": files}
    manifest["digest"] = digest(manifest)
    (folder / MANIFEST).write_bytes(canonical(manifest))
    return manifest


def read(folder: Path) -> Bundle:
    """A bundle by its folder; its files are not checked.

    Raises:
        InputError: the folder is no bundle.
        IntegrityError: its manifest is not one that edgedistill wrote.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{folder} is not a bundle: it has no {MANIFEST}", hint="edgedistill build and edgedistill export make them"
        )
    if path.is_symlink() or path.stat().st_size > MAX_BYTES:
        raise IntegrityError(f"{path} is a link, or larger than any manifest")
    raw = path.read_bytes()
    try:
        manifest = json.loads(raw, object_pairs_hook=_no_duplicates)
        intact = canonical(manifest) == raw
        rest = {key: value for key, value in manifest.items() if key != "digest"}
        intact = intact and digest(rest) == manifest["digest"] and isinstance(manifest["files"], dict)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}", hint="copy the bundle again") from error
    if not intact:
        raise IntegrityError(f"{path} was changed after it was written", hint="copy the bundle again")
    if manifest.get("schema") != SCHEMA:
        raise IntegrityError(f"{path} has schema {manifest.get('schema')!r}; this version reads {SCHEMA}")
    return Bundle(path=folder, manifest=manifest)


def verify(folder: Path) -> Bundle:
    """A bundle after every byte of it was compared with its hash.

    Raises:
        InputError: the folder is no bundle.
        IntegrityError: with the name of each file that was changed, added or removed.
    """
    bundle = read(folder)
    expected: Mapping[str, str] = bundle.manifest["files"]
    problems = [f"{p.relative_to(folder)}: not a regular file" for p in sorted(folder.rglob("*")) if _odd(p)]
    found = {} if problems else {name: value for name, value in hashes(folder).items() if name != MANIFEST}
    if not problems:
        problems = _differences(expected, found)
        if (folder / ENTRY).exists():
            problems.append(f"{ENTRY}: added")
    if problems:
        raise IntegrityError(
            f"{folder} is not what was built:\n" + "\n".join(f"  {problem}" for problem in problems),
            hint="copy the bundle again, or build it again",
        )
    return bundle


def set_threads(folder: Path, threads: int) -> None:
    """Writes the number of threads that was measured to be best into a bundle, whose manifest stays whole.

    Raises:
        InputError: the folder is no bundle.
        IntegrityError: a file of it was changed.
    """
    told = verify(folder).manifest
    content = {key: value for key, value in told.items() if key not in {"schema", "files", "digest"}}
    seal(folder, {**content, "engine": {**told["engine"], "threads": threads}})


def is_bundle(folder: Path) -> bool:
    """Whether a folder's manifest is one that edgedistill wrote. Its files may be changed or gone."""
    try:
        read(folder)
    except (InputError, IntegrityError):
        return False
    return True


def engine_in(folder: Path) -> str | None:
    """The engine that a folder's manifest names, whoever wrote it; None where it names none."""
    try:
        told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return str(told["engine"]["name"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def strays(folder: Path) -> list[str]:
    """What lies in a bundle and is not in its manifest. Bytecode does not count: Python wrote it, and nobody keeps it.

    Raises:
        InputError: the folder is no bundle.
        IntegrityError: its manifest is not one that edgedistill wrote.
    """
    listed = {MANIFEST, *read(folder).manifest["files"]}
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    return [path.as_posix() for path in found if path.as_posix() not in listed and "__pycache__" not in path.parts[:-1]]


def _differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    return [
        *(f"{name}: removed" for name in sorted(expected.keys() - found.keys())),
        *(f"{name}: added" for name in sorted(found.keys() - expected.keys())),
        *(f"{name}: changed" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]),
    ]


def _odd(path: Path) -> bool:
    return path.is_symlink() or not (path.is_file() or path.is_dir())


def _no_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    return found
