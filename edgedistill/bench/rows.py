"""What a bundle is asked while it is measured: rows of a file, or those that come with edgedistill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from edgedistill.config import DEMO
from edgedistill.data import smarthome
from edgedistill.data.read import ALL, Rejected, find_files, read_rows
from edgedistill.errors import InputError
from edgedistill.tasks.qa import token_f1

PAIR = ("premise", "hypothesis")
QUESTIONS = 200
"""Of our own, for readers without rows."""
LABEL, ANSWER = "label", "answer"
WRITERS = ("decoder", "text-to-text")
"""Tasks of bundles whose models write token by token."""
ENGINES_THAT_WRITE = ("llama-cpp-python", "onnxruntime-genai")

EMBEDDED = "No rows were given, so the texts that come with edgedistill were asked; --data takes rows of your own."
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a bundle is asked, and what it should say.

    Attributes:
        texts: a text each, a pair of them, a question with its context, or the turns of a conversation.
        labels: the number of each text's label in the bundle's list; None where the rows do not say.
        references: for readers the answer of each row; None where the rows do not say.
        remark: why there are no labels, where that may surprise.
    """

    texts: tuple[Any, ...]
    labels: tuple[int, ...] | None = None
    references: tuple[str, ...] | None = None
    remark: str | None = None

    @property
    def metric(self) -> str | None:
        """What `right` gives: accuracy of labels, token F1 of a reader's answers; None where the rows do not say."""
        return "accuracy" if self.labels is not None else "token_f1" if self.references is not None else None

    def right(self, said: Sequence[Any]) -> list[float] | None:
        """How right each answer is, from 0 to 1.

        Args:
            said: a label's number a row, or where its span begins and ends in the context.
        """
        if self.labels is not None:
            return [int(a == b) for a, b in zip(said, self.labels, strict=True)]
        if self.references is None:
            return None
        spans = zip(self.texts, said, self.references, strict=True)
        return [token_f1(context[start:end], wanted) for (_, context), (start, end), wanted in spans]

    def spread(self, count: int) -> Asked:
        """`count` of the rows, evenly spread over all of them."""
        chosen = spread(range(len(self.texts)), count)
        labels = None if self.labels is None else tuple(self.labels[i] for i in chosen)
        references = None if self.references is None else tuple(self.references[i] for i in chosen)
        texts = tuple(self.texts[i] for i in chosen)
        return Asked(texts=texts, labels=labels, references=references, remark=self.remark)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, evenly spread over all of them; all when there are fewer."""
    step = max(1.0, len(items) / count)
    return [items[int(i * step)] for i in range(min(count, len(items)))]


def workload_of(manifest: Mapping[str, Any]) -> str:
    """The name of the workload that suits a bundle."""
    if writes(manifest):
        return "summarization" if manifest["task"] == "text-to-text" else "conversation"
    if manifest["task"] == "reader":
        return "qa"
    return "nli" if manifest["model"].get("pairs") else "classification"


def writes(manifest: Mapping[str, Any]) -> bool:
    """Whether a bundle's model writes token by token."""
    return manifest["engine"]["name"] in ENGINES_THAT_WRITE or manifest["task"] in WRITERS


def read(manifest: Mapping[str, Any], data: str | None) -> Asked:
    """The rows that a bundle is asked about.

    Args:
        manifest: of the bundle; it says which fields of a row are read.
        data: a folder with test.jsonl or test.csv, or a file; None takes the embedded rows.

    Raises:
        InputError: there are no rows with these fields.
    """
    if data is None or data == DEMO:
        return replace(_embedded(manifest), remark=EMBEDDED)
    sources = find_files(data, needed="test")
    path = sources.get("test") or sources[ALL]
    rejected: list[Rejected] = []
    found = [(asked, row) for _, row in read_rows(path, rejected) if (asked := _asked(row, manifest)) is not None]
    if not found:
        wanted = " or ".join(" and ".join(f'"{field}"' for field in fields) for fields in _fields(manifest))
        raise InputError(f"{path} has no rows with {wanted}", hint="one JSON object a line, with these fields as texts")
    texts = [asked for asked, _ in found]
    if manifest["task"] == "reader":
        answers = tuple(answer for _, row in found if isinstance(answer := row.get(ANSWER), str))
        return Asked(texts=tuple(texts), references=answers if len(answers) == len(texts) else None)
    return _with_labels(texts, [row.get(LABEL) for _, row in found], manifest)


def _embedded(manifest: Mapping[str, Any]) -> Asked:
    fields = _fields(manifest)
    if fields == (PAIR,):
        raise InputError("the texts that come with edgedistill are no pairs", hint="give rows with --data")
    rows = smarthome.questions(QUESTIONS) if manifest["task"] == "reader" else smarthome.generate()["test"]
    asked = [asked for row in rows if (asked := _asked(row, manifest)) is not None]
    return _with_labels(asked, [row.get(LABEL) for row in rows], manifest)


def _fields(manifest: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The fields of a row that are asked; of several sets the first that a row has."""
    if writes(manifest):
        return (("messages",), ("text",), ("question",))
    if manifest["task"] == "reader":
        return (("question", "context"),)
    return (PAIR,) if manifest["model"].get("pairs") else (("text",),)


def _asked(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> Any:
    """What a row asks; None when it lacks the fields for it."""
    for fields in _fields(manifest):
        found = [row.get(field) for field in fields]
        if fields == ("messages",) and isinstance(found[0], list) and found[0]:
            turns = found[0]
            # The last turn is the answer that the row came with.
            return turns[:-1] if turns[-1].get("role") == "assistant" and len(turns) > 1 else turns
        if all(isinstance(value, str) for value in found):
            return found[0] if len(found) == 1 else tuple(found)
    return None


def _with_labels(texts: Sequence[Any], labels: Sequence[Any], manifest: Mapping[str, Any]) -> Asked:
    known = {label: number for number, label in enumerate(manifest["model"].get("labels", ()))}
    if not known or not all(isinstance(label, str) for label in labels):
        return Asked(texts=tuple(texts))
    strange = next((label for label in labels if label not in known), None)
    if strange is not None:
        return Asked(
            texts=tuple(texts), remark=f"accuracy was not taken: the bundle has no label {strange!r}, and the rows have"
        )
    return Asked(texts=tuple(texts), labels=tuple(known[label] for label in labels))
