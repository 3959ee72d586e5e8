"""Checkpoints that are complete or do not count: the list of hashes is written last, and resuming reads it first."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from edgedistill.errors import IntegrityError
from edgedistill.store import seal, verified

PREFIX = "checkpoint-"


class Seal(TrainerCallback):
    """Writes the list of hashes into each checkpoint once the trainer has written everything else."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer after each save."""
        seal(Path(args.output_dir) / f"{PREFIX}{state.global_step}")


def newest(work: Path) -> str | None:
    """The newest checkpoint whose every byte is as it was written; torn or altered ones are removed.

    Args:
        work: the folder that the trainer writes its checkpoints into.
    """
    found = sorted(work.glob(f"{PREFIX}*"), key=lambda path: int(path.name.removeprefix(PREFIX)), reverse=True)
    for path in found:
        try:
            verified(path)
        except IntegrityError:
            shutil.rmtree(path)
        else:
            return str(path)
    return None
