"""Batches hold every row once an epoch, within their limit, and pairs are read as pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgedistill.distill.batches import ByTokens, collate, encode, separator_of

LENGTHS = [3, 9, 4, 30, 5, 5, 8, 100, 6, 7] * 7


def test_every_row_occurs_once_an_epoch_in_batches_within_the_limit() -> None:
    steps = ByTokens(LENGTHS, 64, epochs=3, seed=1)
    batches = list(steps)
    assert len(batches) == len(steps) == 3 * steps.steps_per_epoch
    epochs = [batches[i : i + steps.steps_per_epoch] for i in range(0, len(batches), steps.steps_per_epoch)]
    for epoch in epochs:
        assert sorted(row for batch in epoch for row in batch) == list(range(len(LENGTHS)))
        assert all(len(batch) == 1 or len(batch) * max(LENGTHS[row] for row in batch) <= 64 for batch in epoch)
    assert epochs[0] != epochs[1]


def test_a_step_can_be_looked_up_without_those_before_it() -> None:
    whole = list(ByTokens(LENGTHS, 64, epochs=3, seed=1))
    again = ByTokens(LENGTHS, 64, epochs=3, seed=1)
    for step in (len(whole) - 1, 0, len(whole) // 2):
        assert again[step] == whole[step]
    with pytest.raises(IndexError):
        again[len(whole)]


@pytest.mark.parametrize("least", [2, 3, 7])
def test_a_batch_has_a_row_for_each_of_its_parts(least: int) -> None:
    batches = list(ByTokens(LENGTHS, 64, epochs=2, seed=1, least=least))
    assert min(map(len, batches)) >= least
    assert sorted(row for batch in batches for row in batch) == sorted([*range(len(LENGTHS))] * 2)


def test_a_batch_is_padded_behind_its_texts() -> None:
    batch = collate([[2, 5, 3], [2, 3]], [1, 0], pad=0)
    assert batch["input_ids"].tolist() == [[2, 3, 0], [2, 5, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_pairs_have_the_types_that_their_tokenizer_gives_them(tiny_teacher: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_teacher / "tokenizer.json"))
    pairs = [("open the door", "light"), ("music", "play it now")]
    expected = [tokenizer.encode(*pair) for pair in pairs]
    ids = encode(tokenizer, pairs, 32)
    assert ids == [found.ids for found in expected]
    batch = collate(ids, [0, 1], 0, separator=separator_of(tokenizer, pairs))
    for row, found in enumerate(expected):
        assert batch["token_type_ids"][row, : len(found.ids)].tolist() == found.type_ids
    assert separator_of(tokenizer, ["one text"]) is None
