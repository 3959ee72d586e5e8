"""Rows as users have them, to three clean splits: read, validated, de-duplicated, checked for leaks.

folder/train.jsonl [validation.jsonl] [test.jsonl]   (or .csv)      one file.jsonl, split here      "demo"
                  │
             one row a line ── unusable ──► rejected.jsonl, each with file, line and reason
                  │
             the same text twice: kept once; with two labels: the first counts, the others are rejected
                  │
             a text also in a later split: leaves the earlier one (a leak), never the test
                  │
             train.jsonl  validation.jsonl  test.jsonl  labels.json
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgedistill.config import DEMO, Data
from edgedistill.data import smarthome
from edgedistill.data.read import ALL, Rejected, find_files, read_rows
from edgedistill.errors import InputError
from edgedistill.store import Output, Store, canonical, digest, file_sha256
from edgedistill.types import SPLITS, Rows

MIN_TEST_ROWS = 10
REJECTED = "rejected.jsonl"
_MARKS = re.compile(
    r"FULL STOP|COMMA|COLON|EXCLAMATION|QUESTION|INTERROBANG|ELLIPSIS|DOT LEADER|DANDA|\bKHAN\b|\bSHAD\b"
    r"|MYANMAR SIGN (?:LITTLE )?SECTION|QUOTATION MARK|APOSTROPHE"
)
"""Names of the characters that end a sentence or a part of it, or quote one, in any script."""
_FACE = re.compile(r"[:;]['-]?[()\[\]]|(?<!\w)[()\[\]]['-]?[:;]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
"""Half a character: JSON can write it, UTF-8 cannot."""


@dataclass(frozen=True, slots=True)
class Row:
    """One usable row: `key` is the hash of its text, the same on every machine."""

    text: str
    label: str

    @property
    def key(self) -> str:
        """The hash of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Found(Row):
    """A row and where it stood, to name the place when it is rejected later on."""

    file: str
    line: int

    def rejected(self, reason: str) -> Rejected:
        return Rejected(self.file, self.line, reason)


def prepare(data: Data, *, seed: int, store: Store) -> tuple[Rows, Output]:
    """Reads, validates and splits the rows of a request.

    Raises:
        InputError: nothing to read, too many unusable rows, fewer than two labels, a split without rows, or a test too
            small to say anything.
    """
    files = _files(data)
    inputs = {
        "files": {split: file_sha256(path) for split, path in files.items()}
        if files
        else {"demo": digest(smarthome.grammar())},
        "data": data.model_dump(exclude={"folder"}),
        "seed": seed,
    }
    output = store.get("rows", inputs, lambda folder, _: _prepare(data, files, seed, folder))
    facts = json.loads((output.path / "facts.json").read_text())
    labels = tuple(json.loads((output.path / "labels.json").read_text()))
    # As the user would open it from here; an absolute path would end up in reports that are handed on.
    facts["rejected_file"] = os.path.relpath(output.path / REJECTED)
    rows = Rows(path=output.path, sha256=output.sha256, counts=facts["counts"], labels=labels, facts=facts)
    return rows, output


def read(rows: Rows, split: str) -> list[Row]:
    """The rows of one split, in their order on disk."""
    with (rows.path / f"{split}.jsonl").open(encoding="utf-8") as file:
        return [Row(**json.loads(line)) for line in file]


def _files(data: Data) -> dict[str, Path]:
    """Split name to file; "all" when there is a single file to split; nothing for the embedded rows."""
    return {} if data.folder == DEMO else find_files(data.folder)


def _prepare(data: Data, files: dict[str, Path], seed: int, folder: Path) -> None:
    rejected: list[Rejected] = []
    splits: dict[str, list[_Found]] = {split: [] for split in SPLITS}
    if files:
        for split, path in files.items():
            splits.setdefault(split, []).extend(_read(path, data, rejected))
    else:
        for split, raw in smarthome.generate(seed=0).items():
            splits[split] = [_Found(**row, file=f"{DEMO} {split}", line=line) for line, row in enumerate(raw, 1)]
    total = sum(map(len, splits.values())) + len(rejected)
    if total == 0:
        raise InputError(f"{data.folder} has no rows", hint="one JSON object a line, with a text and a label")
    duplicates = _drop_duplicates(splits, rejected)
    if ALL in splits:
        _split(splits, {"validation": data.validation_share, "test": data.test_share}, source=ALL, seed=seed)
    elif files:
        missing = {
            s: share
            for s, share in (("validation", data.validation_share), ("test", data.test_share))
            if s not in files
        }
        _split(splits, missing, source="train", seed=seed)
    leaks = _drop_leaks(splits)
    labels = sorted({row.label for row in splits["train"]})
    _drop_unknown_labels(splits, labels, rejected)
    _check(data, splits, labels, rejected, total)
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(
                json.dumps({"text": r.text, "label": r.label}, ensure_ascii=False) + "\n" for r in splits[split]
            )
    with (folder / REJECTED).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"file": r.file, "line": r.line, "reason": r.reason}) + "\n" for r in rejected)
    facts: dict[str, Any] = {
        "source": "smart-home rows of this package" if not files else Path(data.folder).name,
        "counts": {split: len(splits[split]) for split in SPLITS},
        "labels": len(labels),
        "rejected": len(rejected),
        "duplicates": duplicates,
        "leaks": leaks,
    }
    (folder / "labels.json").write_bytes(canonical(labels))
    (folder / "facts.json").write_bytes(canonical(facts))


def _read(path: Path, data: Data, rejected: list[Rejected]) -> Iterator[_Found]:
    for line, value in read_rows(path, rejected):
        text, label = value.get(data.text), value.get(data.label)
        reason = _reason(data, value, text, label)
        if reason:
            rejected.append(Rejected(path.name, line, reason))
        else:
            yield _Found(" ".join(str(text).split()), str(label).strip(), path.name, line)


