"""The teacher's answers to every row, asked once: logits, and hidden states of the layers a student can copy.

A signal carries the keys of its rows and refuses to be read for other ones: pairing a row with another row's answer is
the fault that ruins distillation silently.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgedistill.distill.batches import in_order
from edgedistill.distill.losses import pooled
from edgedistill.errors import IntegrityError
from edgedistill.types import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What a teacher said to a list of rows. `hidden` is [rows, layers + 1, 2, width] in float16, or None."""

    keys: tuple[str, ...]
    logits: Tensor
    hidden: Tensor | None


@torch.inference_mode()
def ask(
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    keys: Sequence[str],
    *,
    hidden: bool,
    separator: int | None = None,
    progress: Progress = silent,
) -> Signal:
    """Runs a classifier over encoded rows.

    Args:
        ids: token ids of each row, in the model's own vocabulary.
        keys: one key a row.
        separator: the piece between the texts of pairs; None for rows of one text.
        hidden: also keep the first position and the mean of every layer's output.
    """
    config: Any = model.config
    logits = torch.empty(len(ids), config.num_labels)
    states = torch.empty(len(ids), config.num_hidden_layers + 1, 2, config.hidden_size, dtype=torch.float16)
    done = 0
    for batch in in_order(ids, config.pad_token_id or 0, separator=separator):
        inputs = {name: value.to(model.device) for name, value in batch.items() if name != "rows"}
        out = model(**inputs, output_hidden_states=hidden)
        logits[batch["rows"]] = out.logits.float().cpu()
        if hidden:
            found = pooled(out.hidden_states, inputs["attention_mask"])
            states[batch["rows"]] = found.to("cpu", torch.float16)
        done += len(batch["rows"])
        progress(done, len(ids))
    return Signal(keys=tuple(keys), logits=logits, hidden=states if hidden else None)


def write(signal: Signal, path: Path) -> None:
    """Keeps a signal as one safetensors file; the row keys lie in its header."""
    tensors = {"logits": signal.logits} | ({} if signal.hidden is None else {"hidden": signal.hidden})
    save_file(tensors, path, metadata={"keys": json.dumps(signal.keys)})


def read(path: Path, keys: Sequence[str]) -> Signal:
    """Reads a signal back for the rows with these keys.

    Raises:
        IntegrityError: the file was made for other rows, or for the same rows in another order.
    """
    with safe_open(path, "pt") as file:
        stored = tuple(json.loads(file.metadata()["keys"]))
        if stored != tuple(keys):
            raise IntegrityError(
                f"{path} holds the teacher's answers to {len(stored)} other rows than the {len(keys)} asked for",
                hint="build with --fresh to ask the teacher again",
            )
        hidden = file.get_tensor("hidden") if "hidden" in file.keys() else None  # noqa: SIM118
        return Signal(keys=stored, logits=file.get_tensor("logits"), hidden=hidden)
