"""Where in a text the answer to a question stands: windows over a long text, and the best span in any of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

LONGEST_ANSWER = 30
"""Pieces that a span has at most."""
OVERLAP = 128
"""Pieces that a window shares with the one before, so that an answer at the edge of one is whole in the other."""
LEAST_CONTEXT = 8
"""Pieces of the context that a window must have room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A piece of a context.

    Attributes:
        start: its first character in the context, and `end` the one behind its last.
        score: its share of the softmax over all spans that could be the answer, by the sum of their two logits.
    """

    text: str
    start: int
    end: int
    score: float


def windows(tokenizer: Tokenizer, question: str, context: str, max_tokens: int) -> list[Encoding]:
    """A question with as much of the context as fits, as often as it takes to read all of it.

    Args:
        tokenizer: its truncation and padding are changed.
        max_tokens: of a window, question and special pieces included.

    Raises:
        ValueError: there is nothing to ask or to read, or the question leaves no room for the context.
    """
    for name, text in (("question", question), ("context", context)):
        if not text.strip():
            raise ValueError(f"the {name} is empty")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    whole = tokenizer.encode(question, context)
    read = int(within(whole).sum())
    if not read:
        raise ValueError(f"the context {context[:40]!r} has nothing that the tokenizer knows")
    if len(whole.ids) <= max_tokens:
        return [whole]
    room = max_tokens - (len(whole.ids) - read)
    if room < LEAST_CONTEXT:
        raise ValueError(
            f"the question takes {whole.sequence_ids.count(0)} of {max_tokens} pieces and leaves too few for the "
            "context; ask in fewer words"
        )
    tokenizer.enable_truncation(max_tokens, stride=min(OVERLAP, room // 2), strategy="only_second")
    first = tokenizer.encode(question, context)
    return [first, *first.overflowing]


def within(window: Encoding) -> NDArray[np.bool_]:
    """Whether each piece of a window is of the context. Shape: [pieces]."""
    return np.array([sequence == 1 for sequence in window.sequence_ids])


def best(read: Sequence[Encoding], scores: Sequence[NDArray[np.float32]], context: str) -> Span:
    """The likeliest answer: in order, inside the context and not too long, over all windows.

    Logits of all windows are compared as they are: a softmax of each window would make its best span look likely, also
    in a window that has no answer (Clark and Gardner, 2018, section 3.2).

    Args:
        scores: of each window, [pieces, 2]: the logits for an answer that starts and that ends there.
    """
    sums = [_sums(found, within(window)) for window, found in zip(read, scores, strict=True)]
    place = int(np.argmax([found.max() for found in sums]))
    more, first = (int(at) for at in np.unravel_index(sums[place].argmax(), sums[place].shape))
    total = sum(float(np.exp(found.astype(np.float64) - sums[place].max()).sum()) for found in sums)
    start, end = read[place].offsets[first][0], read[place].offsets[first + more][1]
    return Span(text=context[start:end], start=start, end=end, score=1 / total)


def _sums(scores: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Both logits of each span, by how many pieces follow its first and by its first piece; −∞ where there is none."""
    starts, ends = (np.where(allowed, scores[:, side], -np.inf) for side in (0, 1))
    count = len(scores)
    sums = np.full((min(LONGEST_ANSWER, count), count), -np.inf, dtype=np.float32)
    for more, row in enumerate(sums):
        row[: count - more] = starts[: count - more] + ends[more:]
    return sums
