"""Teachers that are classifiers already: a local encoder with a head for the labels gives their probabilities."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill.config import LabelTeacher
from edgedistill.errors import InputError
from edgedistill.teachers import local
from edgedistill.teachers.answerer import Failure
from edgedistill.types import Ask, Reply, Signal

BATCH = 32


class Encoder:
    """A BERT classifier on this machine; it takes the fields of a row, one text or two, and no prompt.

    Raises:
        InputError: the checkpoint has no head for exactly these labels.
    """

    batch = BATCH
    slots = 1
    linger_s = 0.0
    enforces = True
    gives: tuple[Signal, ...] = ("labels", "class probabilities", "logits", "hidden states")

    def __init__(self, settings: LabelTeacher, folder: Path, labels: Sequence[str]) -> None:
        from tokenizers import Tokenizer

        facts = local.inspect(folder, labels, name=settings.title)
        if not facts.has_head:
            raise InputError(
                f"{folder} has no head for the {len(labels)} labels of the rows",
                hint="give its own labels as [label] labels, or use a teacher that reads prompts",
            )
        self.name = facts.name
        self.identity: Mapping[str, Any] = {"kind": "encoder", "sha256": facts.sha256}
        self._labels = tuple(labels)
        self._model = local.load(folder, labels)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(facts.shape.positions)
        self._tokenizer.enable_padding()

    async def answer(self, asks: Sequence[Ask]) -> Sequence[Reply | Failure]:
        """Classifies the rows in a thread of its own."""
        return await asyncio.to_thread(self._all, asks)

    def _all(self, asks: Sequence[Ask]) -> list[Reply]:
        import torch

        encoded = self._tokenizer.encode_batch([ask.fields[0] if len(ask.fields) == 1 else ask.fields for ask in asks])
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.tensor([row.ids for row in encoded]),
                attention_mask=torch.tensor([row.attention_mask for row in encoded]),
                token_type_ids=torch.tensor([row.type_ids for row in encoded]),
            ).logits
        shares = logits.float().softmax(-1)
        return [
            Reply(
                text=json.dumps({"answer": self._labels[int(row.argmax())]}),
                finish="stop",
                prompt_tokens=sum(encoded[number].attention_mask),
                completion_tokens=0,
                probabilities={label: float(p) for label, p in zip(self._labels, row, strict=True)},
            )
            for number, row in enumerate(shares)
        ]

    async def close(self) -> None:
        """Frees the model."""
        del self._model
