"""Students that write: a decoder made of its teacher's layers, or a named one, learns the answers of the rows.

The control arm goes through the same function with the answers alone: same start, same batches, same steps.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgedistill.config import Request, idle
from edgedistill.data.splits import group_of
from edgedistill.distill import decoder, longrope, lora, signals, teach
from edgedistill.distill.decoder_shape import DecoderShape, shape_of
from edgedistill.distill.encoder import ArmName, panel_inputs, schedule_of, settings_of
from edgedistill.distill.examples import Example, conversation, encode
from edgedistill.distill.inside import Inside, Matching
from edgedistill.distill.judges import Judge, judgements
from edgedistill.distill.onpolicy import OnPolicy, Writing
from edgedistill.distill.router import RouteName
from edgedistill.distill.sparse import Sparsity
from edgedistill.distill.tokens import Answers, Judgement, Teaching
from edgedistill.distill.trainer import Curve, Lesson, Schedule, fit
from edgedistill.distill.vocab import Trimmed, trim
from edgedistill.errors import InputError
from edgedistill.store import Output, Store, canonical, digest, file_sha256
from edgedistill.tasks.task import Row, Style, Task
from edgedistill.teachers import causal, local
from edgedistill.teachers.causal import tokenizer_of
from edgedistill.types import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from edgedistill.distill.piece import Piece

PLAIN = Style(plain=True)
"""How students are asked: for the answer itself."""
UNUSABLE = "unusable.json"
"""Beside the curve: how many rows a student learned without what the teacher said."""
TOO_LONG = 0.1
"""Share of the rows that may be left out because they do not fit into `[data] max_tokens`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A decoder in a folder, and the hash of all that decides its answers."""

    folder: Path
    sha256: str


def find(model: str, *, what: str = "teacher") -> Writer:
    """A local decoder, or the hub's copy of one.

    Args:
        what: it is for its user, in messages.

    Raises:
        InputError: there is none, or it may not be loaded.
    """
    folder = local.locate(model, patterns=local.FILES, what=what)
    weights = causal.check(folder)
    told = [*weights, *(path for path in sorted(folder.iterdir()) if f"*{path.suffix}" in local.FILES[1:])]
    return Writer(folder=folder, sha256=digest({path.name: file_sha256(path) for path in told}))


def examples_of(tokenizer: PreTrainedTokenizerBase, task: Task, rows: Sequence[Row], max_tokens: int) -> list[Example]:
    """The rows with their answers in the pieces of a tokenizer; those that do not fit are left out.

    Raises:
        InputError: more rows than a tenth do not fit.
    """
    return [example for _, example in learnable(tokenizer, task, rows, max_tokens)]


def learnable(
    tokenizer: PreTrainedTokenizerBase, task: Task, rows: Sequence[Row], max_tokens: int
) -> list[tuple[Row, Example]]:
    """The rows that fit, with their examples. Raises as `examples_of`."""
    found = [_example(tokenizer, task, row, max_tokens) for row in rows]
    reasons = [reason for reason in found if isinstance(reason, str)]
    if len(reasons) > TOO_LONG * len(rows):
        raise InputError(
            f"{len(reasons)} of {len(rows)} rows cannot be learned from, such as: {reasons[0]}",
            hint="raise [data] max_tokens" if "token" in reasons[0] else "change these rows, or take them out",
        )
    return [(row, example) for row, example in zip(rows, found, strict=True) if isinstance(example, Example)]


def _example(tokenizer: PreTrainedTokenizerBase, task: Task, row: Row, max_tokens: int) -> Example | str:
    return encode(tokenizer, task.messages(row, PLAIN), str(task.gold(row)), max_tokens)


def tune(
    teacher: Writer, task: Task, train: Sequence[Row], rows: str, request: Request, *, store: Store, progress: Progress
) -> Output | None:
    """Fine-tunes the teacher on the rows' answers; the result is an ordinary checkpoint.

    Args:
        rows: hash of the rows.

    Returns:
        None when `[teacher] epochs` is left out, or 0: then it is taken as it is.
    """
    if not request.teacher.epochs:
        return None
    settings = request.teacher.model_dump(exclude={"model", "weight", "serves"})
    inputs = {
        "teacher": teacher.sha256,
        "task": task.name,
        "rows": rows,
        "settings": settings,
        "max_tokens": request.data.max_tokens,
        "seed": request.seed,
    }

    def produce(folder: Path, work: Path) -> None:
        model = decoder.load_student(teacher.folder)
        tokenizer = tokenizer_of(teacher.folder)
        examples = examples_of(tokenizer, task, train, request.data.max_tokens)
        longrope.check(model, [len(example.ids) for example in examples])
        lesson = Answers(examples, pad=0)
        schedule = Schedule(
            epochs=request.teacher.epochs or 0,
            learning_rate=request.teacher.learning_rate,
            batch_tokens=request.teacher.batch_tokens,
            checkpoint_steps=request.distill.checkpoint_steps,
            seed=request.seed,
        )
        curve = fit(model, lesson, schedule, work=work, progress=progress)
        _save(model, tokenizer, folder, curve)

    return store.get("teacher", inputs, produce, together=True)


def capture(
    teacher: Writer, task: Task, train: Sequence[Row], rows: str, request: Request, *, store: Store, progress: Progress
) -> Output:
    """The teacher's log-probabilities at every token of the rows' answers, asked once."""
    sparsity = sparsity_of(request)
    inputs = {
        "teacher": teacher.sha256,
        "task": task.name,
        "rows": rows,
        "max_tokens": request.data.max_tokens,
        "sparsity": asdict(sparsity),
    }

    def produce(folder: Path, work: Path) -> None:
        tokenizer = tokenizer_of(teacher.folder)
        model: Any = decoder.load_student(teacher.folder)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        signals.capture(
            model,
            examples_of(tokenizer, task, train, request.data.max_tokens),
            signals.source_of(tokenizer, teacher.sha256),
            sparsity,
            folder=folder,
            work=work,
            progress=progress,
        )

    return store.get("signals", inputs, produce)


def distil(
    arm: ArmName,
    route: RouteName,
    teacher: Writer,
    asked: Output | None,
    task: Task,
    train: Sequence[Row],
    validation: Sequence[Row],
    rows: str,
    piece: Piece | None,
    request: Request,
    *,
    others: Sequence[Judge] = (),
    store: Store,
    progress: Progress = silent,
) -> tuple[Output, Curve]:
    """Trains one arm; the result is an ordinary checkpoint.

    Args:
        arm: "student" learns from the teacher by the route, "control" from the rows' answers alone.
        teacher: on the route `sequence` only what the student is made of.
        asked: from `capture`, on the route `tokens`.
        piece: what a student is that is made from the teacher; None for a named one.
        others: the teachers beside it, on the route `tokens`.
    """
    named = None if request.student.model is None else find(request.student.model)
    inputs = {
        "arm": arm,
        "start": teacher.sha256 if named is None else named.sha256,
        "route": route if arm == "student" else None,
        "teacher": teacher.sha256 if arm == "student" and (route == "onpolicy" or idle.matches(request)) else None,
        "signals": asked.sha256 if arm == "student" and asked is not None else None,
        "task": task.name,
        "rows": rows,
        "shape": None if piece is None else asdict(piece.shape),
        "settings": settings_of(arm, request.distill),
        "lora": request.student.lora_rank,
        "max_tokens": request.data.max_tokens,
        "seed": request.seed,
        **panel_inputs(arm, request, [] if asked is None else [asked, *(one.asked for one in others)]),
    }

    def produce(folder: Path, work: Path) -> None:
        start = named or teacher
        tokenizer: Any = tokenizer_of(start.folder)
        kept = None
        if piece is not None:
            trimmed = trimmed_for(tokenizer, task, train, request)
            model = made_of(teacher, trimmed, piece)
            kept, tokenizer = trimmed.kept, _with(tokenizer, trimmed)
        else:
            model = decoder.load_student(start.folder)
        taken = learnable(tokenizer, task, train, request.data.max_tokens)
        examples = [example for _, example in taken]
        longrope.check(model, [len(example.ids) for example in examples])
        lesson: Lesson = Answers(examples, pad=0)
        if arm == "student" and route == "onpolicy":
            lesson = _listened_to(examples, teacher, kept or range(len(tokenizer)), request)
            # What the student writes must not cross the border either.
            longrope.check(model, [*(example.answer_start for example in examples), *lesson.lengths])
        elif arm == "student" and asked is not None:
            judges = [Judge(folder=teacher.folder, sha256=teacher.sha256, asked=asked), *others]
            groups = [group_of(row, request.distill.column) for row, _ in taken]
            size = int(model.config.vocab_size)
            said = judgements(judges, examples, groups, request, vocabulary=size, kept=kept)
            lacking = {key for one in said for key in one.signals.unusable}
            (folder / UNUSABLE).write_bytes(canonical(sum(example.key in lacking for example in examples)))
            lesson = Answers(examples, 0, _teaching(said, request))
            if idle.matches(request):
                lesson = _looked_into(lesson, model, teacher, kept or range(len(tokenizer)), piece, request)
        score = None
        if request.distill.patience is not None:
            held_out = Answers(examples_of(tokenizer, task, validation, request.data.max_tokens), pad=0)
            score = functools.partial(likelihood, held_out, request.distill.batch_tokens)
        adapted: Any = model
        if request.student.lora_rank is not None:
            adapted = lora.with_lora(model, request.student.lora_rank, seed=request.seed)
        schedule = schedule_of(request.distill, request.seed)
        curve = fit(adapted, lesson, schedule, work=work, score=score, progress=progress)
        _save(model if adapted is model else lora.merged(adapted), tokenizer, folder, curve)

    output = store.get(arm, inputs, produce, together=True)
    return output, teach.curve(output)


def unusable(student: Output) -> int | None:
    """Training rows that a student writes in other tokens than its teacher, so that it had their answers alone.

    Returns:
        None where the teacher's log-probabilities are not what was learned from.
    """
    found = student.path / UNUSABLE
    return int(json.loads(found.read_text())) if found.is_file() else None


@torch.inference_mode()
def likelihood(lesson: Answers, batch_tokens: int, model: PreTrainedModel) -> float:
    """Mean log-probability of an answer's token, in nats."""
    total, items = 0.0, 0
    for rows in longrope.batches([model], lesson.lengths, batch_tokens):
        batch = {name: value.to(model.device) for name, value in lesson.batch(rows).items()}
        total -= float(lesson.terms(model, batch, 0.0)["ce"])
        items += lesson.items(rows)
    return total / items