def _reason(data: Data, value: dict[str, Any], text: Any, label: Any) -> str | None:
    for field, found in ((data.text, text), (data.label, label)):
        if field not in value:
            return f"no field {field!r} (found {', '.join(map(repr, sorted(value)[:6])) or 'none'})"
        if not isinstance(found, str):
            return f"field {field!r} is {type(found).__name__}, not a string"
        if not found.strip():
            return f"field {field!r} is empty"
        if _SURROGATE.search(found):
            return f"field {field!r} has a lone surrogate"
    return None


def normal(text: str) -> str:
    """What makes two texts the same: neither case, nor spaces, nor the punctuation around words counts.

    Symbols, emoji and combining marks stay, and so does punctuation that is part of a word ("c#", ".5", "e-mail"): with
    them gone, texts of other scripts and meanings would fall together. A text of nothing else stands for itself.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    words = folded.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split()
    return " ".join(bare for word in words if (bare := _bare(word))) or " ".join(words)


def _bare(word: str) -> str:
    """A word without the punctuation around it; faces like ":)" are left whole."""
    if _FACE.search(word):
        return word
    start, end = 0, len(word)
    while end and _is_mark(word[end - 1]):
        end -= 1
    while start < end and _is_mark(word[start]):
        start += 1
    before = word[:start]
    # One stop in front of a word belongs to it: ".5" is not 5, and ".net" no net.
    if before.endswith(".") and not before.endswith(".."):
        start -= 1
    return word[start:end]


@cache
def _is_mark(character: str) -> bool:
    """Whether a character is a bracket, a quote, or a mark that ends a sentence or a part of one."""
    category = unicodedata.category(character)
    if category == "Po":
        return _MARKS.search(unicodedata.name(character, "")) is not None
    return category in ("Ps", "Pe", "Pi", "Pf")


def _drop_duplicates(splits: dict[str, list[_Found]], rejected: list[Rejected]) -> int:
    """Keeps each training text once. Test and validation rows that the user chose stay as they are.

    Returns:
        The rows that said again what an earlier one said; those with another label are rejected instead.
    """
    dropped = 0
    for split in splits.keys() & {"train", ALL}:
        first: dict[str, _Found] = {}
        for row in splits[split]:
            kept = first.setdefault(normal(row.text), row)
            if kept.label != row.label:
                place = f"{kept.file}:{kept.line}"
                rejected.append(
                    row.rejected(f"same text as {place}, which has label {kept.label!r} and not {row.label!r}")
                )
            elif kept is not row:
                dropped += 1
        splits[split] = list(first.values())
    return dropped


def _split(splits: dict[str, list[_Found]], shares: Mapping[str, float], *, source: str, seed: int) -> None:
    """Moves a share of each label's rows into the splits that have none, in an order that only the seed decides."""
    rows = splits.pop(source)
    order = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row.text}".encode()).digest())
    sizes, taken = Counter(row.label for row in rows), Counter[tuple[str, str]]()
    moved = Counter[str]()
    kept: list[_Found] = []
    for row in order:
        for split, share in shares.items():
            # At least one row of a label stays for training, whatever the shares.
            left = moved[row.label] < sizes[row.label] - 1
            if left and taken[split, row.label] < round(share * sizes[row.label]):
                taken[split, row.label] += 1
                moved[row.label] += 1
                splits[split].append(row)
                break
        else:
            kept.append(row)
    splits["train"] = kept


def _drop_leaks(splits: dict[str, list[_Found]]) -> int:
    """A text of a later split must not stand in an earlier one: the test stays whole, training gives way.

    Returns:
        The rows that left training or validation.
    """
    seen: set[str] = set()
    leaks = 0
    for split in reversed(SPLITS):
        clean = [row for row in splits[split] if normal(row.text) not in seen]
        leaks += len(splits[split]) - len(clean)
        splits[split] = clean
        seen |= {normal(row.text) for row in clean}
    return leaks


def _drop_unknown_labels(splits: dict[str, list[_Found]], labels: list[str], rejected: list[Rejected]) -> None:
    known = set(labels)
    for split in ("validation", "test"):
        rejected += (
            row.rejected(f"label {row.label!r} has no row in train") for row in splits[split] if row.label not in known
        )
        splits[split] = [row for row in splits[split] if row.label in known]


def _check(
    data: Data, splits: dict[str, list[_Found]], labels: list[str], rejected: list[Rejected], total: int
) -> None:
    if len(rejected) > data.max_bad_share * total:
        shown = "\n".join(f"  {r.file}:{r.line}: {r.reason}" for r in rejected[:5])
        raise InputError(
            f"{len(rejected)} of {total} rows of {data.folder} cannot be used "
            f"(at most {data.max_bad_share:.0%} may be bad):\n{shown}",
            hint="fix them, or raise max_bad_share under [data]",
        )
    if len(labels) < 2:
        raise InputError(
            f"{data.folder} has {len(labels)} label in the training rows; a classifier needs at least 2",
            hint=f"check that the field {data.label!r} is the label",
        )
    for split in SPLITS:
        if not splits[split]:
            raise InputError(f"{data.folder} has no rows left for {split}", hint="add rows, or change the shares")
    if len(splits["test"]) < MIN_TEST_ROWS:
        raise InputError(
            f"{data.folder} has {len(splits['test'])} test rows; fewer than {MIN_TEST_ROWS} say nothing about a model",
            hint="add rows to the test, or raise test_share under [data]; a few hundred give useful intervals",
        )
