"""The toy task, encoded, and models of every kind the tests need."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from edgedistill.distill import logits
from edgedistill.distill.batches import encode
from edgedistill.distill.classes import Examples
from edgedistill.distill.logits import Signal
from edgedistill.teachers import local

LABELS = ("door", "light", "music")


@pytest.fixture(scope="session")
def classifier(tiny_teacher: Path) -> Callable[[], PreTrainedModel]:
    """Makes the tiny teacher with a new head, the same one every time."""

    def make() -> PreTrainedModel:
        torch.manual_seed(5)
        return local.load(tiny_teacher, LABELS)

    return make


def shake(model: PreTrainedModel) -> PreTrainedModel:
    """Makes no two weights of a model alike: a new BERT's biases are all 0 and its norms all 1."""
    chance = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=0.2)
    return model


@pytest.fixture
def shaken(classifier: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """A classifier in which no two weights are alike."""
    return shake(classifier())


@pytest.fixture(scope="session")
def toy(tiny_teacher: Path, tiny_rows: Path) -> Examples:
    """The training rows."""
    rows = [json.loads(line) for line in (tiny_rows / "train.jsonl").read_text().splitlines()]
    tokenizer = Tokenizer.from_file(str(tiny_teacher / "tokenizer.json"))
    return Examples(
        ids=encode(tokenizer, [row["text"] for row in rows], 32),
        classes=[LABELS.index(row["label"]) for row in rows],
        pad=0,
    )


@pytest.fixture(scope="session")
def signal(classifier: Callable[[], PreTrainedModel], toy: Examples) -> Signal:
    """What some other model said to the training rows."""
    return logits.ask(shake(classifier()), toy.ids, [str(row) for row in range(len(toy.ids))], hidden=True)


@pytest.fixture
def ragged() -> list[list[int]]:
    """Twelve rows of every length from 3 to 14, in no order, no two alike."""
    chance = torch.Generator().manual_seed(8)
    lengths = (torch.randperm(12, generator=chance) + 3).tolist()
    return [[2, *torch.randint(5, 80, (length - 2,), generator=chance).tolist(), 3] for length in lengths]
