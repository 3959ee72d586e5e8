"""Checkpoints that several tests share, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from tests.export.gguf.checkpoints import FAMILIES, causal, random_weights, save, wordpiece


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes the checkpoint of a family once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            kind, sizes, tokenizer = FAMILIES[name]
            made[name] = causal(kind, sizes, tokenizer(), tmp_path_factory.mktemp("checkpoint"))
        return made[name]

    return make


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Makes a BERT, with or without classes."""

    def make(classes: bool) -> Path:
        tokenizer = wordpiece()
        config = transformers.BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            max_position_embeddings=128,
            id2label={number: f"label {number}" for number in range(5)},
        )
        torch.manual_seed(1)
        kind = transformers.BertForSequenceClassification if classes else transformers.BertModel
        model = kind(config).train(False)
        random_weights(model)
        return save(model, tokenizer, tmp_path_factory.mktemp("encoder"))

    return make
