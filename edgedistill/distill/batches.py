"""Batches filled by token count, similar lengths together: hardly any padding, never an oversized batch."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

ROUND_TO = 2
"""Lengths that differ by less than this share a batch, so that batches mix more rows from epoch to epoch."""

Text = str | tuple[str, str]
"""What a row gives an encoder to read: a text, or a pair of them."""


Batch = dict[str, Tensor]
"""`rows` are the positions of the texts in their split; `input_ids`, `attention_mask` and `token_type_ids` are [rows,
longest text] and all that a model takes."""


def encode(tokenizer: Tokenizer, texts: Sequence[Text], max_tokens: int) -> list[list[int]]:
    """Ids of each text or pair, special tokens included, cut to max_tokens; of a pair, the longer text first."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_padding()
    plain.enable_truncation(max_tokens)
    return [encoding.ids for encoding in plain.encode_batch_fast(list(texts))]


def separator_of(tokenizer: Tokenizer, texts: Sequence[Text]) -> int | None:
    """The piece between the two texts of a pair; None when the rows are single texts."""
    return None if not texts or isinstance(texts[0], str) else tokenizer.encode("").ids[-1]


def collate(ids: Sequence[Sequence[int]], rows: Sequence[int], pad: int, *, separator: int | None = None) -> Batch:
    """One batch of the rows with these positions, padded to the longest.

    Args:
        separator: the piece between the texts of a pair; what follows the first one belongs to the second text. None
            for rows of one text.
    """
    longest = max((len(ids[row]) for row in rows), default=1)
    tokens = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(ids[row])] = torch.tensor(ids[row])
        mask[i, : len(ids[row])] = 1
    types = torch.zeros_like(tokens)
    if separator is not None:
        ends = (tokens == separator).long()
        types = (ends.cumsum(dim=1) - ends).clamp(max=1) * mask
    numbers = torch.tensor(rows, dtype=torch.long)
    return {"rows": numbers, "input_ids": tokens, "attention_mask": mask, "token_type_ids": types}


def in_order(
    ids: Sequence[Sequence[int]], pad: int, *, separator: int | None = None, batch_tokens: int = 2048
) -> Iterator[Batch]:
    """Batches over all rows once, shortest texts first, for evaluation."""
    for rows in ByTokens([len(text) for text in ids], batch_tokens):
        yield collate(ids, rows, pad, separator=separator)


class ByTokens(Sequence[list[int]]):
    """Which rows go together, a list a step, over all epochs in one go.

    Rows are sorted by length, those of one length in random order, then cut wherever a batch is full, and the batches
    are shuffled. So the cuts fall at the same places in every epoch and the number of steps is known; and because each
    epoch's order follows from its number alone, a resumed training skips to where it was and sees the same batches.

    Args:
        lengths: number of tokens of each row.
        batch_tokens: rows times longest row stays at or below this, except where that leaves too few rows.
        epochs: how often to go through the rows.
        seed: None keeps the rows in order of length.
        least: rows that a batch has at least: one for each of the parts that it is split into.
    """

    def __init__(
        self, lengths: Sequence[int], batch_tokens: int, *, epochs: int = 1, seed: int | None = None, least: int = 1
    ) -> None:
        self._lengths = [-(-length // ROUND_TO) for length in lengths]
        self._seed = seed
        self._epochs = epochs
        cuts = [0]
        for position, length in enumerate(sorted(self._lengths)):
            full = (position + 1 - cuts[-1]) * length * ROUND_TO > batch_tokens
            if full and position - cuts[-1] >= least:
                cuts.append(position)
        if len(cuts) > 1 and len(lengths) - cuts[-1] < least:
            cuts.pop()
        self._cuts = [*cuts, len(lengths)]
        self._kept: tuple[int, list[list[int]]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in which every row occurs once."""
        return len(self._cuts) - 1

    def __len__(self) -> int:
        return self._epochs * self.steps_per_epoch

    def __getitem__(self, step: int) -> list[int]:  # type: ignore[override]  # no slices
        if not 0 <= step < len(self):
            raise IndexError(step)
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._kept[0] != epoch:
            self._kept = (epoch, self._epoch(epoch))
        return self._kept[1][place]

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
