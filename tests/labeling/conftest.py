"""Rows and requests for tests of labelling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedistill.config import Request
from edgedistill.labeling import label as labelling
from edgedistill.labeling.journal import Journal
from edgedistill.labeling.label import Labelled

Write = Callable[[int], Path]
Run = Callable[..., Labelled]


@pytest.fixture
def rows(tmp_path: Path) -> Write:
    """Writes a file of different rows without labels."""

    def write(count: int) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"text": f"message number {n} of {n * n}"}) + "\n" for n in range(count)))
        return path

    return write


def request(
    data: Path, url: str, *, task: str = "classification", gates: dict[str, Any] | None = None, **label: Any
) -> Request:
    """A classification request with one endpoint; keys of `teacher` go to it."""
    teacher = {"kind": "openai", "model": "stub", "base_url": url, "name": "stub", **label.pop("teacher", {})}
    return Request.model_validate(
        {
            "task": task,
            "data": {"folder": str(data)},
            "gates": {"near_duplicates": 0, **(gates or {})},
            "label": {"labels": ["even", "odd"], "teachers": [teacher], **label},
        }
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Labels with a journal that outlives the run, into a new folder each time."""
    count = 0

    def go(request: Request, journal: Path | None = None, **more: Any) -> Labelled:
        nonlocal count
        count += 1
        folder, work = tmp_path / f"out-{count}", tmp_path / f"work-{count}"
        folder.mkdir()
        work.mkdir()
        with Journal(journal or tmp_path / "journal.sqlite") as book:
            return labelling.label(request, folder, book, work=work, pause_s=0.02, **more)

    return go


def written(folder: Path, name: str = "rows.jsonl") -> list[dict[str, Any]]:
    """The rows of a result file."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]
