"""From files of rows to candidates: read, checked, and freed of near-duplicates before anybody is paid for them.

Test rows are remembered first, then validation, then training rows: a training row that nearly equals a test row is a
leak and leaves training; the test stays whole. Candidates are written to disk, so memory does not grow with the rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedistill.config import Data, Gates, Label
from edgedistill.data.curate import NearDuplicates
from edgedistill.data.read import Rejected, find_files, read_rows
from edgedistill.errors import InputError
from edgedistill.labeling.loop import Candidate
from edgedistill.store import digest, file_sha256, replace
from edgedistill.tasks.task import Task
from edgedistill.types import Progress

ORDER = ("test", "validation", "train", "all")
RELABELLED = ("train", "all")
"""Splits whose rows may be asked about though they have an answer; the others are what results are judged by."""


@dataclass(slots=True)
class Gathered:
    """What the files held.

    Attributes:
        files: split to the file of its candidates.
        counts: candidates of each split.
        labels: every label that a row came with, sorted.
        rejected: rows that cannot be used, with the reason.
        answered: rows that came with an answer.
        other_fields: names of fields that the task does not know.
    """

    files: dict[str, Path] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    labels: tuple[str, ...] = ()
    rejected: list[Rejected] = field(default_factory=list)
    duplicates: int = 0
    leaks: int = 0
    answered: int = 0
    other_fields: set[str] = field(default_factory=set)


def gather(task: Task, data: Data, gates: Gates, folder: Path, progress: Progress) -> Gathered:
    """Reads all rows and writes those that can be answered, one file a split.

    Raises:
        InputError: nothing to read, or more rows than `max_bad_share` are unusable.
    """
    found = Gathered()
    sources = find_files(data.folder)
    labels: set[str] = set()
    bad: list[Rejected] = []
    seen = 0
    with NearDuplicates(gates.near_duplicates or 1.0) as texts:
        for split in (split for split in ORDER if split in sources):
            usable: list[int] = []
            found.files[split] = folder / f"{split}.candidates.jsonl"
            with found.files[split].open("w", encoding="utf-8") as file:
                for line, raw in read_rows(sources[split], bad):
                    seen += 1
                    progress(seen, seen + 1, f"reading {sources[split].name}")
                    row = _renamed(raw, task, data)
                    if (reason := task.problem(row)) is not None:
                        bad.append(Rejected(sources[split].name, line, reason))
                        continue
                    if task.has_labels and (label := task.gold(row)) is not None:
                        labels.add(label)
                    found.other_fields |= row.keys() - {*task.inputs, task.target}
                    found.answered += task.has_answer(row)
                    source = f"{sources[split].name}:{line}"
                    file.write(json.dumps({"source": source, "row": row}, ensure_ascii=False) + "\n")
                    usable.append(line)
            twins = _twins(task, split, found.files[split], texts) if gates.near_duplicates else {}
            for number, twin in twins.items():
                leak = not twin.startswith(f"{split}:")
                found.leaks += leak
                found.duplicates += not leak
                reason = f"{'leak' if leak else 'duplicate'}: nearly the same as {twin}"
                found.rejected.append(Rejected(sources[split].name, usable[number], reason))
            found.counts[split] = len(usable) - len(twins)
            if twins:
                _leave_out(found.files[split], twins.keys())
    _check(bad, found, data)
    if not found.counts.total():
        raise InputError(f"{data.folder} has no rows", hint=f"one JSON object a line, with {', '.join(task.inputs)}")
    found.labels = tuple(sorted(labels))
    return found


def _twins(task: Task, split: str, file: Path, texts: NearDuplicates) -> dict[int, str]:
    """The rows that nearly equal another, by their number, with that row's name. Test rows are only remembered.

    Rows with an answer come first: of two that ask the same, the one that somebody answered stays.
    """
    found: dict[int, str] = {}
    for answered in (True, False):
        for candidate in candidates(file):
            if task.has_answer(candidate.row) is not answered:
                continue
            parts = task.parts(candidate.row)
            twin = None if split == "test" else texts.find(*parts)
            if twin is None:
                texts.add(f"{split}:{candidate.source.rpartition(':')[2]}", *parts)
            else:
                found[candidate.number] = twin
    return dict(sorted(found.items()))


def _leave_out(file: Path, numbers: Collection[int]) -> None:
    """Removes candidates from a file."""
    whole = file.with_suffix(".whole")
    replace(file, whole)
    with whole.open(encoding="utf-8") as lines, file.open("w", encoding="utf-8") as kept:
        kept.writelines(line for number, line in enumerate(lines) if number not in numbers)
    whole.unlink()


def job(label: Label, gathered: Gathered) -> str:
    """What a run is booked under: its rows and everything that decides what they cost, but the money and the goal."""
    settings = label.model_dump(exclude={"budget", "rows", "min_success", "workers", "address"})
    rows = {split: file_sha256(path) for split, path in gathered.files.items()}
    return digest({"label": settings, "rows": rows})


def candidates(file: Path) -> Iterator[Candidate]:
    """The candidates that were written, in their order."""
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            value = json.loads(line)
            yield Candidate(number=number, source=value["source"], row=value["row"])


def _renamed(raw: dict[str, Any], task: Task, data: Data) -> dict[str, Any]:
    """The row under the names that the task knows; `[data] text` and `label` say what they are called in the file."""
    if not task.has_labels:
        return raw
    texts = [field for field in (data.text, data.second) if field]
    names = {**dict(zip(texts, task.inputs, strict=False)), data.label: task.target}
    # A column that is called text or label, but is not the one that was named, would take its place.
    return {names.get(key, key): value for key, value in raw.items() if key in names or key not in names.values()}


def _check(bad: list[Rejected], found: Gathered, data: Data) -> None:
    found.rejected += bad
    total = found.counts.total() + len(found.rejected)
    if len(bad) > data.max_bad_share * total:
        shown = "\n".join(f"  {r.file}:{r.line}: {r.reason}" for r in bad[:5])
        raise InputError(
            f"{len(bad)} of {total} rows of {data.folder} cannot be used (at most {data.max_bad_share:.0%} may be bad):"
            f"\n{shown}",
            hint="fix them, or raise max_bad_share under [data]",
        )