def _listened_to(examples: Sequence[Example], teacher: Writer, kept: Sequence[int], request: Request) -> OnPolicy:
    settings = request.distill
    writing = Writing(share=settings.own_share, max_tokens=settings.own_tokens, seed=request.seed)
    return OnPolicy(examples, decoder.load_student(teacher.folder), kept, writing, beta=settings.beta)


def _looked_into(
    answers: Answers,
    model: PreTrainedModel,
    teacher: Writer,
    kept: Sequence[int],
    piece: Piece | None,
    request: Request,
) -> Inside:
    settings = request.distill
    return Inside(
        answers,
        model,
        decoder.load_student(teacher.folder),
        kept,
        Matching(hidden_weight=settings.hidden_weight, relation_weight=settings.relation_weight),
        layers=None if piece is None else piece.shape.layers,
        importance=None if piece is None else piece.importance,
    )


def _teaching(said: Sequence[Judgement], request: Request) -> Teaching:
    return Teaching(
        judgements=said,
        by_confidence=request.distill.combine == "agreement",
        kd_weight=request.distill.kd_weight,
        temperature=request.distill.temperatures,
    )


def made_of(teacher: Writer, trimmed: Trimmed, piece: Piece) -> PreTrainedModel:
    """The student before its training. It draws no random numbers."""
    model = decoder.load_student(teacher.folder)
    shape = replace(piece.shape, vocabulary=len(trimmed.kept))
    return decoder.initialise(model, shape, trimmed.kept, piece.importance)


