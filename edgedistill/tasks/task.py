"""What every task has in common: the fields of a row, the prompt, and the way from a teacher's text to an answer.

    row ─► messages(row, style) ─► teacher ─► text ─► parse ─► Answer ─► verify ─► accepted
                                                        └─► Unusable: a reason, never a crash

A task that needs more than a class attribute overrides the method; see the other files of this folder.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgedistill.types import Message

Row = Mapping[str, Any]

RATIONALE = "rationale"
ANSWER = "answer"
THINK = "First think in one or two short sentences, then answer."
AS_JSON = 'Reply with one JSON object and nothing else: {"answer": ...}'
AS_JSON_WITH_RATIONALE = 'Reply with one JSON object and nothing else: {"rationale": "...", "answer": ...}'
BRACES = 1000
"""Places where an object may begin that are tried; a megabyte of braces would take minutes."""
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Unusable(Exception):
    """A teacher's text that holds no answer in the form that was asked for. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a task is put to the teacher.

    Attributes:
        labels: the classes to choose from, for tasks that have classes.
        instruction: replaces the task's own; `{labels}` and fields of the row such as `{text}` are filled in.
        chain_of_thought: ask for a short rationale before the answer, and keep it as a field of its own.
        chain_of_density: summaries are rewritten ever denser and the last one counts (Adams et al., 2023).
        plain: the answer is asked for as it is, without a form around it, as students are asked.
    """

    labels: tuple[str, ...] = ()
    instruction: str = ""
    chain_of_thought: bool = False
    chain_of_density: bool = False
    plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a teacher's text came to: the value of the row's target field, and why the teacher thinks so."""

    value: str
    rationale: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """A metric that is no mean over rows, such as macro F1: counts of each row, and what their sums come to.

    Attributes:
        counts: [counts, rows].
        score: takes sums over rows, [counts] or [counts, draws], and returns one number or one a draw.
    """

    counts: NDArray[np.float64]
    score: Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Task:
    """One kind of task. The class attributes say what differs; the methods say how."""

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    """Fields that every row must have, as text."""
    target: ClassVar[str]
    """The field that a teacher supplies."""
    max_tokens: ClassVar[int]
    """How long an answer may get, unless the user says otherwise."""
    instruction: ClassVar[str]
    headline: ClassVar[str] = "accuracy"
    """The metric that arms are compared by; one of those that `scores` gives."""
    has_labels: ClassVar[bool] = False
    verifies_gold: ClassVar[bool] = False
    """Whether an answer can be checked against the one that a row already has."""

    def problem(self, row: Row) -> str | None:
        """Why a row cannot be used, or None."""
        for field in self.inputs:
            if reason := text_problem(row, field):
                return reason
        return text_problem(row, self.target) if Task.has_answer(self, row) else None

    def has_answer(self, row: Row) -> bool:
        """Whether the row came with the field that a teacher would supply. A CSV file has it, empty, in every row."""
        value = row.get(self.target)
        return bool(value.strip()) if isinstance(value, str) else value is not None

    def gold(self, row: Row) -> str | None:
        """The answer that the row came with."""
        return str(row[self.target]).strip() if self.has_answer(row) else None

    def parts(self, row: Row) -> tuple[str, ...]:
        """What a row asks, in parts. Two rows ask nearly the same only if each part is nearly the same."""
        return tuple(str(row[field]) for field in self.inputs)

    def messages(self, row: Row, style: Style) -> tuple[Message, ...]:
        """The whole prompt for a row."""
        system = self.system(row, style) if "{" in style.instruction else self._same_system(style)
        return ({"role": "system", "content": system}, {"role": "user", "content": self.user(row)})

    @functools.cache  # noqa: B019 - one object a task, and few styles
    def _same_system(self, style: Style) -> str:
        return self.system({}, style)

    def system(self, row: Row, style: Style) -> str:
        """The instruction, the labels and the form of the answer."""
        parts = [fill(style.instruction or self.instruction, row, style)]
        if self.has_labels and "{labels}" not in style.instruction:
            parts.append("The labels are: " + ", ".join(style.labels) + ".")
        if style.chain_of_thought:
            parts.append(THINK)
        if self.schema(style) is not None:
            parts.append(AS_JSON_WITH_RATIONALE if style.chain_of_thought else AS_JSON)
        return "\n".join(parts)

    def user(self, row: Row) -> str:
        """The fields of the row, as the last turn of the prompt."""
        if len(self.inputs) == 1:
            return str(row[self.inputs[0]])
        return "\n".join(f"{field.capitalize()}: {row[field]}" for field in self.inputs)

    def schema(self, style: Style) -> dict[str, Any] | None:
        """The JSON schema of the answer; None for plain text."""
        if style.plain:
            return None
        return object_schema({"enum": list(style.labels)} if self.has_labels else {"type": "string"}, style)

    def parse(self, text: str, row: Row, style: Style) -> Answer:
        """The answer in a teacher's text.

        Raises:
            Unusable: there is none, or not in the form asked for.
        """
        if self.schema(style) is None:
            return Answer(value=not_empty(text))
        found = json_object(text)
        rationale = found.get(RATIONALE)
        return Answer(
            value=self.clean(found.get(ANSWER), style),
            rationale=rationale.strip() if style.chain_of_thought and isinstance(rationale, str) else None,
        )

    def clean(self, value: Any, style: Style) -> str:
        """The answer's value in its normal form. Raises Unusable when it is none."""
        if not isinstance(value, str):
            raise Unusable(f"the answer is {type(value).__name__}, not text")
        return label_of(value, style.labels) if self.has_labels else not_empty(value)

    def verify(self, answer: Answer, row: Row) -> str | None:
        """Why the answer cannot be right, or None when nothing speaks against it."""
        return None

    def score(self, answer: str, reference: str) -> float:
        """How well an answer agrees with a reference, 0 to 1."""
        return float(answer == reference)

    def references(self, row: Row) -> tuple[str, ...]:
        """The answers of a row that count as right or good."""
        gold = self.gold(row)
        return () if gold is None else (gold,)

    def measures(self, answer: str, reference: str) -> dict[str, float]:
        """Every metric of an answer against one reference, 0 to 1."""
        return {"accuracy": self.score(answer, reference)}

    def scores(self, answer: str, references: Sequence[str]) -> dict[str, float]:
        """Every metric of an answer, 0 to 1; a task's figure is the mean over its rows.

        Args:
            references: at least one; each metric takes the best of them (Rajpurkar et al., 2016, section 6.1).
        """
        found = [self.measures(answer, reference) for reference in references]
        return {name: max(measured[name] for measured in found) for name in found[0]}

    def pooled(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Pooled]:
        """The metrics that all rows make together, 0 to 1. Macro F1 for tasks with labels."""
        if not self.has_labels:
            return {}
        truth = [of_row[0] for of_row in references]
        return {"macro_f1": macro_f1_of(answers, truth)}

    def apply(self, row: Row, answer: Answer) -> dict[str, Any]:
        """The row with the teacher's answer in it."""
        return {**row, self.target: answer.value}


