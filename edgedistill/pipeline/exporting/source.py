"""What is exported: a checkpoint with all that its kind decides, so that the rest of an export does not ask for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgedistill.bundle import assemble
from edgedistill.export.fit import Fit
from edgedistill.types import Exported, Measurement, NotMeasured, Recipe

Kind = Literal["classifier", "decoder", "text-to-text"]
OnTarget = tuple[Measurement | NotMeasured, ...]
ENGINES: Mapping[Kind, str] = {
    "classifier": "onnxruntime",
    "decoder": "llama-cpp-python",
    "text-to-text": "onnxruntime",
}
"""What a kind of model runs on in a bundle, by its package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint that is ready to be exported.

    Attributes:
        recipes: for the board, smallest first.
        metric: what files are judged by, and `judged_on` on which rows, for people.
        texts: rows that a file is loaded and timed with.
        tokenizer: tokenizer.json; None where the file holds it. It may be made with the file.
        write: makes the smallest file that holds, of some recipes.
        model: what the manifest says of a file.
        size_up: what a file of so many bytes, of a recipe, takes of the board.
        check: whether a bundle with a file gives the same answers under the board's instruction set.
    """

    kind: Kind
    name: str
    recipes: tuple[Recipe, ...]
    metric: str
    judged_on: str
    texts: tuple[Any, ...]
    tokenizer: Callable[[Exported], Path | None]
    write: Callable[[Sequence[Recipe]], Exported]
    model: Callable[[Exported], dict[str, Any]]
    size_up: Callable[[int, Recipe], Fit]
    check: Callable[[Path, Exported], OnTarget]

    def pack(self, exported: Exported, folder: Path, target: str) -> None:
        """Makes a bundle of a file; the folder may hold other files that belong to it."""
        folder.mkdir(exist_ok=True)
        content = {"name": self.name, "target": target, "task": self.kind, "model": self.model(exported)}
        tokenizer = self.tokenizer(exported)
        assemble.pack(folder, exported.path, content, engine=ENGINES[self.kind], threads=1, tokenizer=tokenizer)
