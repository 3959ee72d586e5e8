"""Rows as users have them, to three clean splits: read, validated, de-duplicated, checked for leaks.

folder/train.jsonl [validation.jsonl] [test.jsonl]   (or .csv)      one file.jsonl, split here      "demo"
                  │
             one row a line ── unusable ──► rejected.jsonl, each with file, line and reason
                  │
             the same text twice: kept once; with two labels: the first counts, the others are rejected
                  │
             a text also in a later split: leaves the earlier one (a leak), never the test
                  │
             train.jsonl  validation.jsonl  test.jsonl  labels.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgedistill.config import DEMO, Data
from edgedistill.data import smarthome, splits
from edgedistill.data.read import Rejected, find_files, read_rows
from edgedistill.data.splits import Found, Row, Splits
from edgedistill.errors import InputError
from edgedistill.store import Output, Store, canonical, digest, file_sha256
from edgedistill.types import SPLITS, Rows

LABELS = "labels.json"
_SURROGATE = re.compile(r"[\ud800-\udfff]")
"""Half a character: JSON can write it, UTF-8 cannot."""


def prepare(data: Data, *, seed: int, store: Store, column: str | None = None) -> tuple[Rows, Output]:
    """Reads, validates and splits the rows of a request.

    Args:
        column: the field that says which of several teachers has a row; training rows must have it.

    Raises:
        InputError: nothing to read, too many unusable rows, fewer than two labels, a split without rows, or a test too
            small to say anything.
    """
    files = _files(data)
    inputs = {
        "files": {split: file_sha256(path) for split, path in files.items()}
        if files
        else {"demo": digest(smarthome.grammar())},
        "data": data.model_dump(exclude={"folder"}),
        "seed": seed,
        **({} if column is None else {"column": column}),
    }
    output = store.get("rows", inputs, lambda folder, _: _prepare(data, files, seed, column, folder))
    return splits.load(output, labels=tuple(json.loads((output.path / LABELS).read_text()))), output


def read(rows: Rows, split: str) -> list[Row]:
    """The rows of one split, in their order on disk."""
    with (rows.path / f"{split}.jsonl").open(encoding="utf-8") as file:
        return [Row(**json.loads(line)) for line in file]


def _files(data: Data) -> dict[str, Path]:
    """Split name to file; "all" when there is a single file to split; nothing for the embedded rows."""
    return {} if data.folder == DEMO else find_files(data.folder)


def _prepare(data: Data, files: dict[str, Path], seed: int, column: str | None, folder: Path) -> None:
    rejected: list[Rejected] = []
    found: Splits = {split: [] for split in SPLITS}
    if files:
        for split, path in files.items():
            found.setdefault(split, []).extend(_read(path, data, column, rejected))
    else:
        for split, raw in smarthome.generate(seed=0).items():
            found[split] = [Found(**row, file=f"{DEMO} {split}", line=line) for line, row in enumerate(raw, 1)]
    total = sum(map(len, found.values())) + len(rejected)
    if total == 0:
        raise InputError(f"{data.folder} has no rows", hint="one JSON object a line, with a text and a label")
    counts = splits.settle(found, data, files, seed, rejected)
    if column is not None:
        splits.drop_without_group(found, column, rejected)
    labels = sorted({row.label for row in found["train"]})
    _drop_unknown_labels(found, labels, rejected)
    splits.check_share(rejected, total, data)
    if len(labels) < 2:
        raise InputError(
            f"{data.folder} has {len(labels)} label in the training rows; a classifier needs at least 2",
            hint=f"check that the field {data.label!r} is the label",
        )
    splits.check_sizes(found, data)
    source = Path(data.folder).name if files else "smart-home rows of this package"
    splits.write(folder, found, rejected, _plain, {"source": source, "labels": len(labels), **counts})
    (folder / LABELS).write_bytes(canonical(labels))


def _plain(row: Row) -> dict[str, str]:
    told = {"text": row.text, "second": row.second, "label": row.label, "group": row.group}
    return {name: value for name, value in told.items() if value or name in ("text", "label")}


def _read(path: Path, data: Data, column: str | None, rejected: list[Rejected]) -> Iterator[Found]:
    fields = [field for field in (data.text, data.second, data.label) if field]
    for line, value in read_rows(path, rejected):
        reason = _reason(value, fields)
        if reason:
            rejected.append(Rejected(path.name, line, reason))
        else:
            text, second = (" ".join(value[field].split()) if field else "" for field in (data.text, data.second))
            group = splits.group_of(value, column)
            yield Found(text, value[data.label].strip(), second, path.name, line, group=group)


def _reason(value: dict[str, Any], fields: list[str]) -> str | None:
    for field in fields:
        found = value.get(field)
        if field not in value:
            return f"no field {field!r} (found {', '.join(map(repr, sorted(value)[:6])) or 'none'})"
        if not isinstance(found, str):
            return f"field {field!r} is {type(found).__name__}, not a string"
        if not found.strip():
            return f"field {field!r} is empty"
        if _SURROGATE.search(found):
            return f"field {field!r} has a lone surrogate"
    return None


def _drop_unknown_labels(found: Splits, labels: list[str], rejected: list[Rejected]) -> None:
    known = set(labels)
    for split in ("validation", "test"):
        rejected += (
            row.rejected(f"label {row.label!r} has no row in train") for row in found[split] if row.label not in known
        )
        found[split] = [row for row in found[split] if row.label in known]
