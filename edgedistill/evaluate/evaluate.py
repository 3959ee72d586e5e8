"""From checkpoints and test rows to arms with intervals: classifiers by their logits, decoders by what they write.

encoder ─► logits ─┐
                   ├─► metrics of each arm, contrasts between arms
decoder ─► answers ┤
        └─► cross-entropy and KL to the teacher a token, where both write a row in the same pieces
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgedistill import tasks
from edgedistill.distill import logits as signals
from edgedistill.distill.batches import encode as encode_texts
from edgedistill.distill.batches import separator_of
from edgedistill.distill.decoder import load_student
from edgedistill.distill.examples import Example, encode
from edgedistill.errors import InputError
from edgedistill.evaluate import arms as judging
from edgedistill.evaluate.arms import TITLES, Name
from edgedistill.evaluate.generate import answers
from edgedistill.evaluate.judge import Judged
from edgedistill.evaluate.likelihood import Scored, scored
from edgedistill.tasks.task import Row, Style, Task, Unusable, label_of
from edgedistill.teachers import local
from edgedistill.teachers.causal import tokenizer_of
from edgedistill.teachers.choose import kind_of
from edgedistill.types import Arm, Contrast, Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """How good the checkpoints are on the rows.

    Attributes:
        answers: of each arm, to the rows that count.
        used: numbers of the rows that count: those that every arm can read.
        judged: what a blind judge makes of the student's answers beside the teacher's, where one was asked.
        scored_rows: on how many of them tokens are compared: those that every decoder writes in the same pieces.
        left_out: why each other row does not count.
    """

    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]
    answers: Mapping[Name, tuple[str, ...]]
    used: tuple[int, ...]
    scored_rows: int
    left_out: tuple[str, ...]
    judged: Judged | None = None

    @property
    def rows(self) -> int:
        """How many rows count."""
        return len(self.used)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoder:
    """A decoder arm before it is loaded: its tokenizer, and the rows in its pieces or why they cannot be."""

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    examples: list[Example | str]


def evaluate(
    task_name: str,
    rows: Sequence[Row],
    checkpoints: Mapping[Name, Path],
    *,
    style: Style | None = None,
    max_tokens: int = 1024,
    max_new_tokens: int | None = None,
    out_of_scope: str = "out_of_scope",
    seed: int = 0,
    progress: Progress = silent,
) -> Evaluated:
    """Runs every checkpoint over the rows and compares them.

    One model is in memory at a time; beside the teacher, which decoders are compared with.

    Args:
        rows: with their answers; see the task for the fields.
        checkpoints: the folder of each arm: an encoder with a head for the labels, or a decoder with its tokenizer.
        style: how rows are put to decoders, as in training. Labels that it lacks are those of the first encoder.
        max_tokens: longest row in tokens; prompts of decoders lose their oldest turns, texts of encoders their end.
        max_new_tokens: longest answer of a decoder; the task's own without one.
        out_of_scope: the label whose recall classifiers are also judged by.

    Raises:
        InputError: a row has no answer, or a checkpoint cannot be used for the task.
    """
    task = tasks.find(task_name)
    references = [task.references(row) for row in rows]
    if wrong := [number for number, found in enumerate(references) if not found]:
        raise InputError(f"row {wrong[0]} has no answer to judge by", hint="label the rows first")
    if not checkpoints or not rows:
        raise InputError("there is nothing to evaluate", hint="give at least one checkpoint and one row")
    names = [name for name in TITLES if name in checkpoints]
    encoders = [name for name in names if kind_of(str(checkpoints[name])) == "encoder"]
    if encoders and not task.has_labels:
        raise InputError(
            f"{checkpoints[encoders[0]]} is a classifier, and {task.name} has no labels", hint="give a decoder"
        )
    labels = style.labels if style is not None and style.labels else ()
    labels = labels or (local.labels_of(checkpoints[encoders[0]]) if encoders else ())
    if task.has_labels and not labels:
        labels = tuple(sorted({found[0] for found in references}))
    if unknown := {found[0] for found in references} - {*labels} if task.has_labels else set():
        raise InputError(f"no checkpoint knows the label {min(unknown)!r}", hint=f"its labels: {', '.join(labels)}")
    said = {name: _logits(checkpoints[name], task, rows, labels, max_tokens, progress) for name in encoders}
    if len(encoders) == len(names):
        truth = np.array([labels.index(found[0]) for found in references])
        return Evaluated(
            arms=judging.arms(said, truth, labels, out_of_scope=out_of_scope, seed=seed),
            contrasts=judging.contrasts(said, truth, seed=seed),
            answers={name: _named(found, labels) for name, found in said.items()},
            used=tuple(range(len(rows))),
            scored_rows=0,
            left_out=(),
        )
    style = Style(labels=labels) if style is None else style
    decoders = {
        name: _read(checkpoints[name], task, rows, references, style, max_tokens)
        for name in names
        if name not in encoders
    }
    reasons = [
        next((found.examples[row] for found in decoders.values() if isinstance(found.examples[row], str)), None)
        for row in range(len(rows))
    ]
    use = [row for row, reason in enumerate(reasons) if reason is None]
    if not use:
        raise InputError(f"no row can be given to every checkpoint: {reasons[0]}", hint="raise max_tokens")
    new = task.max_tokens if max_new_tokens is None else max_new_tokens
    texts: dict[Name, tuple[str, ...]] = {
        name: tuple(np.array(_named(found, labels), dtype=object)[use]) for name, found in said.items()
    }
    likely, compared = _run(decoders, use, new, texts, progress)
    texts = {name: tuple(_read_answer(text, labels) for text in found) for name, found in texts.items()}
    wanted = [references[row] for row in use]
    return Evaluated(
        arms=judging.text_arms(task, texts, wanted, scored=likely, seed=seed),
        contrasts=judging.text_contrasts(task, texts, wanted, scored=likely, seed=seed),
        answers=texts,
        used=tuple(use),
        scored_rows=compared,
        left_out=tuple(f"row {row}: {reason}" for row, reason in enumerate(reasons) if reason is not None),
    )


def _logits(
    folder: Path, task: Task, rows: Sequence[Row], labels: Sequence[str], max_tokens: int, progress: Progress
) -> NDArray[np.float32]:
    """What a classifier says to the rows. Shape: [rows, labels]."""
    from tokenizers import Tokenizer

    facts = local.inspect(folder, labels, name=folder.name, what="checkpoint")
    if not facts.has_head:
        raise InputError(f"{folder} has no head for the {len(labels)} labels", hint="give a fine-tuned checkpoint")
    model: Any = local.load(folder, labels)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = Tokenizer.from_file(str(folder / local.TOKENIZER))
    texts: list[Any] = [_content(task, row) for row in rows]
    ids = encode_texts(tokenizer, texts, min(max_tokens, facts.shape.positions))
    keys = [str(number) for number in range(len(rows))]
    separator = separator_of(tokenizer, texts)
    found: NDArray[np.float32] = signals.ask(
        model, ids, keys, hidden=False, separator=separator, progress=progress
    ).logits.numpy()
    return found


def _content(task: Task, row: Row) -> str | tuple[str, ...]:
    fields = tuple(str(row[field]) for field in task.inputs)
    return fields[0] if len(fields) == 1 else fields


def _named(logits: NDArray[np.float32], labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(labels[number] for number in logits.argmax(axis=1))


def _read_answer(text: str, labels: Sequence[str]) -> str:
    """The label that a text names, where there are labels; the text itself otherwise."""
    if not labels:
        return text
    try:
        return label_of(text, labels)
    except Unusable:
        return text


def _read(
    folder: Path,
    task: Task,
    rows: Sequence[Row],
    references: Sequence[Sequence[str]],
    style: Style,
    max_tokens: int,
) -> _Decoder:
    tokenizer: Any = tokenizer_of(folder)
    examples = [
        encode(tokenizer, task.messages(row, style), of_row[0], max_tokens)
        for row, of_row in zip(rows, references, strict=True)
    ]
    return _Decoder(folder=folder, tokenizer=tokenizer, examples=examples)


def _run(
    decoders: Mapping[Name, _Decoder],
    use: Sequence[int],
    max_new_tokens: int,
    texts: dict[Name, tuple[str, ...]],
    progress: Progress,
) -> tuple[dict[Name, Scored], int]:
    """Fills in the answers of the decoders, and says how likely they find the references, on how many rows."""
    examples = {name: [found.examples[row] for row in use] for name, found in decoders.items()}
    plain = {name: [example for example in of_arm if isinstance(example, Example)] for name, of_arm in examples.items()}
    teacher = decoders.get("teacher")
    kept: dict[Name, list[int] | None] = {
        name: None if teacher is None else _kept(found.tokenizer, teacher.tokenizer) for name, found in decoders.items()
    }
    same = [row for row in range(len(use)) if teacher is None or _all_same(plain, kept, row)]
    model_of_teacher = None if teacher is None else _load(teacher.folder)
    likely: dict[Name, Scored] = {}
    for name, found in decoders.items():
        model = model_of_teacher if name == "teacher" and model_of_teacher is not None else _load(found.folder)
        texts[name] = tuple(
            answers(model, found.tokenizer, plain[name], max_new_tokens=max_new_tokens, progress=progress)
        )
        if same:
            likely[name] = scored(
                model,
                [plain[name][row] for row in same],
                teacher=None if name == "teacher" else model_of_teacher,
                kept=kept[name],
                progress=progress,
            )
    return likely, len(same)


def _kept(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> list[int] | None:
    """The teacher's ids of the student's pieces; None when the student has pieces that the teacher does not know."""
    pieces = sorted(student.get_vocab().items(), key=lambda piece: piece[1])
    known = teacher.get_vocab()
    if [number for _, number in pieces] != list(range(len(pieces))) or any(piece not in known for piece, _ in pieces):
        return None
    return [known[piece] for piece, _ in pieces]


def _all_same(plain: Mapping[Name, Sequence[Example]], kept: Mapping[Name, list[int] | None], row: int) -> bool:
    """Whether every arm writes a row in the pieces that the teacher writes it in."""
    theirs = plain["teacher"][row]
    for name, examples in plain.items():
        pieces, mine = kept[name], examples[row]
        if pieces is None or mine.answer_start != theirs.answer_start:
            return False
        if tuple(pieces[number] for number in mine.ids) != theirs.ids:
            return False
    return True


def _load(folder: Path) -> PreTrainedModel:
    """A decoder on the fastest device, in bfloat16 where that is a GPU."""
    on_gpu = torch.cuda.is_available()
    model: Any = load_student(folder, torch.bfloat16 if on_gpu else torch.float32)
    model.train(False)
    loaded: PreTrainedModel = model.to("cuda" if on_gpu else "cpu")
    return loaded
