"""Windows over a long context, and the best span in any of them: in order, inside the context, at the right place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from edgedistill.runtime.spans import LONGEST_ANSWER, best, windows, within
from tests.conftest import FILLER, tiny_tokenizer

QUESTION = "which song is it"
LONG = " ".join(FILLER * 6)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = tiny_tokenizer()
    made.enable_padding(length=200)  # as some checkpoints' tokenizers come
    made.enable_truncation(7)
    return made


def scores(read: list[Encoding], **at: tuple[int, int, float]) -> list[NDArray[np.float32]]:
    """Zeros, but for (window, piece, score) where an answer starts and where it ends."""
    found = [np.zeros((len(window.ids), 2), dtype=np.float32) for window in read]
    for name, (window, piece, score) in at.items():
        found[window][piece, "se".index(name[0])] = score
    return found


def test_a_context_that_fits_is_one_window(tokenizer: Tokenizer) -> None:
    (read,) = windows(tokenizer, QUESTION, "the lamp", 64)
    assert read.tokens[0] == "[CLS]"
    assert [read.tokens[at] for at in np.flatnonzero(within(read))] == ["the", "lamp"]


def test_windows_overlap_and_leave_nothing_of_the_context_out(tokenizer: Tokenizer) -> None:
    read = windows(tokenizer, QUESTION, LONG, 40)
    assert len(read) > 2
    assert all(len(window.ids) <= 40 for window in read)
    spans = [[window.offsets[at] for at in np.flatnonzero(within(window))] for window in read]
    for before, after in itertools.pairwise(spans):
        assert before[-1] in after  # whole pieces are in both
        assert after[0] in before
    assert (spans[0][0][0], spans[-1][-1][1]) == (0, len(LONG))
    asked = tokenizer.encode(QUESTION, add_special_tokens=False).ids
    for window in read:
        assert window.ids[1 : len(asked) + 1] == asked
        assert window.type_ids == [0] * (len(asked) + 2) + [1] * (len(window.ids) - len(asked) - 2)


@pytest.mark.parametrize(
    ("question", "context", "said"),
    [
        ("", "the lamp", "the question is empty"),
        (" \n", "the lamp", "the question is empty"),
        ("which", "\t ", "the context is empty"),
        ("which", "\u200b", "nothing that the tokenizer knows"),
        ("the song " * 18, LONG, "takes 36 of 40 pieces"),
    ],
)
def test_what_cannot_be_read_is_said(tokenizer: Tokenizer, question: str, context: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        windows(tokenizer, question, context, 40)


def test_the_best_span_is_the_best_of_all_windows_and_its_place_is_in_the_context(tokenizer: Tokenizer) -> None:
    read = windows(tokenizer, QUESTION, LONG, 40)
    last = len(read) - 1
    found = best(read, scores(read, start=(last, 20, 4.0), end=(last, 21, 4.0), s=(0, 12, 3.0), e=(0, 12, 3.0)), LONG)
    assert found.start == read[last].offsets[20][0]
    assert found.end == read[last].offsets[21][1]
    assert found.text == LONG[found.start : found.end]


def test_a_span_is_in_order_within_the_context_and_not_too_long(tokenizer: Tokenizer) -> None:
    (read,) = windows(tokenizer, QUESTION, LONG, 200)
    first = int(np.flatnonzero(within(read))[0])
    given = scores([read], s1=(0, 2, 9.0), e1=(0, 2, 9.0))  # in the question
    given[0][first + 30, 0], given[0][first + 5, 1] = 5.0, 5.0  # would end before it starts
    given[0][first + 2, 0], given[0][first + 2 + LONGEST_ANSWER, 1] = 3.0, 1.0  # one piece too far
    found = best([read], given, LONG)
    assert (found.start, found.end) == (read.offsets[first + 2][0], read.offsets[first + 5][1])


def test_scores_of_spans_are_shares_of_all_of_them(tokenizer: Tokenizer) -> None:
    (read,) = windows(tokenizer, "which", "the lamp", 64)
    assert best([read], scores([read]), "the lamp").score == pytest.approx(1 / 3)  # the, lamp, the lamp
    lamp = int(np.flatnonzero(within(read))[1])
    sure = scores([read], start=(0, lamp, 20.0), end=(0, lamp, 20.0))
    assert best([read], sure, "the lamp").score == pytest.approx(1, abs=1e-6)
