"""Natural language inference: does the premise entail the hypothesis, contradict it, or neither?"""

from __future__ import annotations

from edgedistill.tasks.task import Task

LABELS = ("entailment", "neutral", "contradiction")


class Nli(Task):
    """A premise and a hypothesis in, one of three labels out. Judged by accuracy and macro F1."""

    name = "nli"
    inputs = ("premise", "hypothesis")
    target = "label"
    max_tokens = 96
    has_labels = True
    instruction = (
        "You judge pairs of sentences. Say entailment when the hypothesis must be true if the premise is, "
        "contradiction when it cannot be true, and neutral when the premise leaves it open."
    )
