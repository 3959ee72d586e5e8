"""A model of the BERT family that points at answers, on rows with answers, or on questions of our own without."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open
from tokenizers import Encoding, Tokenizer

from edgedistill import predictor, tasks
from edgedistill.bench import target
from edgedistill.bench.rows import spread
from edgedistill.config import DEMO, Request
from edgedistill.data import prompts, smarthome
from edgedistill.errors import InputError
from edgedistill.export import fit, ladder
from edgedistill.export.spans import Questions, ask, criterion
from edgedistill.pipeline.exporting.source import OnTarget, Source
from edgedistill.pipeline.prepare import counted
from edgedistill.runtime.engine_onnx import Reader
from edgedistill.runtime.spans import windows
from edgedistill.stages import Run
from edgedistill.store import Output
from edgedistill.tasks.task import Answer
from edgedistill.teachers import local
from edgedistill.types import Device, Exported, Measurement, Progress, Recipe, Student

QA = "qa"
WINDOW = 384
"""Pieces of a window: what readers of the BERT family are fine-tuned with (Devlin et al., 2019, appendix A.2)."""
ROWS = 300
"""On which files are judged; a context takes twenty times as long as a short text."""
CALIBRATION_WINDOWS = 50
"""A static recipe keeps what goes into a product for all of them at once: 120 MB for the widest of BERT base."""
TIMED_ROWS = 20
EMULATED_ROWS = 200
EMULATED_MACS = 2.5e11
"""Of all rows of the emulated check, which does about 3 × 10⁸ a second in 8 bits: a quarter of an hour."""
HEAD = ("start", "end")


class _Row(NamedTuple):
    question: str
    context: str
    answer: str | None
    read: tuple[Encoding, ...]


def reader(run: Run, folder: Path, name: str, recipes: tuple[Recipe, ...], device: Device) -> Source:
    """Reads the rows, and asks the checkpoint about them.

    Raises:
        InputError: the checkpoint or the rows cannot be used.
    """
    request = run.request
    if not tasks.find(request.task).has_labels and request.task != QA:
        raise InputError(f"{folder} points at answers, and the task is {request.task}", hint=f"give --task {QA}")
    facts = local.inspect(folder, HEAD, name=name, what="checkpoint")
    _check_head(folder)
    limit = _window(request, facts.shape.positions)
    tokenizer = Tokenizer.from_file(str(folder / local.TOKENIZER))
    with run.stage("rows") as stage:
        rows, others, left_out, note = _rows(run, tokenizer, limit)
        stage.note = note
    own = rows[0].answer is None
    questions = Questions(contexts=tuple(row.context for row in rows), windows=tuple(row.read for row in rows))
    separator = tokenizer.encode("").ids[-1]
    with run.stage("answers") as stage:
        model = local.load_reader(folder)
        said = ask(model, questions.ids, separator=separator, progress=stage.progress)
        stage.cached = False
    by = criterion(questions, said, None if own else [str(row.answer) for row in rows])
    calibration = spread([window.ids for row in others for window in row.read], CALIBRATION_WINDOWS)
    student = Student(path=folder, sha256=facts.sha256, shape=replace(facts.shape, positions=limit), curve=())
    pieces = [sum(len(window.ids) for window in row.read) for row in rows]

    def write(some: Sequence[Recipe], progress: Progress) -> tuple[Exported, Output]:
        return ladder.export_by(
            by,
            student,
            some,
            ids=questions.ids,
            tolerance=request.export.tolerance,
            calibration=calibration,
            separator=separator,
            store=run.store,
            progress=progress,
        )

    def check(bundle: Path, exported: Exported) -> OnTarget:
        each = facts.shape.macs(round(statistics.mean(pieces)), spans=True)
        some = spread(rows, max(1, min(EMULATED_ROWS, int(EMULATED_MACS / each))))
        reader = Reader(bundle, threads=1)
        here = [reader(row.question, row.context) for row in some]
        return target.kept_equal(
            bundle,
            exported.sha256,
            device,
            [(row.question, row.context) for row in some],
            np.array([[span.start, span.end, span.score] for span in here], dtype=np.float32),
            store=run.store,
        )

    def predicted(recipe: Recipe) -> Measurement:
        tokens = round(statistics.median(pieces))
        costs = predictor.encoder(facts.shape, recipe, device, tokens, threads=1, spans=True)
        return next(cost for cost in costs if cost.name == "latency")

    def described(exported: Exported) -> dict[str, Any]:
        return {"recipe": exported.recipe, "parameters": facts.shape.parameters, "max_tokens": limit, "pairs": True}

    # Several windows are several texts to the predictor, which knows the cost of one.
    short = statistics.median(len(row.read) for row in rows) == 1
    return Source(
        kind="reader",
        name=facts.name,
        recipes=recipes,
        metric=by.metric,
        judged_on=f"{len(rows)} questions that come with edgedistill" if own else f"the answers of {len(rows)} rows",
        texts=tuple((row.question, row.context) for row in rows[:TIMED_ROWS]),
        command="predict $'your question\\tits context'",
        threads=1,
        tokenizer=lambda _: folder / local.TOKENIZER,
        write=write,
        model=described,
        size_up=lambda size, recipe: fit.of_encoder(size, recipe, device),
        check=check,
        latency=predicted if short else None,
        notes=_notes(own=own, left_out=left_out),
    )


def _check_head(folder: Path) -> None:
    """Refuses what has no head for a start and an end, or cannot tell the question from the context."""
    config = local.config_of(folder)
    if reason := local.unsupported(config):
        raise InputError(f"{folder} {reason}", hint="export a reader of the BERT family")
    if config.get("type_vocab_size", 2) < 2:
        raise InputError(
            f"{folder} has one token type and cannot tell a question from its context", hint="give another checkpoint"
        )
    with safe_open(folder / local.WEIGHTS, "numpy") as weights:
        there = "qa_outputs.weight" in weights.keys()  # noqa: SIM118
        shape = weights.get_slice("qa_outputs.weight").get_shape() if there else []
    if shape[:1] != [len(HEAD)]:
        raise InputError(
            f"{folder} has no head with a start and an end of answers", hint="give a checkpoint fine-tuned on answers"
        )


def _window(request: Request, positions: int) -> int:
    """Pieces of a window: as many as readers are used to, or fewer if the user says so."""
    said = request.data.max_tokens if "max_tokens" in request.data.model_fields_set else WINDOW
    return min(said, WINDOW, positions)


def _rows(run: Run, tokenizer: Tokenizer, limit: int) -> tuple[list[_Row], list[_Row], int, str]:
    """What files are judged on, what static recipes are calibrated on, how many rows are of no use, and a note."""
    request, task = run.request, tasks.find(QA)
    if request.data.folder == DEMO:
        judged = list(_read(smarthome.questions(ROWS), tokenizer, limit))
        others = list(_read(smarthome.questions(CALIBRATION_WINDOWS, "train"), tokenizer, limit))
        return judged, others, 0, "no --data: questions that come with edgedistill"
    rows, _ = prompts.prepare(request.data, task, seed=request.seed, store=run.store)
    found = spread(prompts.read(rows, "validation"), ROWS)
    # A span cannot be an answer that does not stand in the context.
    there = [row for row in found if task.verify(Answer(value=str(task.gold(row))), row) is None]
    judged = list(_read(there, tokenizer, limit))
    if not judged:
        raise InputError(
            f"none of {len(found)} validation rows can be used: their answers do not stand in their contexts, or their "
            f"questions leave no room in {limit} pieces",
            hint="each row needs question, context, and answer: a piece of the context, word for word",
        )
    others = list(_read(spread(prompts.read(rows, "train"), CALIBRATION_WINDOWS), tokenizer, limit))
    return judged, others, len(found) - len(judged), counted(rows)


def _read(rows: Sequence[dict[str, Any]], tokenizer: Tokenizer, limit: int) -> list[_Row]:
    """Rows in windows; those that cannot be asked are left out."""
    found = []
    for row in rows:
        question, context = str(row["question"]), str(row["context"])
        try:
            read = tuple(windows(tokenizer, question, context, limit))
        except ValueError:
            continue
        answer = row.get("answer")
        found.append(_Row(question, context, None if answer is None else str(answer), read))
    return found


def _notes(*, own: bool, left_out: int) -> tuple[str, ...]:
    notes = ["It answers every question with a piece of its context, also where none of it is an answer."]
    if own:
        notes.append("It was judged on questions about a smart home: with --data a smaller file may hold.")
    if left_out:
        notes.append(f"{left_out} rows were left out: the answer is not in the context, or the question is too long.")
    return tuple(notes)