def macro_f1_of(answers: Sequence[str], truth: Sequence[str]) -> Pooled:
    """F1 of each label that occurs in the truth, averaged over the labels; an answer that is no label is only wrong."""
    labels = np.array(sorted(set(truth)))[:, None]
    there, said = (labels == np.array(texts) for texts in (truth, answers))

    def score(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        hits, occurs, claimed = np.split(sums, 3)
        f1 = 2 * hits / np.maximum(occurs + claimed, 1e-9)
        mean: NDArray[np.float64] = f1.sum(axis=0) / (occurs > 0).sum(axis=0)  # a resample may lack a label
        return mean

    return Pooled(counts=np.concatenate((there & said, there, said)).astype(np.float64), score=score)


def fill(template: str, row: Row, style: Style) -> str:
    """Fills `{labels}` and fields of the row into a template; braces around anything else stay as they are."""
    values = {key: str(value) for key, value in row.items()}
    if style.labels or "labels" not in values:
        values["labels"] = ", ".join(style.labels)
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)


def object_schema(answer: Mapping[str, Any], style: Style) -> dict[str, Any]:
    """The schema of an object with the answer, and with a rationale before it when one is asked for."""
    properties: dict[str, Any] = {RATIONALE: {"type": "string"}} if style.chain_of_thought else {}
    properties[ANSWER] = dict(answer)
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def json_object(text: str) -> dict[str, Any]:
    """The first JSON object in a text, which may stand in prose or in a fenced block.

    Raises:
        Unusable: there is no complete object.
    """
    decoder = json.JSONDecoder(strict=False)  # grammars let raw line breaks into strings
    for start in (found.start() for found in itertools.islice(re.finditer(r"\{", text), BRACES)):
        try:
            value, _ = decoder.raw_decode(text, start)
            whole(json.dumps(value, ensure_ascii=False))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    raise Unusable("no JSON object in the answer" if text.strip() else "the answer is empty")


def label_of(text: str, labels: Sequence[str]) -> str:
    """The label that a text names; neither case nor surrounding punctuation count.

    Raises:
        Unusable: it names none of them.
    """
    bare = text.strip()
    if bare in labels:
        return bare
    plain = _plain(bare)
    for label in labels:
        if plain == _plain(label):
            return label
    raise Unusable(f"{text[:40]!r} is not one of the {len(labels)} labels")


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").strip(" \t\n\"'`.").casefold().split())


def not_empty(text: str) -> str:
    """The text without surrounding space. Raises Unusable when nothing is left."""
    if not text.strip():
        raise Unusable("the answer is empty")
    return whole(text.strip())


def whole(text: str) -> str:
    """The text. Raises Unusable when half a character is in it, which JSON can write and a file cannot hold."""
    if _SURROGATE.search(text):
        raise Unusable("the answer has a lone surrogate")
    return text


def text_problem(row: Row, field: str) -> str | None:
    """Why a field is not usable text, or None."""
    if field not in row:
        return f"no field {field!r} (found {', '.join(map(repr, sorted(row)[:6])) or 'none'})"
    if not isinstance(row[field], str):
        return f"field {field!r} is {type(row[field]).__name__}, not a string"
    return None if row[field].strip() else f"field {field!r} is empty"
