"""LoRA: a student learns through small matrices beside its own, which are multiplied in before it is exported.

W' = W + (alpha / rank) · B A with A [rank, inputs] and B [outputs, rank] (Hu et al., 2021, section 4.1). B starts at 0,
so the student starts as it was.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, cast

import torch

from edgedistill.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

PROJECTIONS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "down_proj",
)
"""Every matrix of a layer, by the names that transformers gives them; Phi-3 and Phi-4-mini have the fused ones."""


def with_lora(
    model: PreTrainedModel, rank: int, *, alpha: int | None = None, dropout: float = 0.0, seed: int = 0
) -> PeftModel:
    """Puts an adapter beside every projection of every layer and freezes all else.

    The weights stay those of the model handed in, which is wrapped and changed; the adapters are float32 whatever its
    dtype, because small steps would vanish in bfloat16.

    Args:
        rank: of each adapter's matrices; distillation wants more than the 8 of ordinary fine-tuning.
        alpha: the adapters are scaled by alpha / rank; None: twice the rank.
        dropout: on what enters the adapters, while training.
        seed: of the random A; the state of the global generator stays as it was.

    Raises:
        InputError: the model has none of the projections.
        MissingExtra: the package peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtra("peft, which trains with [student] lora_rank,", extra="lora") from error
    present = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    targets = [name for name in PROJECTIONS if name in present]
    if not targets:
        raise InputError(f"{type(model).__name__} has no projection for LoRA", hint="leave [student] lora_rank out")
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=targets,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft 0.21 asks by a name that transformers 5.23 has replaced.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        torch.manual_seed(seed)
        return cast("PeftModel", get_peft_model(model, settings))


def merged(model: PeftModel) -> PreTrainedModel:
    """The student with its adapters multiplied in: a plain model, all of whose weights can be trained again.

    Raises:
        InputError: an adapter holds numbers that are not finite.
    """
    try:
        plain = cast("PreTrainedModel", model.merge_and_unload(safe_merge=True))
    except ValueError as error:
        raise InputError(f"the adapters cannot be merged: {error}", hint="lower the learning rate") from error
    plain.requires_grad_(True)
    plain.train(False)
    return plain
