"""Files of rows, read one at a time: JSON lines or CSV. What cannot be read is set aside with its line and reason."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.types import SPLITS

MAX_LINE_BYTES = 1_000_000
SUFFIXES = (".jsonl", ".csv")
ALL = "all"
"""The name of a single file's rows until they are split."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """One unusable row, where it stood, and why it is not used."""

    file: str
    line: int
    reason: str


def find_files(source: str, needed: str = "train") -> dict[str, Path]:
    """The files of a folder by split, or a single file as "all".

    Args:
        needed: the split that a folder must have.

    Raises:
        InputError: there is nothing to read.
    """
    folder = Path(source)
    if folder.is_file():
        if folder.suffix not in SUFFIXES:
            raise InputError(f"{folder} is neither .jsonl nor .csv", hint="convert it to one JSON object a line")
        return {ALL: folder}
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist", hint=f"give --data a folder with {needed}.jsonl, or one file")
    found: dict[str, Path] = {
        s: folder / f"{s}{suffix}" for suffix in SUFFIXES for s in SPLITS if (folder / f"{s}{suffix}").is_file()
    }
    if not found and (folder / "rows.jsonl").is_file():  # what labelling makes of a single file
        return {ALL: folder / "rows.jsonl"}
    if needed not in found:
        raise InputError(f"{folder} has no {needed}.jsonl or {needed}.csv", hint="name the file with those rows so")
    return found


def read_rows(path: Path, rejected: list[Rejected]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file, each with the line it begins on. Lines that are none are added to `rejected`.

    Raises:
        InputError: a CSV file is broken or not UTF-8. Where its next row begins is then anybody's guess.
    """
    return _csv(path, rejected) if path.suffix == ".csv" else _jsonl(path, rejected)


def _jsonl(path: Path, rejected: list[Rejected]) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            if len(raw) > MAX_LINE_BYTES:
                rejected.append(Rejected(path.name, number, f"line of {len(raw)} bytes; {MAX_LINE_BYTES} is the limit"))
                continue
            try:
                value = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                rejected.append(Rejected(path.name, number, f"not UTF-8 (byte {error.start})"))
            except (ValueError, RecursionError) as error:
                rejected.append(Rejected(path.name, number, f"not JSON ({str(error)[:80]})"))
            else:
                if not isinstance(value, dict):
                    rejected.append(Rejected(path.name, number, f"a JSON {type(value).__name__}, not an object"))
                elif b"\\ud" in raw.lower() and (field := _no_text(value)) is not None:
                    rejected.append(Rejected(path.name, number, f"field {field!r} has a lone surrogate"))
                else:
                    yield number, value


def _no_text(row: dict[str, Any]) -> str | None:
    """The first field with half of a surrogate pair in it, which JSON can write and UTF-8 cannot."""
    for name, value in row.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return name
    return None


def _csv(path: Path, rejected: list[Rejected]) -> Iterator[tuple[int, dict[str, Any]]]:
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            names = next(filter(None, reader), [])
            line = reader.line_num + 1
            for values in reader:
                if len(values) > len(names):
                    reason = f"{len(values)} fields, but the header names {len(names)}: a comma without quotes?"
                    rejected.append(Rejected(path.name, line, reason))
                elif values:
                    yield line, dict(zip(names, values, strict=False))  # a field that is missing is said by its name
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})", hint="save it as UTF-8") from error
    except csv.Error as error:
        raise InputError(
            f"{path}:{line}: the row that begins here is not CSV ({error})",
            hint='put fields with commas or quotes between quotes, write a quote in them twice (""), or use .jsonl',
        ) from error
