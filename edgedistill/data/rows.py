"""Rows as users have them, to three clean splits: read, validated, de-duplicated, checked for leaks.

folder/train.jsonl [validation.jsonl] [test.jsonl]   (or .csv)      one file.jsonl, split here      "demo"
                  │
             one row a line ── unusable ──► rejected.jsonl, each with file, line and reason
                  │
             the same text twice: kept once; with two labels: the first counts, the others are rejected
                  │
             a test text also in train or validation: leaves those (a leak), never the test
                  │
             train.jsonl  validation.jsonl  test.jsonl  labels.json
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.config import DEMO, Data
from edgedistill.data import smarthome
from edgedistill.errors import InputError
from edgedistill.store import Output, Store, canonical, digest, file_sha256
from edgedistill.types import SPLITS, Rows

MAX_LINE_BYTES = 1_000_000
SUFFIXES = (".jsonl", ".csv")
ALL = "all"
"""The name of a single file's rows until they are split."""


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
class Rejected:
    """One unusable row, where it stood, and why it is not used."""

    file: str
    line: int
    reason: str


def prepare(data: Data, *, seed: int, store: Store) -> tuple[Rows, Output]:
    """Reads, validates and splits the rows of a request.

    Raises:
        InputError: nothing to read, too many unusable rows, fewer than two labels, or a split without rows.
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
    rows = Rows(path=output.path, sha256=output.sha256, counts=facts["counts"], labels=labels, facts=facts)
    return rows, output


def read(rows: Rows, split: str) -> list[Row]:
    """The rows of one split, in their order on disk."""
    with (rows.path / f"{split}.jsonl").open(encoding="utf-8") as file:
        return [Row(**json.loads(line)) for line in file]


def _files(data: Data) -> dict[str, Path]:
    """Split name to file; "all" when there is a single file to split; nothing for the embedded rows."""
    folder = Path(data.folder)
    if data.folder == DEMO and not folder.exists():
        return {}
    if folder.is_file():
        if folder.suffix not in SUFFIXES:
            raise InputError(f"{folder} is neither .jsonl nor .csv", hint="convert it to one JSON object a line")
        return {ALL: folder}
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist", hint="give --data a folder with train.jsonl, or one file")
    found: dict[str, Path] = {
        s: folder / f"{s}{suffix}" for suffix in SUFFIXES for s in SPLITS if (folder / f"{s}{suffix}").is_file()
    }
    if "train" not in found:
        raise InputError(f"{folder} has no train.jsonl or train.csv", hint="name the file with the training rows so")
    return found


def _prepare(data: Data, files: dict[str, Path], seed: int, folder: Path) -> None:
    rejected: list[Rejected] = []
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    if files:
        for split, path in files.items():
            splits.setdefault(split, []).extend(_read(path, data, rejected))
    else:
        for split, raw in smarthome.generate(seed=0).items():
            splits[split] = [Row(**row) for row in raw]
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
    with (folder / "rejected.jsonl").open("w", encoding="utf-8") as file:
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


def _read(path: Path, data: Data, rejected: list[Rejected]) -> Iterator[Row]:
    values = _csv(path, rejected) if path.suffix == ".csv" else _jsonl(path, rejected)
    for line, value in values:
        text, label = value.get(data.text), value.get(data.label)
        reason = _reason(data, value, text, label)
        if reason:
            rejected.append(Rejected(path.name, line, reason))
        else:
            yield Row(" ".join(str(text).split()), str(label))


def _reason(data: Data, value: dict[str, Any], text: Any, label: Any) -> str | None:
    for field, found in ((data.text, text), (data.label, label)):
        if field not in value:
            return f"no field {field!r} (found {', '.join(map(repr, sorted(value)[:6])) or 'none'})"
        if not isinstance(found, str):
            return f"field {field!r} is {type(found).__name__}, not a string"
        if not found.strip():
            return f"field {field!r} is empty"
    return None


def _jsonl(path: Path, rejected: list[Rejected]) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            if len(raw) > MAX_LINE_BYTES:
                rejected.append(Rejected(path.name, number, f"line of {len(raw)} bytes; {MAX_LINE_BYTES} is the limit"))
                continue
            try:
                value = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                rejected.append(Rejected(path.name, number, f"not UTF-8 (byte {error.start})"))
            except (ValueError, RecursionError) as error:
                rejected.append(Rejected(path.name, number, f"not JSON ({str(error)[:80]})"))
            else:
                if isinstance(value, dict):
                    yield number, value
                else:
                    rejected.append(Rejected(path.name, number, f"a JSON {type(value).__name__}, not an object"))


def _csv(path: Path, rejected: list[Rejected]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                yield reader.line_num, {key: value for key, value in row.items() if key is not None}
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})", hint="save it as UTF-8") from error
    except csv.Error as error:
        rejected.append(Rejected(path.name, 0, f"not CSV ({error})"))


def _normal(text: str) -> str:
    """What makes two texts the same: neither case nor punctuation counts. A text of nothing else stands for itself."""
    return smarthome.normalized(text) or text


def _drop_duplicates(splits: dict[str, list[Row]], rejected: list[Rejected]) -> int:
    """Keeps each training text once. Test and validation rows that the user chose stay as they are."""
    dropped = 0
    for split in splits.keys() & {"train", ALL}:
        first: dict[str, Row] = {}
        for number, row in enumerate(splits[split], 1):
            kept = first.setdefault(_normal(row.text), row)
            if kept is row:
                continue
            dropped += 1
            if kept.label != row.label:
                reason = f"same text as an earlier row, which has label {kept.label!r} and not {row.label!r}"
                rejected.append(Rejected(split, number, reason))
        splits[split] = list(first.values())
    return dropped


def _split(splits: dict[str, list[Row]], shares: dict[str, float], *, source: str, seed: int) -> None:
    """Moves a share of each label's rows into the splits that have none, in an order that only the seed decides."""
    rows = splits.pop(source)
    order = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row.text}".encode()).digest())
    sizes, taken = Counter(row.label for row in rows), Counter[tuple[str, str]]()
    kept: list[Row] = []
    for row in order:
        for split, share in shares.items():
            # At least one row of a label stays for training, whatever the shares.
            if taken[split, row.label] < min(round(share * sizes[row.label]), sizes[row.label] - 1):
                taken[split, row.label] += 1
                splits[split].append(row)
                break
        else:
            kept.append(row)
    splits["train"] = kept


def _drop_leaks(splits: dict[str, list[Row]]) -> int:
    """A text of a later split must not stand in an earlier one: the test stays whole, training gives way."""
    seen: set[str] = set()
    leaks = 0
    for split in reversed(SPLITS):
        clean = [row for row in splits[split] if _normal(row.text) not in seen]
        leaks += len(splits[split]) - len(clean)
        splits[split] = clean
        seen |= {_normal(row.text) for row in clean}
    return leaks


def _drop_unknown_labels(splits: dict[str, list[Row]], labels: list[str], rejected: list[Rejected]) -> None:
    known = set(labels)
    for split in ("validation", "test"):
        for number, row in enumerate(splits[split], 1):
            if row.label not in known:
                rejected.append(Rejected(split, number, f"label {row.label!r} has no row in train"))
        splits[split] = [row for row in splits[split] if row.label in known]


def _check(data: Data, splits: dict[str, list[Row]], labels: list[str], rejected: list[Rejected], total: int) -> None:
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
