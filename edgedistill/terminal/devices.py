"""What the command line shows of a board that was added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from edgedistill.terminal import device_tables

if TYPE_CHECKING:
    from edgedistill.bench.board import Added


def added_tables(added: Added) -> list[RenderableType]:
    """The new profile with how each value came about, the closest board, and what disturbed the measuring."""
    closest = f"closest board of the catalogue: {added.closest.title} ({added.closest.name})"
    return [*device_tables(added.device), Text(closest), *(Text(f"warning: {one}") for one in added.warnings)]
