"""A static student, for numpy alone or as an ONNX graph, on rows with labels or on texts of our own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.bench import target
from edgedistill.bench.rows import spread
from edgedistill.data import rows as data
from edgedistill.errors import InputError
from edgedistill.export import fit
from edgedistill.export.fit import Fit
from edgedistill.export.tables import checkpoint, ladder
from edgedistill.pipeline.exporting.classifier import (
    EMULATED_ROWS,
    TIMED_ROWS,
    check_task,
    classes_of,
    labelled_rows,
    notes_on,
    whose,
)
from edgedistill.pipeline.exporting.source import OnTarget, Source
from edgedistill.runtime import engine_onnx, engine_static
from edgedistill.stages import Run
from edgedistill.store import Output
from edgedistill.types import Device, Exported, Progress, Recipe


def static(
    run: Run, folder: Path, name: str, recipes: tuple[Recipe, ...], others: tuple[Recipe, ...], device: Device
) -> Source:
    """Reads the rows, and asks the student about them.

    Raises:
        InputError: the student cannot be used, or the rows are not of the kind that it was trained for.
        IntegrityError: the student has weights that are not finite.
    """
    request, student = run.request, checkpoint.read(folder)
    check_task(request, folder)
    rows, labelled = labelled_rows(run)
    judged = data.read(rows, "validation")
    texts = [row.content for row in judged]
    if isinstance(texts[0], str) is student.pairs:
        reads, given = ("pairs", "single texts") if student.pairs else ("single texts", "pairs")
        raise InputError(
            f"{folder} reads {reads}, and the rows are {given}", hint="give --task and --data as it was trained with"
        )
    with run.stage("answers") as stage:
        said = ladder.answers(student, folder / checkpoint.MODEL, texts)
        stage.cached = False
    truth = classes_of(judged, student.labels, folder) if labelled else said.argmax(axis=1)
    metric = "accuracy" if labelled else "agreement"
    engines = {recipe.name: recipe.engine for recipe in (*recipes, *others)}

    def write(some: Sequence[Recipe], progress: Progress) -> tuple[Exported, Output]:
        return ladder.export(
            student,
            some,
            texts=texts,
            truth=truth,
            logits=said,
            metric=metric,
            tolerance=request.export.tolerance,
            store=run.store,
            progress=progress,
        )

    def size_up(size: int, recipe: Recipe) -> Fit:
        if recipe.engine == "numpy":
            return fit.of_tables(size, device)
        return fit.of_encoder(size, recipe, device)

    def check(bundle: Path, exported: Exported) -> OnTarget:
        some = spread(texts, EMULATED_ROWS)
        engine: Any = engine_static if engines[exported.recipe] == "numpy" else engine_onnx
        classifier = engine.Classifier(bundle, threads=1)
        here = np.concatenate([classifier([text]) for text in some])
        return target.kept_equal(bundle, exported.sha256, device, some, here, store=run.store)

    def described(exported: Exported) -> dict[str, Any]:
        return {"recipe": exported.recipe, "parameters": student.parameters, **ladder.described(student)}

    return Source(
        kind="static classifier",
        name=name,
        recipes=recipes,
        others=others,
        metric=metric,
        judged_on=whose(judged, labelled=labelled),
        texts=tuple(texts[:TIMED_ROWS]),
        command="predict $'one text\\tthe other'" if student.pairs else 'predict "your text"',
        threads=1,
        tokenizer=lambda _: folder / checkpoint.TOKENIZER,
        write=write,
        model=described,
        size_up=size_up,
        check=check,
        notes=notes_on(rows, labelled=labelled),
    )
