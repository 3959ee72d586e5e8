"""How much each input column of each matrix matters on the task's own rows: the importance matrix of llama.cpp.

The quantizer weighs the squared error of a weight by the mean square of the activation that it is multiplied with
(llama.cpp, tools/imatrix/README.md). The activations are those of the checkpoint in PyTorch: the same numbers that
llama.cpp's tool collects from a float32 file, without writing one first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedistill.errors import InputError
from edgedistill.export.checkpoint import load, read_config
from edgedistill.export.gguf.families import family, tied
from edgedistill.export.gguf.writer import tensor_name
from edgedistill.types import Progress, silent


def importance(
    checkpoint: Path, rows: Sequence[Sequence[int]], *, progress: Progress = silent
) -> dict[str, NDArray[np.float32]]:
    """The mean square of every linear layer's input, a column each, over all tokens of the rows.

    Args:
        rows: token ids as the student sees them, prompt and answer together.

    Returns:
        By the tensor's name in GGUF, float32 [width]. Where the head is the embedding table it goes by that name.

    Raises:
        InputError: there are no rows, or one is empty.
        StageError: a family that cannot be written as GGUF.
    """
    if not rows or not all(rows):
        raise InputError("an importance matrix needs rows with tokens", hint="give the student's training rows")
    config = read_config(checkpoint)
    found = family(config)
    model = load(checkpoint, config)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).to(torch.float64)
        sums[name] = sums.get(name, 0) + values.square().sum(dim=0)
        counts[name] = counts.get(name, 0) + len(values)

    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            is_head = path == "lm_head" and tied(config)
            name = "token_embd.weight" if is_head else tensor_name(f"{path}.weight", found, config)
            if name is not None:
                module.register_forward_pre_hook(partial(add, name))
    with torch.inference_mode():
        for done, row in enumerate(rows, 1):
            model(input_ids=torch.tensor([list(row)]))
            progress(done, len(rows))
    return {name: (total / counts[name]).to(torch.float32).numpy() for name, total in sums.items()}
