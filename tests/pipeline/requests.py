"""Requests for trainings of a few seconds, and their rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgedistill.config import Request, read_request

SETTINGS = """\
name = "toy"
target = "raspberrypi"
task = "{task}"
[data]
folder = "{rows}"
max_tokens = {max_tokens}
[teacher]
model = "{teacher}"
epochs = 2
learning_rate = 2e-3
[student]
layers = 2
[distill]
epochs = 2
learning_rate = 2e-3
batch_tokens = 256
checkpoint_steps = 10
[goals]
size_ratio = 1.0
"""


def settings(folder: Path, task: str, rows: Path, teacher: Path, *, max_tokens: int = 32) -> Request:
    path = folder / "edgedistill.toml"
    path.write_text(SETTINGS.format(task=task, rows=rows, teacher=teacher, max_tokens=max_tokens))
    return read_request(path, out=folder / "dist")


def write_rows(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> Path:
    folder.mkdir()
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
