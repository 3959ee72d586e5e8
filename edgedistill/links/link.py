"""What a link can do: find out about a device, put a bundle there, and run one cell at a time in a fresh process.

Where the device runs Python, the measuring program is the bundle's own `runtime`, and a link only has to carry files
and start it: `PythonLink`. A browser runs a page instead, and implements `Link` itself.
"""

from __future__ import annotations

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from edgedistill.errors import EngineCrashed, StageError
from edgedistill.types import Cell, Kind, What

Facts = Mapping[str, Any]
"""What a device tells about itself: machine, system, python, cores, ram_bytes, packages, and what else it knows."""

TIMEOUT_PER_ROW_S = 20.0
"""So that a larger workload may take longer. Each text is answered a few times, by a small model in milliseconds."""
LONGEST_S = 3600.0
LAST_WORDS = 500
EVERYTHING: frozenset[What] = frozenset({"timing", "memory", "answers", "writing"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that keeps a device from running a bundle, and what to do about it."""

    what: str
    remedy: str


def refusal(device: str, problems: Iterable[Problem]) -> StageError:
    """All that keeps a device from running a bundle, in one error."""
    listed = "\n".join(f"  {problem.what}\n    {problem.remedy}" for problem in problems)
    return StageError(
        f"{device} is not ready; nothing was copied there:\n{listed}", hint="mend these, then start again"
    )


def parsed(out: str, device: str) -> Mapping[str, Any]:
    """What a program on a device answered: the last line that is a JSON object; engines print beside it.

    Raises:
        EngineCrashed: there is none.
    """
    for line in reversed(out.splitlines()):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    said = out.strip()[-LAST_WORDS:] or "nothing"
    raise EngineCrashed(f"Python on {device} ended well and gave no answer; it said: {said}")


@contextmanager
def beside(files: Mapping[str, bytes], arguments: Sequence[str]) -> Iterator[list[str]]:
    """The arguments of `PythonLink.python` with its files written on this machine, for as long as they are needed."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        yield [argument.replace("{files}", folder) for argument in arguments]


class Link(ABC):
    """One device. Use it as a context manager: what it put there for measuring is removed at the end.

    Attributes:
        address: as the user wrote it.
        kind: of the figures that come from it.
        title: what people read in a table's head.
        can: what it may be asked for; a cell of another kind is not run, and the result says why.
    """

    kind: ClassVar[Kind] = "measured"
    can: ClassVar[frozenset[What]] = EVERYTHING

    def __init__(self, address: str, title: str) -> None:
        self.address = address
        self.title = title

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @abstractmethod
    def look(self, bundle: Path | None = None) -> Facts:
        """Looks before anything is copied: can the device run this bundle?

        Raises:
            StageError: it cannot be reached, or it lacks something; all problems at once, each with its remedy.
        """

    @abstractmethod
    def measure(self, bundle: Path, texts: Sequence[Any], cell: Cell) -> Mapping[str, Any]:
        """Runs one cell in a fresh process. The bundle is put there first, once.

        Returns:
            The raw samples, as `edgedistill.runtime.measure` describes them.

        Raises:
            StageError: the link broke; nothing of the cell is kept.
            EngineCrashed: the process died.
        """

    def close(self) -> None:
        """Removes what was put there for measuring."""
        return


class PythonLink(Link):
    """A device that runs Python: files are put there, and programs started."""

    @abstractmethod
    def put(self, folder: Path) -> str:
        """Makes the files of a local folder be there, byte for byte, once; files that are there are not sent again.

        Returns:
            Where they lie, in the device's own words.
        """

    def forget(self, folder: Path) -> None:
        """Removes what `put` made of a folder there: for folders that no later run asks for."""
        return

    @abstractmethod
    def python(
        self, arguments: Sequence[str], *, where: str, files: Mapping[str, bytes], timeout_s: float, threads: int
    ) -> str:
        """Runs Python there in a fresh process and returns what it printed.

        Args:
            arguments: behind the interpreter. `{files}` in one of them stands for the folder that holds `files`.
            where: the working folder, as `put` named it.
            files: small ones that are there for this call alone, by name.
            threads: the most that an engine may start.
        """

    def measure(self, bundle: Path, texts: Sequence[Any], cell: Cell) -> Mapping[str, Any]:
        """Runs `python -m runtime measure` of the bundle itself."""
        arguments = ["-m", "runtime", "--threads", str(cell.threads), "measure", "--what", cell.what]
        return self.ask(arguments, texts, cell, where=self.put(bundle))

    def ask(self, arguments: Sequence[str], texts: Sequence[Any], cell: Cell, *, where: str) -> Mapping[str, Any]:
        """What a measuring program says of a cell, which it is given in two files."""
        request = {
            "within": cell.within,
            "limit_s": cell.limit_s,
            "batch_rows": cell.batch_rows,
            "prompt_tokens": list(cell.prompt_tokens),
            "new_tokens": cell.new_tokens,
        }
        out = self.python(
            [*arguments, "--texts", "{files}/texts.json", "--cell", "{files}/cell.json"],
            where=where,
            files={"texts.json": json.dumps(list(texts)).encode(), "cell.json": json.dumps(request).encode()},
            timeout_s=max(LONGEST_S, TIMEOUT_PER_ROW_S * len(texts)),
            threads=cell.threads,
        )
        return parsed(out, self.title)
