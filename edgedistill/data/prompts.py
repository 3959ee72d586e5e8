"""Rows of the tasks whose answers are written: read, validated and split like rows with labels (`rows`).

The rows keep every field. What makes two of them the same is what they ask, not what they answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedistill.config import DEMO, Data
from edgedistill.data import splits
from edgedistill.data.read import Rejected, find_files, read_rows
from edgedistill.data.splits import Found, Splits
from edgedistill.errors import InputError
from edgedistill.store import Output, Store, file_sha256
from edgedistill.tasks.task import Task
from edgedistill.types import SPLITS, Rows


@dataclass(frozen=True, slots=True)
class _Written(Found):
    """A row with an answer in words: `text` is all that it asks."""

    row: Mapping[str, Any] = field(default_factory=dict)


def prepare(data: Data, task: Task, *, seed: int, store: Store, column: str | None = None) -> tuple[Rows, Output]:
    """Reads, validates and splits the rows of a task.

    Args:
        column: the field that says which of several teachers has a row; training rows must have it.

    Raises:
        InputError: nothing to read, too many rows without an answer or otherwise unusable, or a split that is empty or
            too small.
    """
    if data.folder == DEMO:
        raise InputError(
            f"the embedded rows are for classification, not for {task.name}",
            hint="give --data a folder or a file, or set [data] folder",
        )
    files = find_files(data.folder)
    inputs = {
        "task": task.name,
        "files": {split: file_sha256(path) for split, path in files.items()},
        "data": data.model_dump(exclude={"folder"}),
        "seed": seed,
        **({} if column is None else {"column": column}),
    }
    output = store.get("rows", inputs, lambda folder, _: _prepare(data, task, files, seed, column, folder))
    return splits.load(output, labels=()), output


def read(rows: Rows, split: str) -> list[dict[str, Any]]:
    """The rows of one split, in their order on disk."""
    with (rows.path / f"{split}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _prepare(data: Data, task: Task, files: Mapping[str, Path], seed: int, column: str | None, folder: Path) -> None:
    rejected: list[Rejected] = []
    found: Splits = {split: [] for split in SPLITS}
    for split, path in files.items():
        found.setdefault(split, []).extend(_read(path, task, column, rejected))
    total = sum(map(len, found.values())) + len(rejected)
    if total == 0:
        raise InputError(f"{data.folder} has no rows", hint="one JSON object a line")
    counts = splits.settle(found, data, files, seed, rejected)
    if column is not None:
        splits.drop_without_group(found, column, rejected)
    splits.check_share(rejected, total, data)
    splits.check_sizes(found, data)
    splits.write(
        folder, found, rejected, lambda row: row.row, {"source": Path(data.folder).name, "labels": 0, **counts}
    )


def _read(path: Path, task: Task, column: str | None, rejected: list[Rejected]) -> Iterator[_Written]:
    for line, row in read_rows(path, rejected):
        reason = task.problem(row)
        if reason is None and task.gold(row) is None:
            reason = "no answer: a teacher can write it, see edgedistill label"
        if reason:
            rejected.append(Rejected(path.name, line, reason))
        else:
            asked, group = "\n".join(task.parts(row)), splits.group_of(row, column)
            yield _Written(asked, "", "", path.name, line, row, group=group)
