"""Several teachers for one set of rows: each row goes to one of them by weight, to all with a vote, or by a column."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgedistill.store import digest
from edgedistill.tasks.task import Answer, Task, Unusable
from edgedistill.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One teacher of a panel. `serves` are the values of the route column that it answers."""

    name: str
    weight: float = 1.0
    serves: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one member answered. `probabilities` are of each label, where the member knows them."""

    by: Member
    answer: Answer
    probabilities: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Who answers a row, and what several answers come to.

    Attributes:
        combine: "weights": for tasks with labels all answer, and their probabilities or votes are added by weight; for
            text each row goes to one member, drawn by weight. "vote": all answer, the answer that most agree on wins.
            "route": the member that serves the value of a column answers.
        route: the column.
    """

    members: tuple[Member, ...]
    combine: Literal["weights", "vote", "route"]
    route: str | None = None

    def members_for(self, row: Mapping[str, Any], prompt: Sequence[Message], task: Task) -> tuple[Member, ...]:
        """Who is asked about a row. Raises Unusable when nobody serves it.

        Args:
            prompt: its hash decides the draw, so the same prompt always goes to the same member.
        """
        if self.combine == "route":
            value = str(row.get(self.route or ""))
            serving = tuple(member for member in self.members if value in member.serves)
            if not serving:
                raise Unusable(f"no teacher serves {self.route} = {value!r}")
            return serving[:1]
        if len(self.members) == 1 or self.combine == "vote" or task.has_labels:
            return self.members
        return (self._drawn(digest([dict(message) for message in prompt])),)

    def _drawn(self, key: str) -> Member:
        total = sum(member.weight for member in self.members)
        point = int.from_bytes(hashlib.sha256(f"panel:{key}".encode()).digest()[:8]) / 2**64 * total
        for member in self.members:
            point -= member.weight
            if point < 0:
                return member
        return self.members[-1]

    def combined(self, said: Sequence[Said], task: Task) -> Said:
        """One answer out of several. Raises Unusable when the members do not agree."""
        if len(said) == 1:
            return said[0]
        if task.has_labels:
            return self._by_label(said)
        return _most_agreed(said, task.score)

    def _by_label(self, said: Sequence[Said]) -> Said:
        weighted = self.combine == "weights"
        totals: dict[str, float] = {}
        weights = sum(s.by.weight if weighted else 1.0 for s in said)
        for one in said:
            # A member that knows no probabilities is sure of what it said.
            beliefs = (one.probabilities if weighted else None) or {one.answer.value: 1.0}
            for label, belief in beliefs.items():
                totals[label] = totals.get(label, 0.0) + (one.by.weight if weighted else 1.0) * belief / weights
        best = max(totals.values())
        winners = [label for label, total in totals.items() if abs(total - best) < 1e-9]
        if len(winners) > 1:
            raise Unusable(f"the panel is divided: {', '.join(sorted(winners))}")
        first = next((s for s in said if s.answer.value == winners[0]), said[0])
        answer = Answer(
            value=winners[0], rationale=first.answer.rationale if first.answer.value == winners[0] else None
        )
        return Said(by=first.by, answer=answer, probabilities=totals)


def _most_agreed(said: Sequence[Said], score: Callable[[str, str], float]) -> Said:
    """The answer that is closest to all others; of equals the first. Two that share nothing are no agreement."""
    agreement = [
        sum(score(one.answer.value, other.answer.value) for other in said if other is not one) / (len(said) - 1)
        for one in said
    ]
    best = max(range(len(said)), key=lambda i: agreement[i])
    if agreement[best] == 0:
        raise Unusable(f"the panel is divided: {len(said)} answers have nothing in common")
    return said[best]
