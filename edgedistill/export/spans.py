"""A file that points at answers, on questions with their contexts: the spans that it finds, and whose they are.

It is judged by the words of its spans, found as the runtime finds them, so windows and all count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding

from edgedistill.distill.batches import in_order
from edgedistill.export.ladder import Criterion
from edgedistill.export.parity import compare
from edgedistill.runtime.spans import Span, best
from edgedistill.store import digest
from edgedistill.tasks.qa import exact_match, token_f1
from edgedistill.types import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scores = NDArray[np.float32]
"""For an answer that starts and that ends at each piece, of all windows one after the other. Shape: [pieces, 2]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Contexts, and each question with its context in windows."""

    contexts: tuple[str, ...]
    windows: tuple[tuple[Encoding, ...], ...]

    @property
    def ids(self) -> list[list[int]]:
        """Of all windows, one after the other."""
        return [window.ids for read in self.windows for window in read]

    def apart(self, scores: Scores) -> list[Scores]:
        """The scores of each window."""
        return np.split(scores, np.cumsum([len(ids) for ids in self.ids])[:-1])

    def spans(self, scores: Scores) -> list[Span]:
        """The answer to each question."""
        parts = iter(self.apart(scores))
        return [
            best(read, [next(parts) for _ in read], context)
            for read, context in zip(self.windows, self.contexts, strict=True)
        ]


@torch.inference_mode()
def ask(
    model: PreTrainedModel, ids: Sequence[Sequence[int]], *, separator: int | None, progress: Progress = silent
) -> Scores:
    """What a checkpoint says to windows."""
    config: Any = model.config
    found: list[Scores] = [np.empty((0, 2), dtype=np.float32)] * len(ids)
    done = 0
    for batch in in_order(ids, config.pad_token_id or 0, separator=separator):
        out = model(**{name: value for name, value in batch.items() if name != "rows"})
        scores = torch.stack((out.start_logits, out.end_logits), dim=-1).float().numpy()
        for row, of_row in zip(batch["rows"].tolist(), scores, strict=True):
            found[row] = of_row[: len(ids[row])]
        done += len(batch["rows"])
        progress(done, len(ids))
    return np.concatenate(found)


def criterion(questions: Questions, said: Scores, answers: Sequence[str] | None) -> Criterion:
    """Token F1 of a file's answers, as SQuAD takes it; against the checkpoint's own where the rows have none.

    Args:
        said: the checkpoint's scores.
        answers: the rows' own.
    """
    own = questions.spans(said)
    wanted = [span.text for span in own] if answers is None else list(answers)

    def mean(found: Scores, score: Any) -> float:
        pairs = zip(questions.spans(found), wanted, strict=True)
        return float(np.mean([score(span.text, reference) for span, reference in pairs]))

    before = mean(said, exact_match)
    return Criterion(
        metric="agreement" if answers is None else "token F1",
        reference=mean(said, token_f1),
        outputs=2,
        figure=lambda found: mean(found, token_f1),
        parity=lambda found: compare_spans(questions, found, said),
        words=lambda found: f"; exact match {mean(found, exact_match):.4f}, before {before:.4f}",
        told={"contexts": digest(list(questions.contexts)), "answers": digest(wanted)},
    )


def compare_spans(questions: Questions, file: Scores, student: Scores) -> dict[str, float]:
    """How far two sets of scores are apart: `compare` of each window's starts and ends, over its pieces.

    Returns:
        As `compare`, but rows are questions, same_span is the share of them with the same span, and top1_agreement
        the share of those whose spans overlap: the edge of a span moves more easily than a label.
    """
    pairs = zip(questions.apart(file), questions.apart(student), strict=True)
    parts = [compare(found.T, own.T) for found, own in pairs]
    kl = np.array([part["kl"] for part in parts])
    both = list(zip(questions.spans(file), questions.spans(student), strict=True))
    return {
        "max_error": float(np.max([part["max_error"] for part in parts])),
        "mean_error": float(np.abs(file.astype(np.float64) - student).mean()),
        "cosine": float(np.mean([part["cosine"] for part in parts])),
        "kl": float(kl.mean()),
        "kl_error": float(kl.std(ddof=1) / math.sqrt(len(kl))) if len(kl) > 1 else 0.0,
        "top1_agreement": float(np.mean([a.start < b.end and b.start < a.end for a, b in both])),
        "same_span": float(np.mean([(a.start, a.end) == (b.start, b.end) for a, b in both])),
        "rows": float(len(both)),
    }
