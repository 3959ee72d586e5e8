"""Checkpoints that are complete or do not count: the list of hashes is written last, and resuming reads it first."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import distributed
from transformers import TrainerCallback

from edgedistill.errors import IntegrityError
from edgedistill.store import ENTRY, seal, verified

PREFIX = "checkpoint-"


class Seal(TrainerCallback):
    """Writes the list of hashes into each checkpoint once the trainer has written everything else."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer after each save, in every process: each of them wrote a part."""
        together = distributed.is_available() and distributed.is_initialized()
        if together:
            distributed.barrier()
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"{PREFIX}{state.global_step}")
        if together:
            distributed.barrier()


def last(work: Path) -> Path | None:
    """The newest checkpoint that was finished, whatever became of it since."""
    return next((path for path in _found(work) if (path / ENTRY).is_file()), None)


def newest(work: Path) -> str | None:
    """The newest checkpoint whose every byte is as it was written; torn or altered ones are removed.

    Args:
        work: the folder that the trainer writes its checkpoints into.
    """
    for path in _found(work):
        try:
            verified(path)
        except IntegrityError:
            shutil.rmtree(path)
        else:
            return str(path)
    return None


def _found(work: Path) -> list[Path]:
    """The checkpoints, newest first."""
    return sorted(work.glob(f"{PREFIX}*"), key=lambda path: int(path.name.removeprefix(PREFIX)), reverse=True)