def trimmed_for(tokenizer: PreTrainedTokenizerBase, task: Task, train: Sequence[Row], request: Request) -> Trimmed:
    """The teacher's tokenizer with the pieces that the rows need, chat template included."""
    untyped: Any = tokenizer
    texts = (conversation(tokenizer, task.messages(row, PLAIN), str(task.gold(row))) for row in train)
    return trim(
        untyped.backend_tokenizer, [text for text in texts if text is not None], size=request.student.vocabulary
    )


def sizes_of(student: Writer) -> DecoderShape:
    """The sizes of a decoder, from its config alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    untyped: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = untyped.from_config(AutoConfig.from_pretrained(student.folder, local_files_only=True))
    return shape_of(model)


def parameters_of(student: Writer) -> int:
    """Number of weights of a decoder, from its config alone."""
    return sizes_of(student).parameters


def memory_bytes() -> int:
    """What a training may take: of the card where there is one, else of the machine."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def sparsity_of(request: Request) -> Sparsity:
    """How much of a teacher's log-probabilities is kept."""
    return Sparsity(mode=request.distill.signals, k=request.distill.k, seed=request.seed)


def _with(tokenizer: PreTrainedTokenizerBase, trimmed: Trimmed) -> PreTrainedTokenizerBase:
    """The same special tokens and chat template over fewer pieces."""
    from transformers import PreTrainedTokenizerFast

    untyped: Any = tokenizer
    names: Mapping[str, Any] = untyped.special_tokens_map
    make: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerBase = make(
        tokenizer_object=trimmed.tokenizer, chat_template=untyped.chat_template, **names
    )
    return made


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, curve: Curve) -> None:
    local.save(model, folder)
    untyped: Any = tokenizer
    untyped.save_pretrained(folder)
    (folder / teach.CURVE).write_bytes(canonical(curve))
