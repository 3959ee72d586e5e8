"""Which of a teacher's signals a task uses, and the probabilities of labels in an answer's log-probabilities."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from edgedistill.tasks.task import ANSWER, Task
from edgedistill.teachers.answerer import Answerer
from edgedistill.types import Reply, Signal

_VALUE = re.compile(rf'"{ANSWER}"\s*:\s*"$')
SURE = 0.99
"""How much of the probability the tokens seen must cover before they are taken for all of it."""


def chosen(task: Task, teacher: Answerer) -> tuple[Signal, str]:
    """The richest signal of a teacher that the task can use and the journal can hold, and why not a richer one."""
    if task.has_labels:
        if "class probabilities" in teacher.gives:
            return "class probabilities", "each label's probability is kept with the row"
        if "top-k log-probabilities" in teacher.gives:
            return "top-k log-probabilities", "they give each label's probability where the labels start differently"
        return "labels", "it gives no probabilities" + _logprobs_hint(teacher)
    if "top-k log-probabilities" in teacher.gives:
        return "top-k log-probabilities", "kept in the journal with each answer"
    return "text", "it gives no log-probabilities" + _logprobs_hint(teacher)


def _logprobs_hint(teacher: Answerer) -> str:
    kind = teacher.identity.get("kind")
    return (
        "; set logprobs = 5 if the endpoint returns them"
        if kind == "openai"
        else ("; set logprobs = 5 to have them" if kind in ("gguf", "transformers") else "")
    )


def label_probabilities(reply: Reply, labels: Sequence[str]) -> dict[str, float] | None:
    """The probability of each label at the token where the answer's value begins.

    Labels share that token's probability only if they start differently: where a likely token is the start of several
    labels, or of none, nobody can say, and the result is None rather than a guess.
    """
    if reply.probabilities is not None:
        return dict(reply.probabilities)
    place = _first_token(reply)
    if place is None or place >= len(reply.top_logprobs):
        return None
    found = dict.fromkeys(labels, 0.0)
    unclear = 0.0
    for token, logprob in reply.top_logprobs[place].items():
        start = token.strip().strip('"')
        fitting = [label for label in labels if start and _fits(start, label)]
        share = 0.0 if math.isnan(logprob) else math.exp(min(0.0, logprob))
        if len(fitting) == 1:
            found[fitting[0]] += share
        elif len(fitting) > 1:
            unclear += share
    known = sum(found.values())
    if known == 0 or unclear > (1 - SURE) * (known + unclear):
        return None
    return {label: share / known for label, share in found.items()}


def _fits(start: str, label: str) -> bool:
    """Whether a token begins a label, or is all of it and what ends a word: `no"}` is "no", but `not` is not."""
    return label.startswith(start) or (start.startswith(label) and not start[len(label)].isalnum())


def _first_token(reply: Reply) -> int | None:
    """Where the value of the answer begins: after `"answer": "`, or at the start of plain text."""
    if "{" not in reply.text:
        return 0 if reply.tokens else None
    before = ""
    for place, token in enumerate(reply.tokens):
        if _VALUE.search(before):
            return place
        before += token
    return None
