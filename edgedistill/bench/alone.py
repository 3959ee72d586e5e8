"""One bundle measured on this machine, without a teacher: what a user runs on the board itself."""

from __future__ import annotations

import json
from pathlib import Path

from edgedistill import catalog
from edgedistill.bench import protocol
from edgedistill.config import DEMO
from edgedistill.data import smarthome
from edgedistill.errors import InputError
from edgedistill.types import Progress, Subject, silent


def bench(bundle: Path, data: str | None, progress: Progress = silent) -> Subject:
    """Measures a bundle with its own runtime, in fresh processes.

    Args:
        bundle: its folder.
        data: a folder with test.jsonl, or a file, whose field "text" is read; None takes the embedded rows.

    Raises:
        InputError: the folder is no bundle, or the rows cannot be read.
        EngineCrashed: a measuring process died.
    """
    if not (bundle / "manifest.json").is_file():
        raise InputError(f"{bundle} is not a bundle: it has no manifest.json", hint="edgedistill build makes one")
    workload = catalog.workload("classification")
    threads = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["engine"]["threads"]
    texts = protocol.spread(_texts(data), workload.rows)
    contestant = protocol.bundle_contestant(bundle, texts, workload, threads)
    (subject,) = protocol.measure([contestant], workload.rounds, progress=progress)
    return subject


def _texts(data: str | None) -> list[str]:
    if data is None or data == DEMO:
        return [row["text"] for row in smarthome.generate()["test"]]
    path = Path(data) / "test.jsonl" if Path(data).is_dir() else Path(data)
    try:
        found = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {error!r}", hint='one {"text": …} object a line') from error
    if not found:
        raise InputError(f"{path} has no rows", hint='one {"text": …} object a line')
    return found
