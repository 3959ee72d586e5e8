"""The next turn of a conversation. The last assistant turn, where there is one, is the answer; the rest is context."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgedistill.tasks.task import Answer, Pooled, Row, Style, Task, fill
from edgedistill.tasks.text import bleu, bleu_counts, chrf, rouge
from edgedistill.types import Message

ROLES = ("system", "user", "assistant")


class Conversation(Task):
    """Messages in, the assistant's next message out. Judged by BLEU, chrF and ROUGE-L against the teacher."""

    name = "conversation"
    inputs = ("messages",)
    target = "messages"
    max_tokens = 256
    headline = "chrf"
    instruction = "You are a helpful assistant. Answer the user's last message in one to three sentences."

    def problem(self, row: Row) -> str | None:
        """Messages are a list of roles and contents that ends with the user or the assistant."""
        messages = row.get("messages")
        if not isinstance(messages, list) or not messages:
            return "field 'messages' is not a list of messages"
        for number, message in enumerate(messages):
            if not isinstance(message, dict) or message.get("role") not in ROLES:
                return f"message {number} has no role out of {', '.join(ROLES)}"
            if not isinstance(message.get("content"), str) or not message["content"].strip():
                return f"message {number} has no content"
        if not any(message["role"] == "user" for message in messages):
            return "no message of a user"
        return None if messages[-1]["role"] != "system" else "the last message is the system's"

    def has_answer(self, row: Row) -> bool:
        """Whether the last turn is the assistant's."""
        return bool(row["messages"][-1]["role"] == "assistant")

    def gold(self, row: Row) -> str | None:
        """The assistant's last turn."""
        return str(row["messages"][-1]["content"]) if self.has_answer(row) else None

    def messages(self, row: Row, style: Style) -> tuple[Message, ...]:
        """The turns before the answer, after the row's own system message or, without one, the instruction."""
        turns = [{"role": m["role"], "content": m["content"]} for m in self.context(row)]
        if turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": fill(style.instruction or self.instruction, row, style)})
        return tuple(turns)

    def context(self, row: Row) -> list[Message]:
        """The turns that the answer follows."""
        return list(row["messages"][:-1] if self.has_answer(row) else row["messages"])

    def parts(self, row: Row) -> tuple[str, ...]:
        """The system's words, the turns before the last one, and that.

        The first as a hash: a long prompt that all rows share must not make them look alike.
        """
        turns = self.context(row)
        system = "\n".join(turn["content"] for turn in turns if turn["role"] == "system")
        *earlier, last = [turn["content"] for turn in turns if turn["role"] != "system"]
        return hashlib.sha256(system.encode()).hexdigest(), "\n".join(earlier), last

    def user(self, row: Row) -> str:
        """The last turn before the answer."""
        return self.context(row)[-1]["content"]

    def schema(self, style: Style) -> dict[str, Any] | None:
        """Plain text."""
        return None

    def score(self, answer: str, reference: str) -> float:
        """chrF, 0 to 1 (Popović, 2015)."""
        return chrf(answer, reference)

    def measures(self, answer: str, reference: str) -> dict[str, float]:
        """Scores by chrF and ROUGE-L."""
        return {"chrf": chrf(answer, reference), "rougeL": rouge(answer, reference)["rougeL"]}

    def pooled(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Pooled]:
        """BLEU, which is made of counts over all rows."""
        counts = [bleu_counts(answer, of_row) for answer, of_row in zip(answers, references, strict=True)]
        return {"bleu": Pooled(counts=np.array(counts, dtype=np.float64).T, score=bleu)}

    def apply(self, row: Row, answer: Answer) -> dict[str, Any]:
        """The context with the teacher's turn after it."""
        return {**row, "messages": [*self.context(row), {"role": "assistant", "content": answer.value}]}
