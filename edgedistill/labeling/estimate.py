"""What a labelling run would ask and cost, without asking anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill import tasks
from edgedistill.config import Request
from edgedistill.labeling import gather
from edgedistill.labeling.asking import Asking, asking
from edgedistill.labeling.cost import MILLION, Price, prompt_tokens
from edgedistill.labeling.journal import Journal
from edgedistill.tasks.task import Unusable
from edgedistill.types import Progress, silent

SHORTEST = 0.45
"""Prompts have at least this share of the tokens that are reckoned with, which are an upper estimate."""
LEAST_ANSWER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What one teacher would be asked.

    Attributes:
        requests: new ones; `known` are in the journal already and cost nothing.
        prompt_tokens: (low, high) over all new requests.
        answer_tokens: (low, high); high is what `max_tokens` allows, unless answers in the journal show the usual.
        usd: (low, high), or None when nobody knows the price.
        basis: where the numbers of tokens come from.
    """

    teacher: str
    requests: int
    known: int
    prompt_tokens: tuple[int, int]
    answer_tokens: tuple[int, int]
    usd: tuple[float, float] | None
    basis: str
    signal: str


def estimate(
    request: Request,
    journal: Journal,
    *,
    work: Path,
    environment: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> list[Forecast]:
    """Goes through the rows as a run would, up to the goal, and adds up what their requests would cost.

    Raises:
        InputError: rows or teachers cannot be used.
    """
    task = tasks.find(request.task)
    gathered = gather.gather(task, request.data, request.gates, work, progress)
    made = asking(request, gathered.labels, _NoKeys() if environment is None else environment)
    journal.job = gather.job(request.label, gathered)
    prompts = dict.fromkeys(made.teachers, 0)
    new = dict.fromkeys(made.teachers, 0)
    known = dict.fromkeys(made.teachers, 0)
    seen: set[str] = set()
    for split, path in gathered.files.items():
        goal = request.label.rows if split in gather.RELABELLED else None
        for number, candidate in enumerate(gather.candidates(path)):
            if goal is not None and number >= goal:
                break
            if task.has_answer(candidate.row) and not (request.label.relabel and split in gather.RELABELLED):
                continue
            try:
                requests = made.requests(candidate.row)
            except Unusable:
                continue
            for name, ask in requests:
                if ask.key in seen:
                    continue
                seen.add(ask.key)
                if journal.find(ask.key) is not None:
                    known[name] += 1
                else:
                    new[name] += 1
                    prompts[name] += prompt_tokens(ask)
    return [
        _forecast(name, made, new[name], known[name], prompts[name], journal.usual(made.teachers[name].name))
        for name in made.teachers
    ]


class _NoKeys(dict[str, str]):
    """Stands in for the environment: what asks nothing needs no key."""

    def get(self, key: str, default: Any = None) -> Any:
        """Any name has a value."""
        return "not needed"


def _forecast(
    name: str, made: Asking, requests: int, known: int, prompts: int, usual: tuple[int, float, float] | None
) -> Forecast:
    if usual is None:
        answers = (requests * LEAST_ANSWER, requests * made.max_tokens)
        basis = f"from the letters of the prompts and max_tokens = {made.max_tokens}"
        read = (round(prompts * SHORTEST), prompts)
    else:
        count, one_read, one_written = usual
        read = (round(0.8 * requests * one_read), round(1.2 * requests * one_read))
        answers = (round(0.8 * requests * one_written), round(1.2 * requests * one_written))
        basis = f"from {count} answers in the journal"
    price = made.prices[name]
    return Forecast(
        teacher=name,
        requests=requests,
        known=known,
        prompt_tokens=read,
        answer_tokens=answers,
        usd=None if price is None else _usd(price, read, answers, batch=made.settings[name].batch),
        basis=basis,
        signal=made.signals[name],
    )


def _usd(price: Price, read: tuple[int, int], written: tuple[int, int], *, batch: bool) -> tuple[float, float]:
    factor = (price.batch if batch else 1.0) / MILLION
    low, high = ((r * price.input + w * price.output) * factor for r, w in zip(read, written, strict=True))
    return low, high
