"""The arms of a student that writes: its teacher, the student that learned from it, and the control that did not."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill import tasks
from edgedistill.config import DEMO_TEACHER, Request
from edgedistill.data import prompts
from edgedistill.errors import InputError, MissingExtra
from edgedistill.pipeline.prepare import counted, labelled
from edgedistill.stages import Run
from edgedistill.store import Output, canonical
from edgedistill.types import Progress, Rows, Signal

if TYPE_CHECKING:
    from edgedistill.distill.generative import Writer
    from edgedistill.distill.router import Route
    from edgedistill.distill.trainer import Curve


TEXTS = ("rouge_score", "sacrebleu")
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
        route: which way it was trained.
        explanation: why that way, and what the student is made of.
    """

    rows: Rows
    teacher: str
    outputs: Mapping[str, Output]
    evaluation: Mapping[str, Any]
    curves: Mapping[str, tuple[Mapping[str, float], ...]]
    parameters: Mapping[str, int]
    route: str
    explanation: tuple[str, ...]


def write(run: Run) -> Written:
    """Trains what has to be trained, and has every arm answer the test rows.

    Raises:
        InputError: rows, teacher or student cannot be used.
        PlanRefused: the route that was asked for is not possible.
    """
    from edgedistill.distill import generative, teach
    from edgedistill.distill.encoder import ARMS

    request, store = run.request, run.store
    task = tasks.find(request.task)
    has_teacher = request.teacher.model != DEMO_TEACHER
    if not has_teacher and request.student.model is None:
        raise InputError(
            f"{task.name} needs a teacher that writes, and none is named",
            hint="give --teacher the folder of a decoder, or a name on the hub",
        )
    _check_extras(request)
    settings, told = labelled(run, ask=True)
    with run.stage("rows") as stage:
        rows, output = prompts.prepare(settings, task, seed=request.seed, store=store)
        rows = replace(rows, facts={**rows.facts, **told})
        stage.took(output)
        stage.note = counted(rows)
    train, validation = prompts.read(rows, "train"), prompts.read(rows, "validation")
    tuned = None
    with run.stage("teacher") as stage:
        # Without a local teacher the rows' answers are all that there is of one, and the named student starts as it is.
        teacher = generative.find(request.teacher.model if has_teacher else str(request.student.model))
        if has_teacher:
            tuned = generative.tune(teacher, task, train, rows.sha256, request, store=store, progress=stage.progress)
        stage.took(tuned)
        stage.note = "taken as it is" if tuned is None else "fine-tuned on the rows"
    if tuned is not None:
        teacher = generative.Writer(folder=tuned.path, sha256=tuned.sha256)
    with run.stage("plan") as stage:
        parameters = {"teacher": generative.parameters_of(teacher)} if has_teacher else {}
        shape = None
        if request.student.model is None:
            full, shape, output = generative.shape_for(teacher, task, train, rows.sha256, request, store=store)
            stage.took(output)
            made_of = _made_of(shape.layers, len(full.layers), shape.vocabulary, full.vocabulary)
            parameters["student"] = shape.parameters
        else:
            made_of = f"student: {request.student.model}, as it was asked for"
            parameters["student"] = generative.parameters_of(generative.find(request.student.model))
        route = _route(run, teacher if has_teacher else None, parameters)
        sizes = " of ".join(f"{parameters[who] / 1e6:.1f} M" for who in ("student", "teacher") if who in parameters)
        stage.note = f"{route.name}; {sizes} parameters"
    asked = None
    if route.name == "tokens":
        with run.stage("signals") as stage:
            asked = generative.capture(teacher, task, train, rows.sha256, request, store=store, progress=stage.progress)
            stage.took(asked)
    outputs: dict[str, Output] = {}
    curves: dict[str, Curve] = {} if tuned is None else {"teacher": teach.curve(tuned)}
    # What the route `sequence` learns from are the rows' answers, so a control would be the same student again.
    for arm in ARMS if route.name != "sequence" else ("student",):
        with run.stage(arm) as stage:
            outputs[arm], curves[arm] = generative.distil(
                arm,
                route.name,
                teacher,
                asked,
                task,
                train,
                validation,
                rows.sha256,
                shape,
                request,
                store=store,
                progress=stage.progress,
            )
            stage.took(outputs[arm])
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
        route=route.name,
        explanation=(*route.why, *_whose(request, route.name), made_of),
    )


