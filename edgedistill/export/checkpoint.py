"""A checkpoint as transformers reads it: its configuration with today's names, and the model to hold files against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def read_config(checkpoint: Path) -> dict[str, Any]:
    """The configuration of a checkpoint with today's names and defaults. Raises InputError when there is none."""
    from transformers import AutoConfig

    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(
            checkpoint, local_files_only=True, trust_remote_code=False
        ).to_dict()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{checkpoint} is not a checkpoint: {error}", hint="it needs a config.json") from error
    return config


def classifies(config: Mapping[str, Any]) -> bool:
    """Whether the model ends in classes."""
    return str(config["architectures"][0]).endswith("ForSequenceClassification")


def load(checkpoint: Path, config: Mapping[str, Any]) -> nn.Module:
    """The checkpoint in float32, ready to answer."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    if config["model_type"] == "bert":
        kind: Any = AutoModelForSequenceClassification if classifies(config) else AutoModel
    else:
        kind = AutoModelForCausalLM
    model: nn.Module = kind.from_pretrained(
        checkpoint, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    )
    return model.train(False)
