"""Where the results of a bundle's benchmarks lie, so that a new one never costs an older one that is worth more.

    NAME.bench.json                    the last one that measured anything
    NAME.20261122101500.bench.json     one that lay there before, or one that was held against the one that lies there
    NAME.failed.bench.json             no device could be measured
    NAME.stopped.bench.json            what was taken until the last benchmark was stopped

Each has its page and its Markdown twin beside it.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.bench import compare as comparing
from edgedistill.bench import results
from edgedistill.errors import InputError
from edgedistill.pipeline.exporting import RECORD
from edgedistill.pipeline.prepare import check_out
from edgedistill.report import bench_page
from edgedistill.store import disk_errors, write_atomically
from edgedistill.types import Comparison, Result

PARTS = (".json", ".html", ".md")
"""The files of a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The file of a new result.

    Attributes:
        before: the result that lay there; `kept`: where it lies now.
    """

    file: Path
    before: Result | None = None
    kept: Path | None = None


class ResultFiles:
    """The results of one bundle in one folder.

    Args:
        bundle: its folder gives them their name.
        out: the folder; None is the one that the bundle lies in.
    """

    def __init__(self, bundle: Path, out: Path | None = None) -> None:
        self.folder = out or bundle.absolute().parent
        self._bundle = bundle
        self._name = bundle.absolute().name
        self._stopped = self._file("stopped")

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

    def make_room(self, result: Result, against: Path | None) -> Place:
        """The file that a finished result goes to; what lies there gets the time that it was made in its name.

        Args:
            against: a file that the result is held against. It stays what it is, so that measuring again compares with
                it again.
        """
        if not any(run.taken for run in result.runs):
            return Place(file=self._file("failed"))
        file = self._file()
        before = _read(file)
        if before is None:
            return Place(file=file)
        if against is not None and file.samefile(against):
            return Place(file=self._dated(result))
        kept = self._dated(before)
        for suffix in PARTS:
            if (old := file.with_suffix(suffix)).exists():
                old.replace(kept.with_suffix(suffix))
        return Place(file=file, before=before, kept=kept)

    def save(self, result: Result, file: Path) -> None:
        """Writes a result without its page. What a stopped benchmark left goes where this one has more."""
        with disk_errors(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
            results.write(result, file)
            if file != self._stopped and any(run.taken for run in result.runs):
                for suffix in PARTS:
                    self._stopped.with_suffix(suffix).unlink(missing_ok=True)

    def stopped(self, result: Callable[[], Result] | None) -> Path | None:
        """Keeps what was taken until a benchmark was stopped, beside what earlier ones came to.

        Args:
            result: makes it; None where nothing was taken, and nothing is kept.
        """
        if result is None:
            return None
        taken = result()
        self.save(taken, self._stopped)
        self.show(taken, self._stopped)
        return self._stopped

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
        with disk_errors(file.parent):
            page = file.with_suffix(".html")
            write_atomically(page, bench_page.page(result, earlier, **rest).encode())
            write_atomically(file.with_suffix(".md"), bench_page.markdown(result, earlier, **rest).encode())
        return page

    def _file(self, state: str = "") -> Path:
        return self.folder / f"{self._name}{state and '.'}{state}{results.SUFFIX}"

    def _dated(self, result: Result) -> Path:
        return self._file(re.sub("[^0-9]", "", result.created)[:14])

    def _alternatives(self) -> Sequence[Any]:
        """The other files that an export with --all wrote and judged."""
        try:
            record = json.loads((self._bundle / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ()
        found: Sequence[Any] = record.get("candidates", ())
        return found


def _read(file: Path) -> Result | None:
    try:
        return results.read(file) if file.exists() else None
    except InputError:
        return None  # of another version; it is replaced