def _route(run: Run, teacher: Writer | None, parameters: Mapping[str, int]) -> Route:
    """The route, by what the teacher can give; without one at hand there are the texts that it wrote."""
    from edgedistill.distill import generative, router
    from edgedistill.teachers.causal import tokenizer_of

    named, differ = run.request.student.model, None
    if named is not None and teacher is not None:
        both: list[Any] = [tokenizer_of(f) for f in (teacher.folder, generative.find(named).folder)]
        differ = router.same_tokenizer(*(tokenizer.backend_tokenizer for tokenizer in both))
        if differ is None and both[0].chat_template != both[1].chat_template:
            differ = "their chat templates differ"
    # Weights, gradients and two moments in float32; under LoRA only the weights, and the adapters' are few.
    bytes_a_weight = 16 if run.request.student.lora_rank is None else 5
    wanted = run.request.distill.route
    gives: tuple[Signal, ...] = ("text",) if teacher is None else ("text", "logits")
    return router.route(
        gives,
        task=run.request.task,
        tokenizers_differ=differ,
        teacher_bytes=0 if teacher is None else 4 * parameters["teacher"],
        student_bytes=bytes_a_weight * parameters["student"],
        memory_bytes=generative.memory_bytes(),
        fixed=None if wanted == "auto" else wanted,
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


def _whose(request: Request, route: str) -> tuple[str, ...]:
    """On the route `sequence`, who wrote the answers that are learned."""
    if route != "sequence":
        return ()
    if request.label.teachers:
        return (f"answers: written by {_writers(request)}, accepted by the gates",)
    return ("answers: the rows' own; a teacher would write them with a [label] section",)


def _made_of(layers: tuple[int, ...], of_layers: int, pieces: int, of_pieces: int) -> str:
    numbers = ", ".join(str(layer + 1) for layer in layers)
    return (
        f"student: {len(layers)} of {of_layers} layers ({numbers}), those that change most what passes through them; "
        f"{pieces} of {of_pieces} pieces: what the rows use, and every byte"
    )


def _evaluated(
    run: Run, rows: Rows, folders: Mapping[Any, Path], identities: Sequence[str], progress: Progress
) -> Output:
    """What every arm writes on the test rows, and what that is worth.

    Args:
        folders: of the arms' checkpoints.
        identities: hashes of the checkpoints.
    """
    request = run.request

    def produce(folder: Path, _: Path) -> None:
        from edgedistill.distill.generative import PLAIN
        from edgedistill.evaluate.evaluate import evaluate

        found = evaluate(
            request.task,
            prompts.read(rows, "test"),
            folders,
            style=PLAIN,
            max_tokens=request.data.max_tokens,
            seed=request.seed,
            progress=progress,
        )
        plain = {
            "arms": [asdict(arm) for arm in found.arms],
            "contrasts": [asdict(contrast) for contrast in found.contrasts],
            "rows": found.rows,
            "left_out": list(found.left_out),
        }
        (folder / "evaluation.json").write_bytes(canonical(plain))
        (folder / "answers.json").write_bytes(canonical({name: list(texts) for name, texts in found.answers.items()}))

    inputs = {
        "rows": rows.sha256,
        "task": request.task,
        "arms": list(folders),
        "checkpoints": list(identities),
        "max_tokens": request.data.max_tokens,
        "seed": request.seed,
    }
    return run.store.get("evaluation", inputs, produce)
