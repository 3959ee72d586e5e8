"""Tiny random decoders of every family that students are made of, each with what is peculiar about its namesake."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 40
POSITIONS = 64
ENDS = [2, 3]
PAD = 4

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 16,
}

NAMESAKES: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B-Instruct": {
        "model_type": "llama",
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "SmolLM2-135M-Instruct": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "num_attention_heads": 6,  # three to a key-value head
        "hidden_size": 48,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    },
    "Llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "Mistral-7B-Instruct": {"model_type": "mistral", "sliding_window": 4, "head_dim": 16, "tie_word_embeddings": False},
    "Qwen2.5-0.5B-Instruct": {
        "model_type": "qwen2",
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 2,
    },
    "Qwen2.5 for long texts": {
        "model_type": "qwen2",
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "Qwen3-0.6B": {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 16},
    "Phi-3-mini-4k-instruct": {"model_type": "phi3", "sliding_window": 5, "num_key_value_heads": 4},
    "Phi-3-mini-128k-instruct": {
        "model_type": "phi3",
        "num_key_value_heads": 4,
        "original_max_position_embeddings": 16,
        "rope_parameters": LONGROPE | {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 4.0, 8.0]},
    },
    "Phi-3.5-mini-instruct": {
        "model_type": "phi3",
        "num_key_value_heads": 4,
        "sliding_window": 50,
        "original_max_position_embeddings": 16,
        "rope_parameters": LONGROPE | {"short_factor": [1.0, 1.0, 1.1, 1.2], "long_factor": [1.1, 3.0, 5.0, 9.0]},
    },
    "Phi-4-mini-instruct": {
        "model_type": "phi3",
        "tie_word_embeddings": True,
        "original_max_position_embeddings": 16,
        "rope_parameters": LONGROPE
        | {"partial_rotary_factor": 0.75, "short_factor": [1.0, 1.1, 1.2], "long_factor": [1.0, 4.0, 16.0]},
    },
    "gemma-2b-it": {"model_type": "gemma", "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh"},
    "gemma-2-2b-it": {
        "model_type": "gemma2",
        "head_dim": 16,
        "sliding_window": 4,
        "query_pre_attn_scalar": 10,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma-3-1b-it": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "sliding_window": 4,
        "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 10,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "SmolLM3-3B": {"model_type": "smollm3", "no_rope_layers": [1, 1, 0]},
}


def decoder(namesake: str, **changes: Any) -> PreTrainedModel:
    """A decoder of three layers in which no two weights are alike."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": 1,
        "eos_token_id": ENDS,
        "pad_token_id": PAD,
        **NAMESAKES[namesake],
        **changes,
    }
    config: PretrainedConfig = CONFIG_MAPPING[settings.pop("model_type")](**settings)
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=0.2)
    return model.train(False)
