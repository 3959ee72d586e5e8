"""Batches filled by token count, similar lengths together: hardly any padding, never an oversized batch."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import TypedDict

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Sampler

ROUND_TO = 2
"""Lengths that differ by less than this share a batch, so that batches mix more rows from epoch to epoch."""


class Batch(TypedDict):
    """`rows` are the positions of the texts in their split; the two tensors are [rows, longest text]."""

    rows: Tensor
    input_ids: Tensor
    attention_mask: Tensor


def encode(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Ids of each text, special tokens included, cut to max_tokens."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_padding()
    plain.enable_truncation(max_tokens)
    return [encoding.ids for encoding in plain.encode_batch_fast(list(texts))]


def collate(ids: Sequence[Sequence[int]], rows: Sequence[int], pad: int) -> Batch:
    """One batch of the rows with these positions, padded to the longest."""
    longest = max(len(ids[row]) for row in rows)
    tokens = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(ids[row])] = torch.tensor(ids[row])
        mask[i, : len(ids[row])] = 1
    return Batch(rows=torch.tensor(rows), input_ids=tokens, attention_mask=mask)


def in_order(ids: Sequence[Sequence[int]], pad: int, *, batch_tokens: int = 2048) -> Iterator[Batch]:
    """Batches over all rows once, shortest texts first, for evaluation."""
    for rows in ByTokens([len(text) for text in ids], batch_tokens):
        yield collate(ids, rows, pad)


class ByTokens(Sampler[list[int]]):
    """Which rows go together, a list a batch, over all epochs in one go.

    Rows are sorted by length, those of one length in random order, then cut wherever a batch is full, and the batches
    are shuffled. So the cuts fall at the same places in every epoch and the number of steps is known; and because each
    epoch's order follows from its number alone, a resumed training skips to where it was and sees the same batches.

    Args:
        lengths: number of tokens of each row.
        batch_tokens: rows times longest row stays at or below this, except for a single row that is longer.
        epochs: how often to go through the rows.
        seed: None keeps the rows in order of length.
    """

    def __init__(self, lengths: Sequence[int], batch_tokens: int, *, epochs: int = 1, seed: int | None = None) -> None:
        self._lengths = [-(-length // ROUND_TO) for length in lengths]
        self._seed = seed
        self._epochs = epochs
        self._cuts = [0]
        for position, length in enumerate(sorted(self._lengths)):
            if position > self._cuts[-1] and (position + 1 - self._cuts[-1]) * length * ROUND_TO > batch_tokens:
                self._cuts.append(position)
        self._cuts.append(len(lengths))

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in which every row occurs once."""
        return len(self._cuts) - 1

    def __len__(self) -> int:
        return self._epochs * self.steps_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in range(self._epochs):
            yield from self._epoch(epoch)

    def _epoch(self, epoch: int) -> list[list[int]]:
        rows = list(range(len(self._lengths)))
        chance = random.Random(f"{self._seed}:{epoch}")
        if self._seed is not None:
            chance.shuffle(rows)
        rows.sort(key=self._lengths.__getitem__)
        batches = [rows[a:b] for a, b in itertools.pairwise(self._cuts)]
        if self._seed is not None:
            chance.shuffle(batches)
        return batches
