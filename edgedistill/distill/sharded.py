"""FSDP: each process keeps a part of every weight, and borrows the others' parts while it computes.

What a lesson does outside the model's own call needs whole weights, and so does everything after the training. Only
version 2 is known here, `fully_shard`, whose weights are `DTensor`s in the modules that they were in before.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import distributed, nn

from edgedistill.errors import InputError


def asked_for() -> bool:
    """Whether `accelerate launch` was told to shard the model; prepares the environment for it.

    Raises:
        InputError: FSDP 1, which flattens the weights that a lesson needs in their own shape.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise InputError(
            "students are trained with version 2 of FSDP, and accelerate was told to use version 1",
            hint="set fsdp_version: 2 in its configuration, or add --fsdp_version 2",
        )
    # Else transformers would load teachers too without any weights, in all processes but the first.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return True


def processes() -> int:
    """Over how many processes a student's weights, gradients and moments are spread; 1 where each has all of them."""
    spread = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return int(os.environ.get("WORLD_SIZE", "1")) if spread else 1


def twin(model: nn.Module) -> Any:
    """A copy to shard, because a sharded model cannot become a plain one again."""
    made: Any = copy.deepcopy(model)
    if hasattr(made, "get_input_embeddings"):
        # accelerate shards this table by itself, and fails where it has sharded the layer around it before (BERT's).
        table = made.get_input_embeddings()
        around = {type(module).__name__ for module in made.modules() if table in module.modules()}
        made._no_split_modules = set(made._no_split_modules or ()) - around
    return made


def unshard(module: nn.Module) -> None:
    """Makes a module's own weights whole; its gradients are summed over the processes all the same.

    All processes must do this together. A module that is not sharded stays as it is.
    """
    for part in _parts(module):
        part.unshard()


def gather(model: nn.Module) -> None:
    """Makes all weights whole until the next backward pass, so that each process may call the model at its own pace.

    All processes must do this together. A model that is not sharded stays as it is.
    """
    for part in _parts(model):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


@torch.no_grad()
def collect(learner: nn.Module, model: nn.Module) -> None:
    """Copies the whole weights of a sharded model to a plain one of the same shape, in every process."""
    from torch.distributed.tensor import DTensor

    found = learner.state_dict()
    for name, weight in model.state_dict().items():
        part = found[name]
        if isinstance(part, DTensor):
            # It may be kept in the memory of the CPU, where cards cannot exchange it.
            on_device: Any = part.to(part.device_mesh.device_type)
            part = on_device.full_tensor()
        weight.copy_(part)


def _parts(model: nn.Module) -> list[Any]:
    """The modules that borrow weights by themselves."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]
