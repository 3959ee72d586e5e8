"""Tiny checkpoints of decoders and encoders, made at test time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from edgedistill.teachers.local import quiet

CONTEXT = 48
SPECIAL = ("<pad>", "<unk>", "<end>", "<user>", "<system>", "<assistant>")
WORDS = tuple(f"w{number}" for number in range(58))
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(SPECIAL + WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,  # so that no two tokens are equally likely
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def deepseek() -> DeepseekV3ForCausalLM:
    config = DeepseekV3Config(
        vocab_size=len(SPECIAL + WORDS),
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_shared_experts=1,
        n_routed_experts=8,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return DeepseekV3ForCausalLM(config)


FAMILIES = {"llama": llama, "deepseek_v3": deepseek}


def decoder(folder: Path, family: str = "llama", **saving: Any) -> Path:
    """A random decoder with a tokenizer of words and a chat template."""
    torch.manual_seed(0)
    with quiet():
        FAMILIES[family]().save_pretrained(folder, **saving)
        vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            unk_token="<unk>",
            eos_token="<end>",
            chat_template=TEMPLATE,
        ).save_pretrained(folder)
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
