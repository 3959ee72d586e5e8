"""What a training would do, without doing it: `edgedistill plan` for students that no build writes for a board."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill import catalog, predictor, tasks
from edgedistill.config import Request, idle
from edgedistill.data import prompts
from edgedistill.data.splits import group_of
from edgedistill.errors import PlanRefused
from edgedistill.pipeline.exporting import recipes_for
from edgedistill.pipeline.prepare import Prepared, prepare, teaching
from edgedistill.pipeline.writing import needs, route_of, rows_of, teaches, whose, writers
from edgedistill.predictor import Decoder, Prediction, names
from edgedistill.stages import Run
from edgedistill.types import TrainingPlan

if TYPE_CHECKING:
    from edgedistill.distill.decoder_shape import DecoderShape

BY_INFLUENCE = "which layers: the first, the last, and those with most influence on the rows, found when distilling"
CONTEXT = 2048
"""Tokens that an exported decoder keeps unless it is told."""
ACTIVATIONS = "memory is counted without activations, which grow with [distill] batch_tokens"


def training(run: Run) -> TrainingPlan:
    """The plan of `edgedistill distill`. Nothing is trained, and no teacher is asked for anything.

    Raises:
        InputError: rows, teacher or student cannot be used.
        PlanRefused: what was asked for is not possible, with the arithmetic.
    """
    return _of_classes(run, prepare(run, ask=False)) if tasks.find(run.request.task).has_labels else _of_texts(run)


def _of_classes(run: Run, known: Prepared) -> TrainingPlan:
    from edgedistill.distill import static
    from edgedistill.distill.batches import ByTokens
    from edgedistill.distill.generative import memory_bytes

    request, facts, shape = run.request, known.facts, known.teacher.shape
    count = known.rows.counts["train"]
    of_student, explanation = known.plan.student_shape.parameters, known.plan.explanation
    tokens = facts.tokens
    if request.student.kind == "static":
        pieces = min(request.student.vocabulary or static.VOCABULARY, shape.vocabulary)
        pieces = facts.vocabulary if request.student.vocabulary else pieces
        texts = len(tasks.find(request.task).inputs)
        tokens = max(tokens - 1 - texts, 1)  # it reads no special pieces
        of_student = static.parameters(pieces, static.StaticShape(labels=facts.labels, pairs=texts == 2))
        explanation = (*explanation, f"{pieces} of {shape.vocabulary} pieces")
    # Of each row its logits, and of a training row two vectors of every layer and of the embeddings, in 16 bits.
    states = 4 * (len(shape.layers) + 1) * shape.hidden * count
    steps = len(ByTokens([tokens] * count, request.distill.batch_tokens, epochs=request.distill.epochs))
    return _checked(
        TrainingPlan(
            task=request.task,
            route="classes",
            teacher=known.teacher.name,
            parameters={"teacher": shape.parameters, "student": of_student},
            memory_bytes=16 * max(shape.parameters if not known.teacher.has_head else 0, of_student),
            available_bytes=memory_bytes(),
            rows=count,
            steps=steps,
            signal_bytes=states + 4 * facts.labels * sum(known.rows.counts.values()),
            explanation=(*explanation, ACTIVATIONS),
        )
    )


def _of_texts(run: Run) -> TrainingPlan:
    from edgedistill.distill import generative, signals
    from edgedistill.distill.batches import ByTokens
    from edgedistill.distill.piece import sizes_for
    from edgedistill.teachers.causal import tokenizer_of

    request, task = run.request, tasks.find(run.request.task)
    has_teacher = teaches(request)
    rows = rows_of(run, ask=False)
    with run.stage("plan") as stage:
        teacher, beside = writers(request)
        train = prompts.read(rows, "train")
        column = request.distill.column
        taught = teaching(request, [group_of(row, column) for row in train])
        tokenizer = tokenizer_of(teacher.folder)
        full = generative.sizes_of(teacher)
        parameters = {"teacher": full.parameters} if has_teacher else {}
        made_of: tuple[str, ...]
        named = request.student.model
        if named is None:
            sizes, widths = sizes_for(full, tokenizer, task, train, request)
            parameters["student"] = sizes.parameters
            made_of = (_piece(full, sizes), *widths, BY_INFLUENCE)
        else:
            parameters["student"] = generative.parameters_of(generative.find(named))
            made_of = (f"student: {named}, as it was asked for",)
        route = route_of(request, teacher if has_teacher else None, beside, parameters)
        read_by = tokenizer if named is None else tokenizer_of(generative.find(named).folder)
        examples = generative.examples_of(read_by, task, train, request.data.max_tokens)
        # Several teachers are tuned and asked one after the other; only [teacher] reads along.
        largest = max([parameters.get("teacher", 0), *map(generative.parameters_of, beside)])
        needed = needs(request, parameters)
        along = route.name == "onpolicy" or idle.matches(request)
        together = max(sum(needed.values()) if along else max(needed.values()), 4 * largest)
        if request.teacher.epochs and has_teacher:
            together = max(together, 16 * largest)
        settings = request.distill
        steps = ByTokens([len(example.ids) for example in examples], settings.batch_tokens, epochs=settings.epochs)
        asked = 0
        if route.name == "tokens":
            source = signals.source_of(tokenizer, teacher.sha256)
            asked = signals.expected_bytes(examples, source.pieces, generative.sparsity_of(request))
        lost = len(train) - len(examples)
        left_out = (f"{lost} of {len(train)} rows do not fit into [data] max_tokens and are left out",) if lost else ()
        stage.note = route.name
    cost = _on_board(request, generative.sizes_of(generative.find(named)) if named else sizes)
    return _checked(
        TrainingPlan(
            task=request.task,
            route=route.name,
            teacher=Path(request.teacher.model).name if has_teacher else "the rows' answers",
            parameters=parameters,
            memory_bytes=together,
            available_bytes=generative.memory_bytes(),
            rows=len(examples),
            steps=len(steps),
            signal_bytes=asked * (1 + len(beside)),
            explanation=(*route.why, *whose(request, route.name), *taught, *made_of, *left_out, ACTIVATIONS, *cost.why),
            predictions=cost.measurements,
        )
    )


def _on_board(request: Request, sizes: DecoderShape) -> Prediction:
    """What the student will cost on the board that is asked for, in the form that an export would try first."""
    device = catalog.device(request.target)
    try:
        recipe = recipes_for("decoder", device, request.export.recipe)[0]
    except PlanRefused as error:
        return Prediction(why=(f"not predicted: {error.message}",))
    if names.quantization(recipe.name) is None:
        return Prediction(why=(f"not predicted: nobody has published speeds of {recipe.engine}",))
    table = sizes.vocabulary * sizes.hidden
    body = sizes.parameters - table * (1 if sizes.tied else 2)
    found = predictor.decoder(
        device,
        Decoder(body=body, active=body, table=table, tied=sizes.tied, width=sizes.hidden),
        recipe.name,
        context=min(CONTEXT, sizes.positions),
        kept_bytes=4.0 * len(sizes.layers) * sizes.kv_heads * sizes.head_size,  # keys and values, two bytes each
    )
    return replace(found, why=(f"predicted for {device.title}, exported with {recipe.name}", *found.why))


def _piece(full: DecoderShape, sizes: DecoderShape) -> str:
    return (
        f"student: {len(sizes.layers)} of {len(full.layers)} layers; {sizes.vocabulary} of {full.vocabulary} pieces: "
        "what the rows use, and every byte"
    )


def _checked(made: TrainingPlan) -> TrainingPlan:
    """Refuses what cannot be trained here: the router looks at the student alone, fine-tuning takes as much again."""
    if made.memory_bytes > made.available_bytes:
        raise PlanRefused(
            f"training needs {made.memory_bytes / 1e9:.1f} GB of memory without activations, "
            f"and there are {made.available_bytes / 1e9:.1f} GB",
            hint="leave out [teacher] epochs, train adapters with [student] lora_rank, or use a smaller student",
        )
    return made
