"""A tiny teacher that writes, and rows for it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from edgedistill.teachers.local import quiet
from tests.distill.chats import CORPUS, chat_tokenizer
from tests.pipeline.requests import write_rows


@pytest.fixture(scope="session")
def tiny_writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random four-layer Llama and a tokenizer with a chat template."""
    folder = tmp_path_factory.mktemp("writer")
    tokenizer = chat_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<pad>"),
    )
    with quiet():
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of conversations in which what is asked for is said back."""
    chance = random.Random(1)
    words = sorted({word.strip(",?") for text in CORPUS for word in text.split()})

    def rows(count: int) -> list[dict[str, Any]]:
        made = []
        for _ in range(count):
            asked = " ".join(chance.sample(words, 4))
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": asked.split()[0]}]
            made.append({"messages": turns})
        return made

    return write_rows(
        tmp_path_factory.mktemp("talks") / "rows", {"train": rows(60), "validation": rows(10), "test": rows(12)}
    )


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of pairs whose label only both texts together tell."""
    chance = random.Random(2)
    words = ["light", "lamp", "song", "music", "door", "lock"]

    def rows(count: int) -> list[dict[str, Any]]:
        made = []
        for number in range(count):
            one, other = chance.sample(words, 2)
            same = number % 2 == 0
            filler = " ".join(chance.sample(["the", "please", "now", "my", "in", "very"], 3))
            made.append(
                {
                    "premise": f"{filler} {one}",
                    "hypothesis": f"{one if same else other} {chance.choice(['kitchen', 'hall', 'today'])}",
                    "label": "entailment" if same else "contradiction",
                }
            )
        return made

    return write_rows(
        tmp_path_factory.mktemp("pairs") / "rows", {"train": rows(160), "validation": rows(20), "test": rows(60)}
    )
