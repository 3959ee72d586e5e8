"""What several commands have in common: their options, the request that these make, and how results are shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from edgedistill.config import Request

PIPED_WIDTH = 140

ConfigFile = Annotated[Path | None, typer.Option("--config", help="Read this file instead of ./edgedistill.toml.")]
Target = Annotated[str | None, typer.Option(help="The board to build for; see edgedistill targets.")]
Teacher = Annotated[str | None, typer.Option(help="The model to learn from: a folder, or a name on the hub.")]
Task = Annotated[str | None, typer.Option(help="What the rows are: classification, nli, qa, math, …")]
Data = Annotated[str | None, typer.Option(help="A folder with train.jsonl and test.jsonl, or one file to split.")]
Out = Annotated[Path | None, typer.Option(help="Where bundle and report go (default: dist).")]
Seed = Annotated[int | None, typer.Option(help="Of splits and training (default: 0).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def show(parts: Iterable[RenderableType]) -> None:
    """Prints tables and texts on the terminal."""
    from rich.console import Console

    # Into a file or a pipe, lines are as long as they need to be.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    for part in parts:
        console.print(part)


def request_of(
    config: Path | None,
    target: str | None,
    teacher: str | None,
    data: str | None,
    out: Path | None,
    seed: int | None,
    task: str | None = None,
) -> Request:
    """The configuration file with the options laid over it."""
    from edgedistill.config import read_request

    return read_request(config, target=target, teacher=teacher, data=data, out=out, seed=seed, task=task)


def print_json(content: Any) -> None:
    """Prints one JSON object, on one line."""
    print(json.dumps(content, default=str, ensure_ascii=False, allow_nan=False))
