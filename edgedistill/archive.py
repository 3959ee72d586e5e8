"""The one place that opens archives. Nothing in one is ever written outside the folder that was named for it."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgedistill.errors import IntegrityError


def pack(base: Path, names: Iterable[str], archive: Path) -> None:
    """Writes files of a folder into a tar that every `tar` reads, links as links."""
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as packed:
        for name in names:
            packed.add(base / name, name, recursive=False)


def take(archive: Path, files: Mapping[str, str], folder: Path) -> None:
    """Takes single files out of a tar.

    Args:
        files: names in the archive, and what each is called in the folder.

    Raises:
        IntegrityError: one is not there, or is no plain file: a link could mean any other.
    """
    with tarfile.open(archive) as packed:
        for inside, name in files.items():
            try:
                entry = packed.getmember(inside)
            except KeyError as error:
                raise IntegrityError(f"{archive.name} has no {inside}") from error
            content = packed.extractfile(entry) if entry.isreg() else None
            if content is None:
                raise IntegrityError(f"{inside} in {archive.name} is no plain file")
            with content, (folder / name).open("wb") as file:
                shutil.copyfileobj(content, file)


def unzip(archive: Path, folder: Path) -> None:
    """Unpacks a wheel.

    Raises:
        IntegrityError: a file in it would lie outside the folder; nothing is written then.
    """
    with zipfile.ZipFile(archive) as packed:
        base = folder.resolve()
        names = packed.namelist()
        for name in names:
            if not (base / name).resolve().is_relative_to(base):
                raise IntegrityError(f"{archive.name} holds {name!r}, which leads out of its folder")
        for name in names:
            packed.extract(name, folder)
