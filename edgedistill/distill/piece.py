"""Which piece of its teacher a student that writes is: how many layers and which, how wide, and with which pieces."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from edgedistill.config import Request
from edgedistill.distill import decoder
from edgedistill.distill.batches import in_order
from edgedistill.distill.decoder import Importance
from edgedistill.distill.decoder_shape import BLOCKS, DecoderShape, shape_of, snap
from edgedistill.distill.examples import Example, encode
from edgedistill.distill.generative import PLAIN, Writer, trimmed_for
from edgedistill.errors import InputError
from edgedistill.store import Output, Store, canonical
from edgedistill.tasks.task import Row, Task
from edgedistill.teachers.causal import tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_FOR_INFLUENCE = 16
ROWS_FOR_IMPORTANCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A student before it is made.

    Attributes:
        of: the sizes of the teacher.
        widths: why the student's are what they are, one sentence for each that is not the teacher's.
        importance: which widths of the teacher matter; None when all of them stay.
    """

    of: DecoderShape
    shape: DecoderShape
    widths: tuple[str, ...]
    importance: Importance | None

    def __str__(self) -> str:
        numbers = ", ".join(str(layer + 1) for layer in self.shape.layers)
        return "; ".join(
            (
                f"student: {len(self.shape.layers)} of {len(self.of.layers)} layers ({numbers}), "
                "those that change most what passes through them",
                *self.widths,
                f"{self.shape.vocabulary} of {self.of.vocabulary} pieces: what the rows use, and every byte",
            )
        )


def piece_for(
    teacher: Writer, task: Task, train: Sequence[Row], rows: str, request: Request, *, store: Store
) -> tuple[Piece, Output]:
    """The student that is made of a teacher: half of its layers at its widths, unless the user says.

    Which layers: the first, the last, and those that change what passes through them most (`decoder.influence`). Which
    widths: those that do most on training rows (`decoder.importance_of`), as many as `decoder_shape.snap` makes of what
    was asked for.

    Args:
        rows: hash of the rows.

    Raises:
        InputError: the student would be wider than its teacher, or of a width that its family cannot have.
    """
    wanted = request.student
    inputs = {
        "teacher": teacher.sha256,
        "task": task.name,
        "rows": rows,
        "layers": wanted.layers,
        "width": wanted.width,
        "ffn": wanted.ffn,
        "vocabulary": wanted.vocabulary,
        "max_tokens": request.data.max_tokens,
    }

    def produce(folder: Path, _: Path) -> None:
        model = decoder.load_student(teacher.folder)
        tokenizer = tokenizer_of(teacher.folder)
        full = shape_of(model)
        student, said = sizes_for(full, tokenizer, task, train, request)
        _check(model, full, student.hidden)
        count = len(student.layers)
        fitting = (
            encode(tokenizer, task.messages(row, PLAIN), str(task.gold(row)), request.data.max_tokens) for row in train
        )
        usable = (example.ids for example in fitting if isinstance(example, Example))
        sample = list(itertools.islice(usable, ROWS_FOR_IMPORTANCE))
        found = decoder.influence(model, sample[:ROWS_FOR_INFLUENCE])
        between = sorted(full.layers[1:-1], key=lambda layer: -found[layer])[: max(count - 2, 0)]
        layers = sorted({full.layers[-1], *full.layers[: count - 1][:1], *between})
        student = replace(student, layers=tuple(layers))
        (folder / "shapes.json").write_bytes(canonical([asdict(full), asdict(student), said]))
        if (student.hidden, student.ffn) != (full.hidden, full.ffn):
            save_file(asdict(decoder.importance_of(model, in_order(sample, 0))), folder / "importance.safetensors")

    output = store.get("shape", inputs, produce)
    *shapes, widths = json.loads((output.path / "shapes.json").read_text(encoding="utf-8"))
    full, student = (
        DecoderShape(**{**found, "layers": tuple(found["layers"]), "biases": tuple(found["biases"])})
        for found in shapes
    )
    measured = output.path / "importance.safetensors"
    importance = Importance(**load_file(measured)) if measured.exists() else None
    return Piece(of=full, shape=student, widths=tuple(widths), importance=importance), output


def sizes_for(
    full: DecoderShape, tokenizer: Any, task: Task, train: Sequence[Row], request: Request
) -> tuple[DecoderShape, list[str]]:
    """How many layers a student has, how wide they are and how many pieces it knows.

    Args:
        full: the sizes of the teacher, with its tokenizer.

    Returns:
        The sizes, with the first layers, since the teacher is not asked which; and a sentence on each width that is
        not the teacher's.

    Raises:
        InputError: the student would be wider than its teacher.
    """
    wanted = request.student
    hidden, of_hidden = _width("width", wanted.width, full.hidden)
    ffn, of_ffn = _width("ffn", wanted.ffn, full.ffn)
    count = min(wanted.layers or -(-len(full.layers) // 2), len(full.layers))
    said = [reason for reason in (of_hidden, of_ffn) if reason is not None]
    pieces = len(trimmed_for(tokenizer, task, train, request).kept)
    return replace(full, layers=full.layers[:count], hidden=hidden, ffn=ffn, vocabulary=pieces), said


def _width(key: str, wanted: int | None, limit: int) -> tuple[int, str | None]:
    """The width that a student gets, and what to say of it."""
    if wanted is None:
        return limit, None
    if wanted > limit:
        raise InputError(
            f"[student] {key} is {wanted}, and the teacher has no more than {limit}",
            hint=f"choose at most {limit}, or leave it out",
        )
    packed = limit % BLOCKS["k-quants"] == 0 and wanted >= BLOCKS["k-quants"]
    width, why = snap(wanted, limit, "k-quants" if packed else "4-bit blocks")
    what = {"width": "hidden dimensions", "ffn": "inner units of each layer"}[key]
    return width, f"{width} of {limit} {what}, those that do most on the rows ({why})"


def _check(model: PreTrainedModel, full: DecoderShape, hidden: int) -> None:
    """Refuses a width that the family cannot have, before the teacher is asked anything."""

    def problem(width: int) -> InputError | None:
        try:
            decoder.config_for(model, replace(full, hidden=width))
        except InputError as error:
            return error
        return None

    if (refused := problem(hidden)) is not None:
        block = BLOCKS["4-bit blocks"]
        others = [width for width in range(block, full.hidden, block) if problem(width) is None]
        possible: Any = ", ".join(map(str, others)) or "none below the teacher's"
        raise InputError(
            f"[student] width cannot be {hidden}: {refused}", hint=f"widths that this family can have: {possible}"
        ) from refused
