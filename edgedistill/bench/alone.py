"""One bundle measured on this machine, without a teacher: what a user runs on the board itself."""

from __future__ import annotations

import json
from pathlib import Path

from edgedistill import catalog
from edgedistill.bench import protocol
from edgedistill.config import DEMO
from edgedistill.data import smarthome
from edgedistill.data.read import ALL, Rejected, find_files, read_rows
from edgedistill.errors import InputError
from edgedistill.types import Progress, Subject, silent

CLASSIFIERS = ("classification", "classifier")


def bench(bundle: Path, data: str | None, *, threads: int, progress: Progress = silent) -> Subject:
    """Measures a bundle with its own runtime, in fresh processes.

    Args:
        bundle: its folder.
        data: a folder with test.jsonl or test.csv, or a file, whose field "text" is read; None takes the embedded rows.
        threads: as many as the bundle was built for.

    Raises:
        InputError: the rows cannot be read, or the bundle is no classifier's.
        EngineCrashed: a measuring process died.
    """
    task = json.loads((bundle / "manifest.json").read_text(encoding="utf-8")).get("task")
    if task not in CLASSIFIERS:
        raise InputError(
            f"{bundle} holds a {task}, and classifiers are measured so far",
            hint="in its folder: python -m runtime measure --what writing --texts FILE, a JSON list of texts",
        )
    workload = catalog.workload("classification")
    texts = protocol.spread(_texts(data), workload.rows)
    contestant = protocol.bundle_contestant(bundle, texts, workload, threads)
    (subject,) = protocol.measure([contestant], workload.rounds, progress=progress)
    return subject


def _texts(data: str | None) -> list[str]:
    if data is None or data == DEMO:
        return [row["text"] for row in smarthome.generate()["test"]]
    sources = find_files(data, needed="test")
    path = sources.get("test") or sources[ALL]
    rejected: list[Rejected] = []
    found = [row["text"] for _, row in read_rows(path, rejected) if isinstance(row.get("text"), str)]
    if not found:
        raise InputError(f"{path} has no rows with a text", hint='one {"text": …} object a line')
    return found
