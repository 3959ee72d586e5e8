"""Extractive question answering: the answer is a piece of the context."""

from __future__ import annotations

import re
import string
from collections import Counter

from edgedistill.tasks.task import Answer, Row, Task

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class QuestionAnswering(Task):
    """A context and a question in, a span of the context out. Judged by exact match and token F1."""

    name = "qa"
    inputs = ("context", "question")
    target = "answer"
    max_tokens = 96
    headline = "token_f1"
    instruction = (
        "Answer the question from the context alone. Copy the shortest piece of the context that answers it, word for "
        "word, and add nothing."
    )

    def verify(self, answer: Answer, row: Row) -> str | None:
        """An answer that does not stand in the context was made up."""
        span = " ".join(answer.value.casefold().split())
        return None if span in " ".join(str(row["context"]).casefold().split()) else "the answer is not in the context"

    def score(self, answer: str, reference: str) -> float:
        """Token F1."""
        return token_f1(answer, reference)

    def measures(self, answer: str, reference: str) -> dict[str, float]:
        """Exact match and token F1."""
        return {"exact_match": exact_match(answer, reference), "token_f1": token_f1(answer, reference)}


def normalized(text: str) -> list[str]:
    """The words of an answer as SQuAD's evaluation compares them: no case, articles or punctuation."""
    return _ARTICLES.sub(" ", text.casefold().translate(_PUNCTUATION)).split()


def exact_match(answer: str, reference: str) -> float:
    """1.0 when both are the same words in the same order (Rajpurkar et al., 2016)."""
    return float(normalized(answer) == normalized(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over words (Rajpurkar et al., 2016). Two empty answers agree."""
    ours, theirs = Counter(normalized(answer)), Counter(normalized(reference))
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total())
