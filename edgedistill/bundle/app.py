"""The file for apps that a classifier's bundle may hold beside its model, and the proof that it answers the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edgedistill.bench.rows import spread
from edgedistill.bundle import manifest
from edgedistill.bundle.assemble import APP
from edgedistill.errors import StageError
from edgedistill.export.app import PACKAGE, app_answer, app_session, to_app
from edgedistill.runtime.engine_onnx import Classifier, probabilities
from edgedistill.store import Output, Store, canonical, digest
from edgedistill.types import Progress, silent

FOUND = "app.json"
STEPS = 1
"""What is written and checked has changed so often: an older file is not taken for today's."""
ROWS = 1000
"""At most so many are answered by both."""
TRAPS = (
    "café",
    "CAFE\u0301 Ñandú",
    "İstanbul straße",
    "水 is 好的",
    "हिन्दी ไทย",
    "a🙂b 👨\u200d👩\u200d👧",
    "x\u00a0y\u200bz\ufeff",
    "",
)
"""Texts that are answered too, whatever the rows are: of letters, marks and spaces that tokenizers make normal."""
MAX_DIFFERENCE = 1e-4
"""Of a probability. The same ids give the same up to rounding; others may give the same label by chance."""
SHOWN = 60
"""Characters of a row in an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """What came of the file for apps.

    Attributes:
        rows: how many got the same label from it and from the bundle; `traps`: how many texts of `TRAPS` did.
        max_difference: of a probability, over all of these.
        requires: the packages that run it, and their versions.
    """

    file: str
    size_bytes: int
    rows: int
    traps: int
    max_difference: float
    requires: Mapping[str, str]


def make(bundle: Path, texts: Sequence[str], *, store: Store, progress: Progress = silent) -> tuple[App, Output]:
    """Puts a bundle's tokenizer, model and labels into one file, and holds its answers against the bundle's own.

    Args:
        bundle: of a classifier of single texts.
        texts: rows to be answered by both.

    Returns:
        What came of it, and the folder that holds the file.

    Raises:
        MissingExtra: the operators that read text are not installed.
        StageError: the tokenizer is of another kind, or a text is not answered alike: the message names it.
    """
    told = manifest.read(bundle).manifest
    some = spread(texts, ROWS)
    requires = {package: version(package) for package in ("numpy", "onnxruntime", PACKAGE)}
    inputs = {
        "steps": STEPS,
        "bundle": told["digest"],
        "texts": digest(some),
        **requires,
        **{package: version(package) for package in ("onnx", "tokenizers")},
    }

    def produce(folder: Path, _: Path) -> None:
        model, file = told["model"], folder / APP
        to_app(
            bundle / model["file"],
            bundle / "tokenizer.json",
            file,
            labels=model["labels"],
            max_tokens=model["max_tokens"],
        )
        largest = compare(bundle, file, [*some, *TRAPS], progress=progress)
        found = App(
            file=APP,
            size_bytes=file.stat().st_size,
            rows=len(some),
            traps=len(TRAPS),
            max_difference=largest,
            requires=requires,
        )
        (folder / FOUND).write_bytes(canonical(asdict(found)))

    output = store.get("app", inputs, produce)
    return App(**json.loads((output.path / FOUND).read_text(encoding="utf-8"))), output


def compare(bundle: Path, app: Path, texts: Sequence[str], *, progress: Progress = silent) -> float:
    """The largest difference of a probability between the file for apps and the bundle as it runs on a board.

    Raises:
        StageError: a text gets another label, or other probabilities: both read other words in it.
    """
    apart, together = Classifier(bundle, threads=1), app_session(app)
    largest = 0.0
    for done, text in enumerate(texts, 1):
        expected = probabilities(apart([text]))[0]
        label, found = app_answer(together, text)
        likeliest, difference = apart.labels[int(expected.argmax())], float(np.abs(found - expected).max())
        # "not … <=", so that NaN does not pass
        if label != likeliest or not difference <= MAX_DIFFERENCE:
            shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
            raise StageError(
                f"{app.name} does not answer like tokenizer and model apart: the {done}th of {len(texts)} texts, "
                f"{shown!r}, is {label!r} to it and {likeliest!r} to them; a probability differs by {difference:.2g}",
                hint="leave --app and [export] app out, and give the app tokenizer.json and the model apart",
            )
        largest = max(largest, difference)
        if done % 100 == 0 or done == len(texts):
            progress(done, len(texts))
    return largest
