"""Students to export: random, and with no two weights alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from edgedistill.teachers import local


@pytest.fixture(scope="session")
def make_student(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Makes a checkpoint of so many layers. A new BERT's biases are all 0 and its norms all 1; here none are."""
    made: dict[int, Path] = {}

    def make(layers: int) -> Path:
        if layers not in made:
            torch.manual_seed(layers)
            config = BertConfig(
                vocab_size=300,
                hidden_size=32,
                num_hidden_layers=layers,
                num_attention_heads=4,
                intermediate_size=64,
                max_position_embeddings=24,
                id2label={number: f"label {number}" for number in range(5)},
            )
            model = BertForSequenceClassification(config).train(False)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn(parameter.shape), alpha=0.15)
            made[layers] = tmp_path_factory.mktemp(f"student{layers}")
            local.save(model, made[layers])
        return made[layers]

    return make


@pytest.fixture
def student(make_student: Callable[[int], Path]) -> Path:
    """A checkpoint of two layers."""
    return make_student(2)


@pytest.fixture(scope="session")
def texts() -> list[list[int]]:
    """Forty texts of every length from 3 to the longest that the students take."""
    chance = torch.Generator().manual_seed(0)
    lengths = [3 + number % 22 for number in range(40)]
    return [torch.randint(1, 300, (length,), generator=chance).tolist() for length in lengths]
