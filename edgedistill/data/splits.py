"""Rows in their splits: no text twice in training, and none of a later split in an earlier one."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedistill.config import Data
from edgedistill.data.normal import normal
from edgedistill.data.read import ALL, Rejected
from edgedistill.errors import InputError
from edgedistill.store import Output, canonical
from edgedistill.types import SPLITS, Rows

MIN_TEST_ROWS = 10
REJECTED = "rejected.jsonl"
FACTS = "facts.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One usable row: `key` is the hash of its text, the same on every machine.

    Of a pair, such as a premise and a hypothesis, `second` is the other text. `group` is the row's value of the column
    that says which of several teachers has it.
    """

    text: str
    label: str
    second: str = ""
    group: str = field(default="", kw_only=True)

    @property
    def key(self) -> str:
        """The hash of the text, or of both."""
        said = f"{self.text}\n{self.second}" if self.second else self.text
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def texts(self) -> tuple[str, ...]:
        """The text, or the two of a pair."""
        return (self.text, self.second) if self.second else (self.text,)

    @property
    def content(self) -> str | tuple[str, str]:
        """What a model reads: the text, or the pair."""
        return (self.text, self.second) if self.second else self.text

    @property
    def normal(self) -> str:
        """What makes two rows the same to their reader."""
        return f"{normal(self.text)}\n{normal(self.second)}" if self.second else normal(self.text)


@dataclass(frozen=True, slots=True)
class Found(Row):
    """A row and where it stood, to name the place when it is rejected later on."""

    file: str = ""
    line: int = 0

    def rejected(self, reason: str) -> Rejected:
        """The row's place with the reason why it is not used."""
        return Rejected(self.file, self.line, reason)


Splits = dict[str, list[Found]]
"""Rows by split; ALL stands for those of a single file until they are split."""


def settle(
    splits: Splits, data: Data, given: Mapping[str, Path], seed: int, rejected: list[Rejected]
) -> dict[str, int]:
    """Brings rows into clean splits, in place.

    Args:
        data: its shares of validation and test are used where the files do not say.
        given: the files that there are, by split; none for the embedded rows, which have all splits.

    Returns:
        How many rows were "duplicates" in training, and "leaks" of a later split in an earlier one.
    """
    shares = {"validation": data.validation_share, "test": data.test_share}
    duplicates = _drop_duplicates(splits, rejected)
    if ALL in splits:
        _split(splits, shares, source=ALL, seed=seed)
    elif given:
        _split(splits, {name: share for name, share in shares.items() if name not in given}, source="train", seed=seed)
    return {"duplicates": duplicates, "leaks": _drop_leaks(splits)}


def group_of(row: Mapping[str, Any], column: str | None) -> str:
    """A row's value of the column that says which teacher has it; empty where it says nothing."""
    value = row.get(column) if column else None
    return str(value).strip() if isinstance(value, str | int) else ""


def drop_without_group(splits: Splits, column: str, rejected: list[Rejected]) -> None:
    """Sets training rows aside that no column gives to a teacher. Rows of other splits are taught by nobody."""
    reason = f"field {column!r} does not say which teacher has it"
    rejected += (row.rejected(reason) for row in splits["train"] if not row.group)
    splits["train"] = [row for row in splits["train"] if row.group]


def check_share(rejected: Sequence[Rejected], total: int, data: Data) -> None:
    """Refuses more unusable rows than the user allows. Raises InputError that shows the first of them."""
    if len(rejected) > data.max_bad_share * total:
        shown = "\n".join(f"  {r.file}:{r.line}: {r.reason}" for r in rejected[:5])
        raise InputError(
            f"{len(rejected)} of {total} rows of {data.folder} cannot be used "
            f"(at most {data.max_bad_share:.0%} may be bad):\n{shown}",
            hint="fix them, or raise max_bad_share under [data]",
        )


def check_sizes(splits: Splits, data: Data) -> None:
    """Refuses splits without rows, and a test that is too small to say anything. Raises InputError."""
    for name in SPLITS:
        if not splits[name]:
            raise InputError(f"{data.folder} has no rows left for {name}", hint="add rows, or change the shares")
    if len(splits["test"]) < MIN_TEST_ROWS:
        raise InputError(
            f"{data.folder} has {len(splits['test'])} test rows; fewer than {MIN_TEST_ROWS} say nothing about a model",
            hint="add rows to the test, or raise test_share under [data]; a few hundred give useful intervals",
        )


def write(
    folder: Path,
    splits: Splits,
    rejected: Sequence[Rejected],
    plain: Callable[[Any], Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """One JSONL file a split, the unusable rows with their reasons, and the facts that the report tells.

    Args:
        plain: a row as the object that is written.
    """
    for name in SPLITS:
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in splits[name])
    with (folder / REJECTED).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"file": r.file, "line": r.line, "reason": r.reason}) + "\n" for r in rejected)
    counts = {name: len(splits[name]) for name in SPLITS}
    (folder / FACTS).write_bytes(canonical({**facts, "counts": counts, "rejected": len(rejected)}))


def load(output: Output, *, labels: tuple[str, ...]) -> Rows:
    """The rows that lie in an output of the store."""
    facts = json.loads((output.path / FACTS).read_text())
    # As the user would open it from here; an absolute path would end up in reports that are handed on.
    facts["rejected_file"] = os.path.relpath(output.path / REJECTED)
    return Rows(path=output.path, sha256=output.sha256, counts=facts["counts"], labels=labels, facts=facts)


def _drop_duplicates(splits: Splits, rejected: list[Rejected]) -> int:
    """Keeps each training text once. Test and validation rows that the user chose stay as they are.

    Returns:
        The rows that said again what an earlier one said; those with another label are rejected instead.
    """
    dropped = 0
    for name in splits.keys() & {"train", ALL}:
        first: dict[str, Found] = {}
        for row in splits[name]:
            kept = first.setdefault(row.normal, row)
            if kept.label != row.label:
                place = f"{kept.file}:{kept.line}"
                rejected.append(
                    row.rejected(f"same text as {place}, which has label {kept.label!r} and not {row.label!r}")
                )
            elif kept is not row:
                dropped += 1
        splits[name] = list(first.values())
    return dropped


def _split(splits: Splits, shares: Mapping[str, float], *, source: str, seed: int) -> None:
    """Moves a share of each label's rows into the splits that have none, in an order that only the seed decides."""
    rows = splits.pop(source)
    order = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row.text}{row.second}".encode()).digest())
    sizes, taken = Counter(row.label for row in rows), Counter[tuple[str, str]]()
    moved = Counter[str]()
    kept: list[Found] = []
    for row in order:
        for name, share in shares.items():
            # At least one row of a label stays for training, whatever the shares.
            left = moved[row.label] < sizes[row.label] - 1
            if left and taken[name, row.label] < round(share * sizes[row.label]):
                taken[name, row.label] += 1
                moved[row.label] += 1
                splits[name].append(row)
                break
        else:
            kept.append(row)
    splits["train"] = kept


def _drop_leaks(splits: Splits) -> int:
    """A text of a later split must not stand in an earlier one: the test stays whole, training gives way.

    Returns:
        The rows that left training or validation.
    """
    seen: set[str] = set()
    leaks = 0
    for name in reversed(SPLITS):
        clean = [row for row in splits[name] if row.normal not in seen]
        leaks += len(splits[name]) - len(clean)
        splits[name] = clean
        seen |= {row.normal for row in clean}
    return leaks
