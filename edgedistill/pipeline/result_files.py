"""Where the results of a bundle's benchmarks lie, so that a new one never costs an older one.

    NAME.bench.json                    the last one that measured anything
    NAME.20261122101500.bench.json     one that lay there before, or one that was held against the one that lies there
    NAME.failed.bench.json             no device could be measured
    NAME.stopped.bench.json            what was taken until a benchmark was stopped

Each has its page and its Markdown twin beside it. A result is written under the time that it was made as soon as there
is one, and gets its place when all of it is there.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal

from edgedistill.bench import compare as comparing
from edgedistill.bench import results
from edgedistill.errors import InputError
from edgedistill.pipeline.exporting import RECORD
from edgedistill.pipeline.prepare import check_out
from edgedistill.report import bench_page
from edgedistill.store import disk_errors, replace, write_atomically
from edgedistill.types import Comparison, Result

PARTS = (".json", ".html", ".md")
"""The files of a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a result went.

    Attributes:
        before: the result that lay there, if it can be read; `kept`: where it lies now.
    """

    file: Path
    before: Result | None = None
    kept: Path | None = None


class ResultFiles:
    """The results of one bundle in one folder.

    Args:
        bundle: its folder gives them their name.
        out: the folder; None is the one that the bundle lies in.
        against: a result that stays where it is, whatever is measured, so that the next one is held against it again.
    """

    def __init__(self, bundle: Path, out: Path | None = None, against: Path | None = None) -> None:
        self.folder = out or bundle.absolute().parent
        self._bundle = bundle
        self._name = bundle.absolute().name
        self._against = against

    def check(self) -> None:
        """Refuses a folder that cannot be written, before minutes of measuring.

        Raises:
            InputError: it looks like a file, or nothing can be written there.
        """
        if self.folder.suffix == ".json":
            raise InputError(
                f"--out is a folder, and {self.folder} looks like a file", hint=f"--out {self.folder.parent}"
            )
        check_out(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise InputError(
                f"nothing can be written into {self.folder}: {error.strerror}", hint="choose another --out"
            ) from error

    def keep(self, result: Result) -> Path:
        """Writes a result under its time, where nothing is in its way: from then on it is there whatever happens."""
        file = self._unused(result.created)
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            results.write(result, file)
        return file

    def place(self, result: Result, file: Path, *, stopped: bool = False) -> Place:
        """Writes a result that is finished where it was kept, and moves it to its place.

        What lies there gets the time that it was made in its name. What a stopped benchmark left goes where this one
        has all of it.
        """
        state: Literal["stopped", "failed", ""] = "stopped" if stopped else "" if _taken(result) else "failed"
        to = self._file(state)
        with disk_errors(self.folder):
            results.write(result, file)
            if self._is_against(to):
                return Place(file=file)
            before, kept = (None, None) if state == "failed" else self._set_aside(state)
            replace(file, to)
            if not state:
                self._remove_stopped(result)
        return Place(file=to, before=before, kept=kept)

    def show(
        self, result: Result, file: Path, earlier: Result | None = None, found: Sequence[Comparison] | None = None
    ) -> Path:
        """Writes a result's page and its Markdown twin; returns the page.

        Args:
            found: what the result is against the earlier one; None compares them here, as far as they can be.
        """
        if found is None:
            try:
                found = () if earlier is None else comparing.compare(earlier, result)
            except InputError:
                earlier, found = None, ()
        rest: dict[str, Any] = {"comparisons": found, "alternatives": self._alternatives()}
        with disk_errors(self.folder):
            page = file.with_suffix(".html")
            write_atomically(page, bench_page.page(result, earlier, **rest).encode())
            write_atomically(file.with_suffix(".md"), bench_page.markdown(result, earlier, **rest).encode())
        return page

    def _file(self, state: str = "") -> Path:
        return self.folder / f"{self._name}{state and '.'}{state}{results.SUFFIX}"

    def _unused(self, created: str, state: str = "") -> Path:
        """A name with a time in it, and a number where several have the same."""
        when, end = re.sub("[^0-9]", "", created)[:14], state and f".{state}"
        names = (self._file(f"{when}{f'-{number}' if number > 1 else ''}{end}") for number in count(1))
        return next(file for file in names if not any(file.with_suffix(suffix).exists() for suffix in PARTS))

    def _set_aside(self, state: str) -> tuple[Result | None, Path | None]:
        """Gives a result that lies where a new one goes its time in its name, and its pages with it."""
        file = self._file(state)
        if not file.exists():
            return None, None
        before = _read(file)
        modified = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat()
        kept = self._unused(modified if before is None else before.created, state)
        for suffix in PARTS:
            with contextlib.suppress(FileNotFoundError):
                replace(file.with_suffix(suffix), kept.with_suffix(suffix))
        return before, kept

    def _is_against(self, file: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self._against is not None and file.samefile(self._against)
        return False

    def _remove_stopped(self, result: Result) -> None:
        file = self._file("stopped")
        left = _read(file) if file.exists() and not self._is_against(file) else None
        if left is not None and _cells(left) <= _cells(result):
            for suffix in PARTS:
                file.with_suffix(suffix).unlink(missing_ok=True)

    def _alternatives(self) -> Sequence[Any]:
        """The other files that an export with --all wrote and judged."""
        try:
            record = json.loads((self._bundle / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ()
        found: Sequence[Any] = record.get("candidates", ())
        return found


def _taken(result: Result) -> bool:
    return any(run.taken for run in result.runs)


def _cells(result: Result) -> Counter[tuple[str, ...]]:
    """How many cells of each kind were taken, of each contender on each device."""
    return Counter((run.link, run.contender, one.cell.what) for run in result.runs for one in run.taken)


def _read(file: Path) -> Result | None:
    """None where it is of another version, or broken."""
    try:
        return results.read(file)
    except InputError:
        return None
