"""A classifier of the BERT family, on rows with labels, or on texts of our own when there are none."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edgedistill import predictor, tasks
from edgedistill.bench import target
from edgedistill.bench.rows import spread
from edgedistill.bundle import app
from edgedistill.bundle.assemble import APP
from edgedistill.config import DEMO, Request
from edgedistill.data import rows as data
from edgedistill.data.splits import Row
from edgedistill.distill import logits
from edgedistill.distill.batches import encode, separator_of
from edgedistill.errors import InputError
from edgedistill.export import app as app_form
from edgedistill.export import fit, ladder
from edgedistill.export.parity import answers
from edgedistill.pipeline.exporting.source import OnTarget, Source
from edgedistill.pipeline.prepare import counted
from edgedistill.stages import Run
from edgedistill.store import Output
from edgedistill.teachers import local
from edgedistill.types import Device, Exported, Measurement, Progress, Recipe, Rows, Student

CALIBRATION_ROWS = 200
TIMED_ROWS = 100
EMULATED_ROWS = 200
"""Each takes about a tenth of a second."""


def classifier(run: Run, folder: Path, name: str, recipes: tuple[Recipe, ...], device: Device) -> Source:
    """Reads the rows, and asks the checkpoint about them.

    Raises:
        InputError: the checkpoint cannot be used, or the rows have labels that it does not know.
    """
    request, labels = run.request, local.labels_of(folder)
    check_task(request, folder)
    _refuse_other_heads(folder, labels)
    facts = local.inspect(folder, labels, name=name, what="checkpoint")
    if not facts.has_head:
        raise InputError(f"{folder} has no head for its {len(labels)} labels", hint="give a fine-tuned checkpoint")
    if reason := local.unsupported(local.config_of(folder)):
        raise InputError(f"{folder} {reason}", hint="export a classifier of the BERT family")
    if request.export.app:
        if tasks.find(request.task).inputs != ("text",):
            raise InputError(f"{APP} takes one text, and the task is {request.task}", hint="leave --app out")
        app_form.check(folder / local.TOKENIZER)
    rows, labelled = labelled_rows(run)
    judged, others = data.read(rows, "validation"), data.read(rows, "train")
    tokenizer = Tokenizer.from_file(str(folder / local.TOKENIZER))
    limit = min(request.data.max_tokens, facts.shape.positions)
    separator = separator_of(tokenizer, [row.content for row in judged])
    if request.export.app and separator is not None:
        raise InputError(f"{APP} takes one text, and the rows are pairs", hint="leave --app out")
    with run.stage("answers") as stage:
        ids = encode(tokenizer, [row.content for row in judged], limit)
        model = local.load(folder, labels)
        said = logits.ask(
            model, ids, [row.key for row in judged], hidden=False, separator=separator, progress=stage.progress
        ).logits.numpy()
        stage.cached = False
    truth = classes_of(judged, labels, folder) if labelled else said.argmax(axis=1)
    step = -(-len(others) // CALIBRATION_ROWS)  # spread over the file: rows are often sorted by label
    calibration = encode(tokenizer, [row.content for row in others[::step]], limit)
    student = Student(path=folder, sha256=facts.sha256, shape=replace(facts.shape, positions=limit), curve=())

    metric = "accuracy" if labelled else "agreement"

    def write(some: Sequence[Recipe], progress: Progress) -> tuple[Exported, Output]:
        return ladder.export(
            student,
            some,
            ids=ids,
            truth=truth,
            logits=said,
            metric=metric,
            tolerance=request.export.tolerance,
            calibration=calibration,
            separator=separator,
            store=run.store,
            progress=progress,
        )

    def check(bundle: Path, exported: Exported) -> OnTarget:
        some = spread(range(len(ids)), EMULATED_ROWS)
        here = answers(exported.path, [ids[row] for row in some], separator=separator)
        texts = [judged[row].content for row in some]
        return target.kept_equal(bundle, exported.sha256, device, texts, here, store=run.store)

    def for_apps(bundle: Path, progress: Progress) -> tuple[app.App, Output]:
        return app.make(bundle, [row.text for row in (*judged, *others)], store=run.store, progress=progress)

    def predicted(recipe: Recipe) -> Measurement:
        tokens = round(statistics.median(map(len, ids)))
        costs = predictor.encoder(facts.shape, recipe, device, tokens, threads=1)
        return next(cost for cost in costs if cost.name == "latency")

    def described(exported: Exported) -> dict[str, Any]:
        return {
            "recipe": exported.recipe,
            "parameters": facts.shape.parameters,
            "labels": list(labels),
            "max_tokens": limit,
            "pad_id": model.config.pad_token_id or 0,
            "pairs": separator is not None,
        }

    return Source(
        kind="classifier",
        name=facts.name,
        recipes=recipes,
        metric=metric,
        judged_on=whose(judged, labelled=labelled),
        texts=tuple(row.content for row in judged[:TIMED_ROWS]),
        command='predict "your text"' if separator is None else "predict $'one text\\tthe other'",
        threads=1,
        tokenizer=lambda _: folder / local.TOKENIZER,
        write=write,
        model=described,
        size_up=lambda size, recipe: fit.of_encoder(size, recipe, device),
        check=check,
        latency=predicted,
        app=for_apps if request.export.app else None,
        notes=notes_on(rows, labelled=labelled),
    )


def check_task(request: Request, folder: Path) -> None:
    """Refuses tasks that a classifier does not do, and pairs where there are none. Raises InputError."""
    task = tasks.find(request.task)
    if not task.has_labels:
        raise InputError(f"{folder} is a classifier, and the task is {request.task}", hint="leave --task out")
    if task.inputs != ("text",) and request.data.folder == DEMO:
        raise InputError(
            f"the texts that come with edgedistill are no pairs, and the task is {request.task}",
            hint="give rows with --data",
        )


def labelled_rows(run: Run) -> tuple[Rows, bool]:
    """The rows that a classifier is judged on, and whether their labels are its own: not those of our own texts."""
    request = run.request
    with run.stage("rows") as stage:
        rows, output = data.prepare(request.data, seed=request.seed, store=run.store)
        stage.took(output)
        labelled = request.data.folder != DEMO
        stage.note = counted(rows) if labelled else "no --data: texts that come with edgedistill"
    return rows, labelled


def whose(judged: Sequence[Row], *, labelled: bool) -> str:
    """On which rows files are judged, for people."""
    return f"{len(judged)} validation rows" if labelled else f"{len(judged)} texts that come with edgedistill"


def notes_on(rows: Rows, *, labelled: bool) -> tuple[str, ...]:
    """What the user should know of the rows that files were judged on."""
    if not labelled:
        return ("It was judged on texts about a smart home: with rows of your own (--data) a smaller file may hold.",)
    if rows.facts["rejected"]:
        return (f"{rows.facts['rejected']} rows could not be used; {rows.facts['rejected_file']} says why.",)
    return ()


def _refuse_other_heads(folder: Path, labels: Sequence[str]) -> None:
    """Refuses heads whose likeliest label is not their answer."""
    kind = local.config_of(folder).get("problem_type")
    if kind not in (None, "single_label_classification") or len(labels) < 2:
        what = kind or f"a head of {len(labels)} label"
        raise InputError(
            f"{folder} has {what}; one label of several is what can be exported",
            hint="give a classifier that chooses one of at least two labels",
        )


def classes_of(rows: Sequence[Row], labels: Sequence[str], folder: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The rows' labels as the checkpoint numbers them. Raises InputError for one that it does not know."""
    unknown = sorted({row.label for row in rows} - set(labels))
    if unknown:
        raise InputError(
            f"{folder} does not know the label {unknown[0]!r} of the rows; it has {', '.join(labels[:8])}"
            + (", …" if len(labels) > 8 else ""),
            hint="give rows with its labels, or name the labels in id2label of its config.json",
        )
    return np.array([labels.index(row.label) for row in rows])
