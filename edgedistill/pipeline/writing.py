"""The arms of a student that writes: its teacher, the student that learned from it, and the control that did not."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill import tasks
from edgedistill.config import DEMO_TEACHER, Request, idle, weighing
from edgedistill.data import prompts
from edgedistill.data.splits import group_of
from edgedistill.errors import InputError, MissingExtra
from edgedistill.pipeline.prepare import counted, labelled, teaching
from edgedistill.stages import Run
from edgedistill.store import Output, canonical
from edgedistill.types import Progress, Rows, Signal

if TYPE_CHECKING:
    from edgedistill.distill.generative import Writer
    from edgedistill.distill.router import Route
    from edgedistill.distill.trainer import Curve
    from edgedistill.tasks.task import Task


TEXTS = ("rouge_score", "sacrebleu")
EXAMPLES = 5
"""Test rows whose answers the report shows."""
METRICS = {"summarization": TEXTS, "conversation": TEXTS, "math": ("math_verify",)}
"""Packages that the metrics of a task need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What training came to.

    Attributes:
        outputs: what the store keeps of "student" and "control".
        evaluation: arms and contrasts on the test rows, as plain values.
        curves: of every arm that was trained.
        parameters: of the teacher and of the student.
        unusable: training rows without the teacher's signals, which the student writes in other tokens; None where it
            learned from no signals.
        route: which way it was trained.
        explanation: why that way, and what the student is made of.
    """

    rows: Rows
    teacher: str
    outputs: Mapping[str, Output]
    evaluation: Mapping[str, Any]
    curves: Mapping[str, tuple[Mapping[str, float], ...]]
    parameters: Mapping[str, int]
    unusable: int | None
    route: str
    explanation: tuple[str, ...]


def write(run: Run) -> Written:
    """Trains what has to be trained, and has every arm answer the test rows.

    Raises:
        InputError: rows, teacher or student cannot be used.
        PlanRefused: the route that was asked for is not possible.
    """
    from edgedistill.distill import generative, judges, teach
    from edgedistill.distill.encoder import ARMS
    from edgedistill.distill.piece import piece_for

    request, store = run.request, run.store
    task = tasks.find(request.task)
    has_teacher = teaches(request)
    column = request.distill.column
    rows = rows_of(run, ask=True)
    train, validation = prompts.read(rows, "train"), prompts.read(rows, "validation")
    taught = teaching(request, [group_of(row, column) for row in train])
    tuned = None
    with run.stage("teacher") as stage:
        teacher, beside = writers(request)
        if request.teacher.epochs and has_teacher:
            _check_route(request, task, teacher, beside, train)
        if has_teacher:
            tuned = generative.tune(teacher, task, train, rows.sha256, request, store=store, progress=stage.progress)
        more = [
            generative.tune(one, task, train, rows.sha256, request, store=store, progress=stage.progress)
            for one in beside
        ]
        stage.took(tuned, *more)
        stage.note = "taken as it is" if tuned is None else "fine-tuned on the rows"
    if tuned is not None:
        teacher = generative.Writer(folder=tuned.path, sha256=tuned.sha256)
        beside = [generative.Writer(folder=one.path, sha256=one.sha256) for one in more if one is not None]
    with run.stage("plan") as stage:
        parameters = {"teacher": generative.parameters_of(teacher)} if has_teacher else {}
        piece = None
        if request.student.model is None:
            piece, output = piece_for(teacher, task, train, rows.sha256, request, store=store)
            stage.took(output)
            made_of = str(piece)
            parameters["student"] = piece.shape.parameters
        else:
            made_of = f"student: {request.student.model}, as it was asked for"
            parameters["student"] = generative.parameters_of(generative.find(request.student.model))
        route = route_of(request, teacher if has_teacher else None, beside, parameters)
        sizes = " of ".join(f"{parameters[who] / 1e6:.1f} M" for who in ("student", "teacher") if who in parameters)
        stage.note = f"{route.name}; {sizes} parameters"
    asked: list[Output] = []
    if route.name == "tokens":
        with run.stage("signals") as stage:
            asked = [
                generative.capture(one, task, train, rows.sha256, request, store=store, progress=stage.progress)
                for one in (teacher, *beside)
            ]
            stage.took(*asked)
    outputs: dict[str, Output] = {}
    curves: dict[str, Curve] = {} if tuned is None else {"teacher": teach.curve(tuned)}
    # What the route `sequence` learns from are the rows' answers, so a control would be the same student again.
    for arm in ARMS if route.name != "sequence" else ("student",):
        with run.stage(arm) as stage:
            outputs[arm], curves[arm] = generative.distil(
                arm,
                route.name,
                teacher,
                asked[0] if asked else None,
                task,
                train,
                validation,
                rows.sha256,
                piece,
                request,
                others=[
                    judges.Judge(folder=one.folder, sha256=one.sha256, asked=said)
                    for one, said in zip(beside, asked[1:], strict=True)
                ],
                store=store,
                progress=stage.progress,
            )
            stage.took(outputs[arm])
            if lacking := generative.unusable(outputs[arm]):
                stage.note = f"{lacking} of {len(train)} rows without the teacher's signals: other tokens"
    folders = {"teacher": teacher.folder} if has_teacher else {}
    folders |= {arm: output.path for arm, output in outputs.items()}
    with run.stage("evaluate") as stage:
        identities = [teacher.sha256, *(output.sha256 for output in outputs.values())]
        output = _evaluated(run, rows, folders, identities, stage.progress)
        stage.took(output)
    return Written(
        rows=rows,
        teacher=request.teacher.model if has_teacher else _writers(request) or "nobody",
        outputs=outputs,
        evaluation=json.loads((output.path / "evaluation.json").read_text(encoding="utf-8")),
        curves=curves,
        parameters=parameters,
        unusable=generative.unusable(outputs["student"]),
        route=route.name,
        explanation=(*route.why, *whose(request, route.name), *taught, made_of),
    )


def teaches(request: Request) -> bool:
    """Whether a teacher is at hand; without one there are only the rows' answers.

    Raises:
        InputError: nothing is left then to make a student of.
        MissingExtra: a package is not installed that would be missed after hours.
    """
    has_teacher = request.teacher.model != DEMO_TEACHER
    if not has_teacher and (request.student.model is None or request.distill.teachers):
        raise InputError(
            f"{request.task} needs a teacher that writes, and none is named",
            hint="give --teacher the folder of a decoder, or a name on the hub",
        )
    _check_extras(request)
    return has_teacher


def rows_of(run: Run, *, ask: bool) -> Rows:
    """The rows with their answers.

    Args:
        ask: False asks no teacher for them: then the rows must have them.
    """
    request, task = run.request, tasks.find(run.request.task)
    settings, told = labelled(run, ask=ask)
    with run.stage("rows") as stage:
        rows, output = prompts.prepare(
            settings, task, seed=request.seed, store=run.store, column=request.distill.column
        )
        stage.took(output)
        stage.note = counted(rows)
    return replace(rows, facts={**rows.facts, **told})


def writers(request: Request) -> tuple[Writer, list[Writer]]:
    """The decoder that the student is made of or learns from, and those that teach beside it, as they were found.

    Without a local teacher the rows' answers are all that there is of one, and the named student starts as it is.
    """
    from edgedistill.distill import generative, judges

    teacher = generative.find(request.teacher.model if teaches(request) else str(request.student.model))
    beside = [generative.find(one.model) for one in request.distill.teachers]
    weighing.check_different(request.teachers, [one.sha256 for one in (teacher, *beside)])
    judges.check_same_tokens(request.teachers, [one.folder for one in (teacher, *beside)])
    return teacher, beside


def needs(request: Request, parameters: Mapping[str, int]) -> dict[str, int]:
    """Bytes of memory that teacher and student take, without activations.

    Weights, gradients and two moments in float32; under LoRA only the weights, and the adapters' are few. Under FSDP a
    process has its share of them.
    """
    from edgedistill.distill import sharded

    of_student = (16 if request.student.lora_rank is None else 5) * parameters["student"] // sharded.processes()
    return {"teacher": 4 * parameters.get("teacher", 0), "student": of_student}


def _check_route(
    request: Request, task: Task, teacher: Writer, beside: Sequence[Writer], train: Sequence[Mapping[str, Any]]
) -> None:
    """Refuses a student that cannot be had before its teacher is fine-tuned for it. Raises as `route_of`."""
    from edgedistill.distill import generative
    from edgedistill.distill.piece import sizes_for
    from edgedistill.teachers.causal import tokenizer_of

    full = generative.sizes_of(teacher)
    if request.student.model is None:
        sizes, _ = sizes_for(full, tokenizer_of(teacher.folder), task, train, request)
        student = sizes.parameters
    else:
        student = generative.parameters_of(generative.find(request.student.model))
    route_of(request, teacher, beside, {"teacher": full.parameters, "student": student})


def route_of(
    request: Request, teacher: Writer | None, beside: Sequence[Writer], parameters: Mapping[str, int]
) -> Route:
    """The route, by what the teacher can give; without one at hand there are the texts that it wrote."""
    from edgedistill.distill import generative, judges, router

    named, differ = request.student.model, None
    if named is not None and teacher is not None:
        differ = judges.tokenizers_differ(teacher.folder, generative.find(named).folder)
    wanted, reads_along = request.distill.route, idle.matches(request)
    if wanted == "auto" and (reads_along or beside):  # which the other routes do not know
        wanted = "tokens"
    gives: tuple[Signal, ...] = ("text",) if teacher is None else ("text", "logits")
    # Several teachers are asked one after the other.
    largest = max([parameters.get("teacher", 0), *map(generative.parameters_of, beside)])
    needed = needs(request, {**parameters, "teacher": largest})
    return router.route(
        gives,
        task=request.task,
        tokenizers_differ=differ,
        teacher_bytes=needed["teacher"],
        student_bytes=needed["student"],
        memory_bytes=generative.memory_bytes(),
        fixed=None if wanted == "auto" else wanted,
        reads_along=reads_along,
    )


def _check_extras(request: Request) -> None:
    """Looks for what is needed at the end before anything is trained. Raises MissingExtra."""
    for module in METRICS.get(request.task, ()):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(module.replace("_", "-"), extra="label")
    if request.student.lora_rank is not None and importlib.util.find_spec("peft") is None:
        raise MissingExtra("peft, which trains with [student] lora_rank,", extra="lora")


def _writers(request: Request) -> str:
    return ", ".join(teacher.title for teacher in request.label.teachers)


def whose(request: Request, route: str) -> tuple[str, ...]:
    """On the route `sequence`, who wrote the answers that are learned."""
    if route != "sequence":
        return ()
    if request.label.teachers:
        return (f"answers: written by {_writers(request)}, accepted by the gates",)
    return ("answers: the rows' own; a teacher would write them with a [label] section",)


def _evaluated(
    run: Run, rows: Rows, folders: Mapping[Any, Path], identities: Sequence[str], progress: Progress
) -> Output:
    """What every arm writes on the test rows, and what that is worth.

    Args:
        folders: of the arms' checkpoints.
        identities: hashes of the checkpoints.
    """
    request, task = run.request, tasks.find(run.request.task)
    # Students learned from rows of so many tokens; one that finds no end would write on long after that.
    longest = min(task.max_tokens, request.data.max_tokens)

    def produce(folder: Path, _: Path) -> None:
        from edgedistill.distill.generative import PLAIN
        from edgedistill.evaluate.evaluate import evaluate

        test = prompts.read(rows, "test")
        found = evaluate(
            request.task,
            test,
            folders,
            style=PLAIN,
            max_tokens=request.data.max_tokens,
            max_new_tokens=longest,
            seed=request.seed,
            progress=progress,
        )
        plain = {
            "arms": [asdict(arm) for arm in found.arms],
            "contrasts": [asdict(contrast) for contrast in found.contrasts],
            "rows": found.rows,
            "scored_rows": found.scored_rows,
            "left_out": list(found.left_out),
            "examples": [
                {
                    "asked": task.messages(test[row], PLAIN)[-1]["content"],
                    "wanted": task.gold(test[row]),
                    "answers": {name: texts[place] for name, texts in found.answers.items()},
                }
                for place, row in enumerate(found.used[:EXAMPLES])
            ],
        }
        (folder / "evaluation.json").write_bytes(canonical(plain))
        (folder / "answers.json").write_bytes(canonical({name: list(texts) for name, texts in found.answers.items()}))

    inputs = {
        "rows": rows.sha256,
        "task": request.task,
        "arms": list(folders),
        "checkpoints": list(identities),
        "max_tokens": request.data.max_tokens,
        "max_new_tokens": longest,
        "examples": EXAMPLES,
        "seed": request.seed,
    }
    return run.store.get("evaluation", inputs, produce)
