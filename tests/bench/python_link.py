"""A link to this machine that does no more than the contract says."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgedistill.links import local
from edgedistill.links.link import Facts, PythonLink


class Here(PythonLink):
    """This machine; `said` is printed in the place of what Python prints."""

    def __init__(self, said: str | None = None) -> None:
        super().__init__("local", "this machine")
        self.said = said
        self.asked: list[list[str]] = []

    def look(self, bundle: Path | None = None) -> Facts:
        return {}

    def put(self, folder: Path) -> str:
        return str(folder)

    def python(
        self, arguments: Sequence[str], *, where: str, files: Mapping[str, bytes], timeout_s: float, threads: int
    ) -> str:
        self.asked.append(list(arguments))
        if self.said is not None:
            return self.said
        with tempfile.TemporaryDirectory() as name:
            for file, content in files.items():
                (Path(name) / file).write_bytes(content)
            argv = [part.replace("{files}", name) for part in arguments]
            return local.run([sys.executable, *argv], cwd=Path(where), environment={"PYTHONPATH": ""}, timeout_s=60)
