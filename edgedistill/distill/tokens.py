"""The route for encoders: a student made of teacher layers learns its answers, its hidden states and the labels.

The control arm goes through the same function with the labels alone: same start, same batches, same steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedistill.config import Request
from edgedistill.data.rows import Row
from edgedistill.distill import logits, teach
from edgedistill.distill.batches import collate, encode
from edgedistill.distill.student import initialise, unit_importance
from edgedistill.distill.trainer import Examples, Lesson, Schedule, fit
from edgedistill.distill.vocab import trim
from edgedistill.store import Output, Store, canonical
from edgedistill.teachers import local
from edgedistill.types import Progress, Rows, Shape, Split, Student, silent

ArmName = Literal["student", "control"]
ARMS: tuple[ArmName, ...] = get_args(ArmName)
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
    store: Store,
    progress: Progress = silent,
) -> tuple[Student, Output]:
    """Trains one arm and answers the validation and test rows with it.

    Args:
        arm: "student" learns from the teacher, "control" from the labels alone.
        teacher: the fine-tuned checkpoint.
        answers: what it said to every row; its hash stands for the teacher's identity.
    """
    settings = request.distill.model_dump(exclude={"checkpoint_steps"})
    inputs = {
        "arm": arm,
        "signals": answers.sha256,
        "rows": rows.sha256,
        "shape": asdict(shape),
        "settings": settings,
        "max_tokens": request.data.max_tokens,
        "seed": request.seed,
    }

    def produce(folder: Path, work: Path) -> None:
        model = local.load(teacher, rows.labels)
        tokenizer = Tokenizer.from_file(str(teacher / teach.TOKENIZER))
        train = splits["train"]
        texts = [row.text for row in train]
        sample = encode(tokenizer, texts[:ROWS_FOR_IMPORTANCE], request.data.max_tokens)
        pad = model.config.pad_token_id or 0
        importance = unit_importance(model, (collate(sample, [row], pad) for row in range(len(sample))))
        trimmed = trim(tokenizer, texts, size=shape.vocabulary)
        student = initialise(model, shape, trimmed.kept, importance)
        del model
        examples = Examples(
            ids=encode(trimmed.tokenizer, texts, request.data.max_tokens),
            classes=[rows.labels.index(row.label) for row in train],
            pad=student.config.pad_token_id or 0,
        )
        lesson = None
        if arm == "student":
            lesson = Lesson(
                signal=teach.signal(answers, "train", train),
                layers=shape.layers,
                temperature=request.distill.temperature,
                kd_weight=request.distill.kd_weight,
                hidden_weight=request.distill.hidden_weight,
            )
        schedule = Schedule(
            epochs=request.distill.epochs,
            learning_rate=request.distill.learning_rate,
            batch_tokens=request.distill.batch_tokens,
            checkpoint_steps=request.distill.checkpoint_steps,
            seed=request.seed,
        )
        curve = fit(student, examples, schedule, lesson=lesson, work=work, progress=progress)
        local.save(student, folder)
        trimmed.tokenizer.save(str(folder / teach.TOKENIZER))
        (folder / teach.CURVE).write_bytes(canonical(curve))
        for split in EVALUATED:
            ids = encode(trimmed.tokenizer, [row.text for row in splits[split]], request.data.max_tokens)
            signal = logits.ask(student, ids, [row.key for row in splits[split]], hidden=False)
            logits.write(signal, folder / f"{split}.safetensors")

    output = store.get(arm, inputs, produce)
    student = Student(path=output.path, sha256=output.sha256, shape=shape, curve=teach.curve(output))
    return student, output


def encoded(student: Student, rows: Sequence[Row], max_tokens: int) -> list[list[int]]:
    """The rows in the student's own vocabulary."""
    return encode(Tokenizer.from_file(str(student.path / teach.TOKENIZER)), [row.text for row in rows], max_tokens)


def said(output: Output, split: str, rows: Sequence[Row]) -> NDArray[np.float32]:
    """The logits of a teacher or of an arm for these rows. Shape: [rows, labels]."""
    logits: NDArray[np.float32] = teach.signal(output, split, rows).logits.numpy()
    return logits
