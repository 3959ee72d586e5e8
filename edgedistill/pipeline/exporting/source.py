"""What is exported: a checkpoint with all that its kind decides, so that the rest of an export does not ask for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import safe_open

from edgedistill.bundle import assemble
from edgedistill.export.fit import Fit
from edgedistill.predictor import Prediction
from edgedistill.store import Output
from edgedistill.types import Exported, Measurement, NotMeasured, Progress, Recipe

if TYPE_CHECKING:
    from edgedistill.bundle.app import App

Kind = Literal["classifier", "static classifier", "reader", "decoder", "text-to-text"]
OnTarget = tuple[Measurement | NotMeasured, ...]
ENGINES: Mapping[Kind, tuple[str, ...]] = {
    "classifier": ("onnxruntime",),
    "static classifier": ("numpy", "onnxruntime"),
    "reader": ("onnxruntime",),
    "decoder": ("llama.cpp", "onnxruntime-genai"),
    "text-to-text": ("onnxruntime",),
}
"""What runs a kind of model, as boards and recipes name it; the first one where no recipe of another is asked for."""
PACKAGES = {
    "onnxruntime": "onnxruntime",
    "llama.cpp": "llama-cpp-python",
    "onnxruntime-genai": "onnxruntime-genai",
    "numpy": "numpy",
}
"""Their names as packages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint that is ready to be exported.

    Attributes:
        recipes: for the board, smallest first, all of one engine; `others` are those of its other engines.
        metric: what files are judged by, and `judged_on` on which rows, for people.
        texts: rows that a file is loaded and timed with.
        command: how the bundle is run, behind `python -m runtime`.
        threads: of the engine on the board.
        notes: what the user should know of a bundle.
        beside: files of the bundle that are neither model nor runtime, by name.
        tokenizer: tokenizer.json; None where the file holds it. It may be made with the file.
        write: makes the smallest file that holds, of some recipes.
        model: what the manifest says of a file.
        size_up: what a file of so many bytes, of a recipe, takes of the board.
        latency: how long a text is predicted to take on the board; None where nothing predicts that.
        writing: how fast a file of so many bytes, of a recipe, is predicted to write on the board; None likewise.
        app: makes a file for apps of a bundle; None where none is asked for.
        check: whether a bundle with a file gives the same answers under the board's instruction set.
    """

    kind: Kind
    name: str
    recipes: tuple[Recipe, ...]
    metric: str
    judged_on: str
    texts: tuple[Any, ...]
    command: str
    threads: int
    tokenizer: Callable[[Exported], Path | None]
    write: Callable[[Sequence[Recipe], Progress], tuple[Exported, Output]]
    model: Callable[[Exported], dict[str, Any]]
    size_up: Callable[[int, Recipe], Fit]
    check: Callable[[Path, Exported], OnTarget]
    latency: Callable[[Recipe], Measurement] | None = None
    writing: Callable[[int, Recipe], Prediction] | None = None
    app: Callable[[Path, Progress], tuple[App, Output]] | None = None
    notes: tuple[str, ...] = ()
    beside: Mapping[str, bytes] = field(default_factory=dict)
    others: tuple[Recipe, ...] = ()

    def recipe(self, exported: Exported) -> Recipe:
        """The recipe of a file."""
        return next(one for one in (*self.recipes, *self.others) if one.name == exported.recipe)

    def pack(self, exported: Exported, folder: Path, target: str) -> None:
        """Makes a bundle of a file; the folder may hold other files that belong to it."""
        folder.mkdir(exist_ok=True)
        content = {"name": self.name, "target": target, "task": self.kind, "model": self.model(exported)}
        for name, kept in self.beside.items():
            (folder / name).write_bytes(kept)
        assemble.pack(
            folder,
            exported.files,
            content,
            engine=PACKAGES[self.recipe(exported).engine],
            threads=self.threads,
            tokenizer=self.tokenizer(exported),
        )


def named(checkpoint: str, folder: Path) -> str:
    """What a checkpoint is called: its folder, or its name on the hub without its owner."""
    return folder.resolve().name if Path(checkpoint).exists() else checkpoint.rpartition("/")[2]


def weights_in(files: Sequence[Path]) -> int:
    """How many numbers some safetensors hold, from their headers."""
    total = 0
    for file in files:
        with safe_open(file, "numpy") as opened:
            total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return total
