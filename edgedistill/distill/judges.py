"""Several decoders that judge the tokens of the same answers: what each of them said, and what it counts there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.config import Request, weighing
from edgedistill.config.weighing import DistillTeacher
from edgedistill.distill import router, signals
from edgedistill.distill.examples import Example
from edgedistill.distill.tokens import Judgement
from edgedistill.errors import PlanRefused
from edgedistill.store import Output
from edgedistill.teachers.causal import tokenizer_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A decoder in a folder, the hash of all that decides its answers, and what it said at the rows' tokens."""

    folder: Path
    sha256: str
    asked: Output


def judgements(
    judges: Sequence[Judge],
    examples: Sequence[Example],
    groups: Sequence[str],
    request: Request,
    *,
    vocabulary: int,
    kept: Sequence[int] | None,
) -> list[Judgement]:
    """What every teacher of a request said to a student's examples.

    Args:
        judges: in the order of the request's teachers.
        groups: each example's value of the column.
        vocabulary: number of the student's logits.
        kept: the teachers' ids of a trimmed student's pieces.

    Raises:
        IntegrityError: signals of another teacher, tokenizer, template, or of other rows.
    """
    weights = weighing.weights(request.teachers, request.distill.combine, groups)
    return [
        Judgement(
            signals=signals.read(
                judge.asked.path,
                signals.source_of(tokenizer_of(judge.folder), judge.sha256),
                examples,
                vocabulary=vocabulary,
                kept=kept,
            ),
            sampled=request.distill.signals == "sampled",
            weight=[of_row[number] for of_row in weights],
        )
        for number, judge in enumerate(judges)
    ]


def tokenizers_differ(first: Path, second: Path) -> str | None:
    """Why two decoders may write a conversation in other ids, or None when they never do."""
    both: list[Any] = [tokenizer_of(folder) for folder in (first, second)]
    if differ := router.same_tokenizer(*(tokenizer.backend_tokenizer for tokenizer in both)):
        return differ
    return None if both[0].chat_template == both[1].chat_template else "their chat templates differ"


def check_same_tokens(teachers: Sequence[DistillTeacher], folders: Sequence[Path]) -> None:
    """Refuses teachers whose tokens are not those of the first.

    Raises:
        PlanRefused: it names one of them, and what differs.
    """
    for teacher, folder in zip(teachers[1:], folders[1:], strict=True):
        if differ := tokenizers_differ(folders[0], folder):
            raise PlanRefused(
                f"{teacher.title} cannot teach beside the first teacher, token by token: {differ}",
                hint="take it out of [[distill.teachers]]; as one of the [[label.teachers]] it can write answers",
            )
