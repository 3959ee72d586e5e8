"""Rotary positions: base, scaling and factors, from a checkpoint's rope_parameters to GGUF's keys and tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from gguf import GGUFWriter, RopeScalingType
from torch import Tensor

from edgedistill.errors import StageError

Config = Mapping[str, Any]


def parameters(config: Config) -> dict[str, Any]:
    """Those of the layers that see everything."""
    found: dict[str, Any] = config.get("rope_parameters") or {}
    return dict(found.get("full_attention") or found)


def kind(config: Config) -> str:
    """The kind of scaling, or "default" where there is none."""
    return str(parameters(config).get("rope_type") or "default")


def check(config: Config, *computed: str) -> None:
    """Refuses the kinds of scaling that llama.cpp does not compute for a family.

    Raises:
        StageError: another kind, or a sliding layer with scaling of its own.
    """
    sliding = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    if kind(config) not in computed or (sliding.get("rope_type") or "default") != "default":
        raise StageError(
            f"llama.cpp does not compute rope_type {kind(config)!r} for {config['model_type']}",
            hint=f"it computes {', '.join(computed)}; export this student to ONNX",
        )


def describe(writer: GGUFWriter, config: Config, head: int) -> None:
    """Writes base, rotated dimensions and scaling."""
    found = parameters(config)
    writer.add_rope_dimension_count(_rotated(config, head))
    writer.add_rope_freq_base(found["rope_theta"])
    sliding = (config.get("rope_parameters") or {}).get("sliding_attention")
    if sliding:
        writer.add_rope_freq_base_swa(sliding["rope_theta"])
    scaling = kind(config)
    if scaling == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(found["factor"])
    elif scaling == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(found["factor"])
        writer.add_rope_scaling_orig_ctx_len(_original(config))
        writer.add_rope_scaling_yarn_beta_fast(found.get("beta_fast") or 32.0)
        writer.add_rope_scaling_yarn_beta_slow(found.get("beta_slow") or 1.0)
        if found.get("attention_factor"):
            # llama.cpp multiplies this by 0.1 ln(factor) + 1, which is all that the model has without it.
            usual = 0.1 * math.log(found["factor"]) + 1 if found["factor"] > 1 else 1.0
            writer.add_rope_scaling_yarn_attn_factor(found["attention_factor"] / usual)
    elif scaling == "longrope":
        writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(_original(config))
        writer.add_rope_scaling_attn_factors(_longrope_attention(config))


def llama3_factors(config: Config) -> dict[str, Tensor]:
    """What each frequency is divided by in Llama 3.1 and later; GGUF keeps the list as a tensor.

    Long waves are divided by `factor`, short ones are left, and between the two it goes over smoothly, as in
    transformers' `_compute_llama3_parameters`.
    """
    if kind(config) != "llama3":
        return {}
    found = parameters(config)
    head = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    waves = 2 * math.pi * found["rope_theta"] ** (torch.arange(0, head, 2, dtype=torch.float64) / head)
    low, high, factor = found["low_freq_factor"], found["high_freq_factor"], found["factor"]
    smooth = ((_original(config) / waves - low) / (high - low)).clamp(0, 1)
    return {"rope_freqs.weight": (1 / ((1 - smooth) / factor + smooth)).to(torch.float32)}


def longrope_factors(config: Config) -> dict[str, Tensor]:
    """Phi-3's factors for short and for long contexts. Raises StageError when a list has the wrong length."""
    if kind(config) != "longrope":
        return {}
    found = parameters(config)
    head = config["hidden_size"] // config["num_attention_heads"]
    pairs = _rotated(config, head) // 2
    tensors = {}
    for length in ("long", "short"):
        factors = found[f"{length}_factor"]
        if len(factors) != pairs:
            raise StageError(f"{length}_factor has {len(factors)} numbers, not {pairs}", hint="mend config.json")
        tensors[f"rope_factors_{length}.weight"] = torch.tensor(factors, dtype=torch.float32)
    return tensors


def _rotated(config: Config, head: int) -> int:
    share = parameters(config).get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    return int(head * share)


def _original(config: Config) -> int:
    found = parameters(config)
    length = found.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return int(length or config["max_position_embeddings"])


def _longrope_attention(config: Config) -> float:
    """Ding et al., LongRoPE, 2024, as transformers' `_compute_longrope_parameters` has it."""
    given = parameters(config).get("attention_factor")
    if given:
        return float(given)
    ratio = config["max_position_embeddings"] / _original(config)
    return math.sqrt(1 + math.log(ratio) / math.log(_original(config))) if ratio > 1 else 1.0
