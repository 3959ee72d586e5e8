"""Encoder students: made of teacher layers, they learn its answers, its hidden states and the labels.

The control arm goes through the same function with the labels alone: same start, same batches, same steps.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedistill.config import Distill, Request, weighing
from edgedistill.data.splits import Row
from edgedistill.distill import logits, teach
from edgedistill.distill.batches import collate, encode, separator_of
from edgedistill.distill.classes import Classes, Examples, Teaching, examples_of
from edgedistill.distill.losses import divergence_of
from edgedistill.distill.panel import Panel
from edgedistill.distill.student import initialise, unit_importance
from edgedistill.distill.trainer import Schedule, fit
from edgedistill.distill.vocab import trim
from edgedistill.store import Output, Store, canonical
from edgedistill.teachers import local
from edgedistill.types import Progress, Rows, Shape, Split, Student, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ArmName = Literal["student", "control"]
ARMS: tuple[ArmName, ...] = get_args(ArmName)
FROM_TEACHER = {
    "route",
    "temperature",
    "temperature_end",
    "kd_weight",
    "hidden_weight",
    "relation_weight",
    "divergence",
    "skew",
    "signals",
    "k",
    "beta",
    "own_share",
    "own_tokens",
    "combine",
    "column",
}
"""Settings that only a student with a teacher knows."""
ROWS_FOR_IMPORTANCE = 512
EVALUATED: tuple[Split, ...] = ("validation", "test")


def distil(
    arm: ArmName,
    teacher: Path,
    answers: Output,
    rows: Rows,
    splits: Mapping[Split, Sequence[Row]],
    shape: Shape,
    request: Request,
    *,
    others: Sequence[Output] = (),
    store: Store,
    progress: Progress = silent,
) -> Output:
    """Trains one arm and answers the validation and test rows with it.

    Args:
        arm: "student" learns from the teacher, "control" from the labels alone.
        teacher: the fine-tuned checkpoint.
        answers: what it said to every row; its hash stands for the teacher's identity.
        others: what the teachers beside it said to every row.
    """
    settings = settings_of(arm, request.distill)
    inputs = {
        "arm": arm,
        "signals": answers.sha256,
        "rows": rows.sha256,
        "shape": asdict(shape),
        "settings": settings,
        "max_tokens": request.data.max_tokens,
        "seed": request.seed,
        **panel_inputs(arm, request, (answers, *others)),
    }

    def produce(folder: Path, work: Path) -> None:
        model = local.load(teacher, rows.labels)
        tokenizer = Tokenizer.from_file(str(teacher / teach.TOKENIZER))
        train = splits["train"]
        limit = request.data.max_tokens
        texts = [row.content for row in train]
        pad = model.config.pad_token_id or 0
        sample = encode(tokenizer, texts[:ROWS_FOR_IMPORTANCE], limit)
        separator = separator_of(tokenizer, texts)
        batches = (collate(sample, [row], pad, separator=separator) for row in range(len(sample)))
        trimmed = trim(tokenizer, [text for row in train for text in row.texts], size=shape.vocabulary)
        student = initialise(model, shape, trimmed.kept, unit_importance(model, batches))
        del model
        examples = examples_of(train, rows, trimmed.tokenizer, limit, pad=student.config.pad_token_id or 0)
        teaching = None
        if arm == "student":
            panel = teach.panel([answers, *others], rows, train, request) if others else None
            teaching = _teaching(answers, train, shape, request.distill, panel)
        lesson = Classes(examples, teaching)
        held_out = examples_of(splits["validation"], rows, trimmed.tokenizer, limit, pad=examples.pad)
        score = None if request.distill.patience is None else functools.partial(_accuracy, held_out)
        curve = fit(
            student, lesson, schedule_of(request.distill, request.seed), work=work, score=score, progress=progress
        )
        local.save(student, folder)
        trimmed.tokenizer.save(str(folder / teach.TOKENIZER))
        (folder / teach.CURVE).write_bytes(canonical(curve))
        for split in EVALUATED:
            given = examples_of(splits[split], rows, trimmed.tokenizer, limit, pad=examples.pad)
            keys = [row.key for row in splits[split]]
            signal = logits.ask(student, given.ids, keys, hidden=False, separator=given.separator)
            logits.write(signal, folder / f"{split}.safetensors")

    return store.get(arm, inputs, produce, together=True)


def settings_of(arm: ArmName, settings: Distill) -> dict[str, Any]:
    """What decides an arm's training: a control does not depend on how one learns from a teacher."""
    about_teacher = FROM_TEACHER if arm == "control" else set()
    # Teachers are known by what they said, and not by where they lie.
    return settings.model_dump(mode="json", exclude={"checkpoint_steps", "report_to", "teachers", *about_teacher})


def panel_inputs(arm: ArmName, request: Request, asked: Sequence[Output]) -> dict[str, Any]:
    """What several teachers add to a stage's inputs; nothing where there is one, or for a control.

    Args:
        asked: what each of them said.
    """
    if arm == "control" or len(asked) < 2:
        return {}
    return {"teachers": weighing.identities(request.teachers, [one.sha256 for one in asked])}


def schedule_of(settings: Distill, seed: int) -> Schedule:
    """How a student is trained, and its control arm."""
    return Schedule(
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_tokens=settings.batch_tokens,
        checkpoint_steps=settings.checkpoint_steps,
        seed=seed,
        parts=settings.parts,
        patience=settings.patience,
        report_to=settings.report_to,
    )


def _accuracy(examples: Examples, model: PreTrainedModel) -> float:
    """Share of the rows whose class the model finds."""
    said = logits.ask(model, examples.ids, [""] * len(examples.ids), hidden=False, separator=examples.separator)
    return float((said.logits.argmax(dim=1) == torch.tensor(examples.classes)).float().mean())


def _teaching(answers: Output, train: Sequence[Row], shape: Shape, settings: Distill, panel: Panel | None) -> Teaching:
    return Teaching(
        signal=teach.signal(answers, "train", train),
        layers=shape.layers,
        temperature=settings.temperatures,
        kd_weight=settings.kd_weight,
        hidden_weight=settings.hidden_weight,
        divergence=divergence_of(settings.divergence, beta=settings.beta, alpha=settings.skew),
        panel=panel,
    )


def encoded(student: Student, rows: Sequence[Row], max_tokens: int) -> list[list[int]]:
    """The rows in the student's own vocabulary."""
    return encode(Tokenizer.from_file(str(student.path / teach.TOKENIZER)), [row.content for row in rows], max_tokens)


def said(output: Output, split: str, rows: Sequence[Row]) -> NDArray[np.float32]:
    """The logits of a teacher or of an arm for these rows. Shape: [rows, labels]."""
    logits: NDArray[np.float32] = teach.signal(output, split, rows).logits.numpy()
    return logits
