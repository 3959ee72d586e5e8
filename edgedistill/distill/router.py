"""Which way a generative student learns from its teacher, and why. Whoever distils shows the reasons.

sequence   the rows' answers, which teachers wrote, alone          any teacher that writes
tokens     its log-probabilities of every answer token, cached     weights at hand, one tokenizer
onpolicy   its judgement of what the student itself writes         the same, and both in memory at once
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgedistill.errors import PlanRefused
from edgedistill.types import Signal

if TYPE_CHECKING:
    from tokenizers import Tokenizer

RouteName = Literal["sequence", "tokens", "onpolicy"]

LABELLED = ("classification", "nli")
"""Tasks whose answers are one label: the student's own writing shows nothing that its distribution does not."""
GIGABYTE = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A way to learn, and the reasons, one sentence each."""

    name: RouteName
    why: tuple[str, ...]


def route(
    gives: Collection[Signal],
    *,
    task: str,
    tokenizers_differ: str | None,
    teacher_bytes: int,
    student_bytes: int,
    memory_bytes: int,
    fixed: RouteName | None = None,
    reads_along: bool = False,
) -> Route:
    """Chooses the richest route that is possible, or checks the one that was asked for.

    On-policy learning is never chosen unasked: the student writes an answer at every step, which costs as many forward
    passes as the answer has tokens where the other routes need one.

    Args:
        gives: what the teacher can say. "logits" means that its weights are at hand; "top-k log-probabilities" are an
            endpoint's, by the text of each token.
        task: the task's name.
        tokenizers_differ: from `same_tokenizer`. A vocabulary trimmed from the teacher's counts as the same.
        teacher_bytes: memory that the teacher takes when it answers.
        student_bytes: memory that the student takes in training: weights, gradients, optimizer and activations.
        memory_bytes: what there is.
        fixed: the route that the user asked for; None leaves the choice.
        reads_along: whether the teacher stays in memory on the route `tokens` too, for its inside to be matched.

    Raises:
        PlanRefused: the route that was asked for is not possible, or none is.
    """
    reasons = {name: _obstacle(name, gives, tokenizers_differ) for name in ("sequence", "tokens", "onpolicy")}
    for name, needed in (
        ("sequence", student_bytes),
        ("tokens", teacher_bytes + student_bytes if reads_along else max(teacher_bytes, student_bytes)),
        ("onpolicy", teacher_bytes + student_bytes),
    ):
        if reasons[name] is None and needed > memory_bytes:
            who = {"sequence": "the student needs"}
            if not reads_along:
                who["tokens"] = "the larger of teacher and student needs"
            reasons[name] = (
                f"{who.get(name, 'teacher and student together need')} {needed / GIGABYTE:.1f} GB of memory, "
                f"and there are {memory_bytes / GIGABYTE:.1f} GB"
            )
    if fixed is not None:
        if (reason := reasons[fixed]) is not None:
            raise PlanRefused(f"the route {fixed!r} is not possible: {reason}", hint=_hint(fixed, reasons))
        return Route(name=fixed, why=(f"{fixed} was asked for, and nothing speaks against it",))
    if reasons["tokens"] is None:
        return Route(
            name="tokens",
            why=(
                "tokens: the teacher's log-probabilities are asked once and say more than its texts do",
                "teacher and student share a tokenizer, so each of them belongs to one of the student's tokens",
                _on_policy(task, reasons["onpolicy"]),
            ),
        )
    if reasons["sequence"] is None:
        return Route(
            name="sequence", why=("sequence: the rows' answers are learned", f"not tokens: {reasons['tokens']}")
        )
    raise PlanRefused(f"no route is possible: {reasons['sequence']}", hint=_hint("sequence", reasons))


def same_tokenizer(first: Tokenizer, second: Tokenizer) -> str | None:
    """Why two tokenizers may write the same text in other ids, or None when they never do.

    What stands around a text does not count: the template writes that, and it is compared on its own.
    """
    one, other = (json.loads(tokenizer.to_str()) for tokenizer in (first, second))
    kinds = [spec["model"]["type"] for spec in (one, other)]
    if kinds[0] != kinds[1]:
        return f"one is {kinds[0]}, the other {kinds[1]}"
    vocabularies = [tokenizer.get_vocab(with_added_tokens=False) for tokenizer in (first, second)]
    if vocabularies[0] != vocabularies[1]:
        sizes = [len(vocabulary) for vocabulary in vocabularies]
        shared = len(vocabularies[0].items() & vocabularies[1].items())
        return f"their vocabularies differ: {sizes[0]} and {sizes[1]} pieces, of which {shared} have the same id"
    if one["model"].get("merges") != other["model"].get("merges"):
        return "their merges differ"
    if _added(one) != _added(other):
        names = sorted({name for name, *_ in _added(one) ^ _added(other)})
        return f"their added tokens differ, such as {names[0]!r}"
    for part in ("normalizer", "pre_tokenizer"):
        if one[part] != other[part]:
            return f"their {part.replace('_', '-')}s differ"
    if {**one["model"], "dropout": None} != {**other["model"], "dropout": None}:
        return f"the settings of their {kinds[0]} models differ"
    return None


def _added(spec: dict[str, Any]) -> set[tuple[Any, ...]]:
    flags = ("content", "id", "special", "lstrip", "rstrip", "single_word", "normalized")
    return {tuple(token[flag] for flag in flags) for token in spec["added_tokens"]}


def _obstacle(name: str, gives: Collection[Signal], tokenizers_differ: str | None) -> str | None:
    """Why the teacher, or its tokenizer, rules a route out."""
    if name == "sequence":
        return None if "text" in gives else "the teacher writes no text"
    if "logits" not in gives:
        if "top-k log-probabilities" in gives:
            return "the teacher names its likeliest tokens by their text, which is no token of the student's for sure"
        return f"the teacher gives {' and '.join(gives) or 'nothing'}, and no log-probability of a token"
    if tokenizers_differ is not None:
        return f"teacher and student have different tokenizers: {tokenizers_differ}"
    return None


def _hint(name: RouteName, reasons: dict[str, str | None]) -> str:
    """What is possible in place of a route that is not."""
    instead = next((other for other in ("tokens", "sequence") if other != name and reasons[other] is None), None)
    if "different tokenizers" in (reasons[name] or ""):
        return "use the route sequence, or a student with the teacher's tokenizer"
    return f"use the route {instead}" if instead else "use a smaller student, or another teacher"


def _on_policy(task: str, reason: str | None) -> str:
    if reason is not None:
        return f"not onpolicy: {reason}"
    if task in LABELLED:
        return f"not onpolicy: answers of {task} are labels, and there is nothing in them for a student to go astray in"
    return "onpolicy is possible too, at many times the time a step; ask for it when long answers go astray"
