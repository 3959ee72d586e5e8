"""One bundle measured on this machine, without a teacher: what a user runs on the board itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedistill import catalog
from edgedistill.bench import protocol
from edgedistill.config import DEMO
from edgedistill.data import smarthome
from edgedistill.data.read import ALL, Rejected, find_files, read_rows
from edgedistill.errors import InputError
from edgedistill.types import Progress, Subject, silent

FIELDS: Mapping[str, tuple[str, ...]] = {
    "classification": ("text",),
    "classifier": ("text",),
    "static classifier": ("text",),
    "reader": ("question", "context"),
}
"""The fields of a row that a bundle answers, by its task."""
PAIR = ("premise", "hypothesis")
QUESTIONS = 200
"""Of our own, for readers without rows."""


def bench(bundle: Path, data: str | None, *, threads: int, progress: Progress = silent) -> Subject:
    """Measures a bundle with its own runtime, in fresh processes.

    Args:
        bundle: its folder.
        data: a folder with test.jsonl or test.csv, or a file, whose field "text" is read, or
            "question" and "context", or "premise" and "hypothesis"; None takes the embedded rows.
        threads: as many as the bundle was built for.

    Raises:
        InputError: the rows cannot be read, or the bundle holds what writes.
        EngineCrashed: a measuring process died.
    """
    content = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    task = content.get("task")
    if task not in FIELDS:
        raise InputError(
            f"{bundle} holds a {task}, and classifiers and readers are measured so far",
            hint="in its folder: python -m runtime measure --what writing --texts FILE, a JSON list of texts",
        )
    workload = catalog.workload("classification")
    fields = PAIR if content["model"].get("pairs") else FIELDS[task]
    texts = protocol.spread(_texts(data, fields), workload.rows)
    contestant = protocol.bundle_contestant(bundle, texts, workload, threads)
    (subject,) = protocol.measure([contestant], workload.rounds, progress=progress)
    return subject


def _texts(data: str | None, fields: tuple[str, ...]) -> list[Any]:
    """What is asked: texts, or questions with their contexts."""
    if data is None or data == DEMO:
        if fields == PAIR:
            raise InputError("the texts that come with edgedistill are no pairs", hint="give rows with --data")
        rows = smarthome.generate()["test"] if len(fields) == 1 else smarthome.questions(QUESTIONS)
        return [_asked(row, fields) for row in rows]
    sources = find_files(data, needed="test")
    path = sources.get("test") or sources[ALL]
    rejected: list[Rejected] = []
    usable = (row for _, row in read_rows(path, rejected) if all(isinstance(row.get(field), str) for field in fields))
    found = [_asked(row, fields) for row in usable]
    if not found:
        wanted = ", ".join(f'"{field}": …' for field in fields)
        raise InputError(f"{path} has no rows with a {' and a '.join(fields)}", hint=f"one {{{wanted}}} object a line")
    return found


def _asked(row: Mapping[str, Any], fields: tuple[str, ...]) -> Any:
    return row[fields[0]] if len(fields) == 1 else tuple(row[field] for field in fields)
