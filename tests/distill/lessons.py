"""Chats in the tokens of a tiny tokenizer, teachers that were asked about them, and trainings that are killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistill.distill import signals
from edgedistill.distill.examples import Example, encode
from edgedistill.distill.signals import Signals, Source
from edgedistill.distill.sparse import Sparsity
from edgedistill.distill.trainer import Schedule
from edgedistill.types import Progress
from tests.distill.chats import chat_tokenizer, turns
from tests.distill.decoders import decoder

LLAMA = "SmolLM2-135M-Instruct"
THINGS = ("light", "song", "door", "kitchen", "hall", "jazz")
Curve = tuple[Mapping[str, float], ...]


def chats(tokenizer: Any, max_tokens: int = 96) -> list[Example]:
    """Rows with prompts and answers of many lengths, no two alike."""
    made = []
    for first in THINGS:
        for second in THINGS[:4]:
            answer = " ".join(("play", first, "please") * (1 + len(made) % 3)) + f" in the {second}"
            found = encode(tokenizer, turns(f"which {first}, the {second} one?"), answer, max_tokens)
            assert isinstance(found, Example)
            made.append(found)
    return made


def source(pieces: int, teacher: str = "t") -> Source:
    return Source(teacher=teacher, tokenizer="k", template="c", pieces=pieces)


def asked(
    model: PreTrainedModel, examples: Sequence[Example], folder: Path, pieces: int, *, teacher: str = "t", **kept: Any
) -> Signals:
    """What a teacher says to rows in its own tokens."""
    (folder / teacher).mkdir(parents=True)
    (folder / f"{teacher} at work").mkdir()
    signals.capture(
        model,
        examples,
        source(pieces, teacher),
        Sparsity(**kept),
        folder=folder / teacher,
        work=folder / f"{teacher} at work",
    )
    return signals.read(folder / teacher, source(pieces, teacher), examples, vocabulary=pieces)


def schedule(**changes: Any) -> Schedule:
    settings = {"epochs": 2, "learning_rate": 2e-3, "batch_tokens": 320, "checkpoint_steps": 2, "seed": 11}
    return Schedule(**(settings | changes))


def student(pieces: int, **changes: Any) -> PreTrainedModel:
    """A random decoder of two layers."""
    return decoder(LLAMA, vocab_size=pieces, num_hidden_layers=2, max_position_embeddings=128, **changes)


def speaker(pieces: int, seed: int = 7, **changes: Any) -> PreTrainedModel:
    """A teacher that is sure of what it says, as no model with new weights is."""
    model = decoder(LLAMA, vocab_size=pieces, max_position_embeddings=128, **changes)
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=0.2)
    return model.requires_grad_(False)


def tokenizer() -> Any:
    """Pads with the token that ends an answer, as Llama's and SmolLM's do."""
    return chat_tokenizer(pad="<|im_end|>", end="<|im_end|>")


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Killed(Exception):
    """Stands for a power cut."""


def killed_at(step: int) -> Progress:
    def progress(done: int, total: int, note: str = "") -> None:
        if done == step:
            raise Killed

    return progress
