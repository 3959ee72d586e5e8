"""The labelling stage: rows that lack an answer get a teacher's, and every row that is written was accepted.

    files ─► gather ─► candidates ─► loop (teachers, journal, gates) ─► train.jsonl … rejected.jsonl ledger.json

Validation and test rows that have an answer keep it; training rows too, unless `relabel` asks the teacher about them
all: then their own answers are what the teacher's are checked against.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from edgedistill import tasks
from edgedistill.config import Request
from edgedistill.data.curate import Balance, gate, load_accept
from edgedistill.data.read import Rejected
from edgedistill.labeling import gather
from edgedistill.labeling.asking import Asking, asking
from edgedistill.labeling.client import Client
from edgedistill.labeling.clients import clients_of, closed
from edgedistill.labeling.cost import Budget
from edgedistill.labeling.journal import Journal
from edgedistill.labeling.loop import Candidate, Loop, Tally
from edgedistill.store import canonical
from edgedistill.tasks.task import Task
from edgedistill.types import Progress, silent

JOURNAL = "journal.sqlite"
REJECTED = "rejected.jsonl"
LEDGER = "ledger.json"
LOCAL_HOSTS = ("http://127.0.0.1", "http://localhost", "http://[::1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What a labelling run came to.

    Attributes:
        complete: False when the money or the rows ran out before the goal; then the folder holds what there is.
        ledger: counts, costs and reasons, as in `ledger.json`.
    """

    folder: Path
    complete: bool
    ledger: Mapping[str, Any]


def label(
    request: Request,
    folder: Path,
    journal: Journal,
    *,
    work: Path,
    environment: Mapping[str, str] | None = None,
    progress: Progress = silent,
    pause_s: float = 1.0,
) -> Labelled:
    """Labels the rows of a request.

    Args:
        folder: an empty folder for the result.
        journal: what was answered before, and where answers are kept.
        work: for candidates.
        environment: where keys of endpoints are looked up; the process's own without one.
        pause_s: the first pause after a failed request.

    Raises:
        InputError: rows or teachers cannot be used.
        StageError: too few answers are usable, or a teacher does not answer; the journal keeps what there is.
    """
    task = tasks.find(request.task)
    if request.label.workers:
        from edgedistill.labeling import cluster

        own = request.label
        cluster.answer(request, journal, work=work, workers=own.workers, address=own.address, progress=progress)
    gathered = gather.gather(task, request.data, request.gates, work, progress)
    made = asking(request, gathered.labels, environment)
    return asyncio.run(_label(request, made, gathered, folder, journal, progress, pause_s))


async def _label(
    request: Request,
    made: Asking,
    gathered: gather.Gathered,
    folder: Path,
    journal: Journal,
    progress: Progress,
    pause_s: float,
) -> Labelled:
    settings = request.label
    journal.job = gather.job(settings, gathered)
    loops: list[Loop] = []
    clients, budget = clients_of(settings, made, journal, loops, pause_s)
    tallies: dict[str, Tally] = {}
    kept: dict[str, int] = {}
    check = gate(made.task, request.gates, load_accept(request.gates.accept))
    async with closed(clients):
        with _Files(folder) as files:
            for rejected in gathered.rejected:
                files.rejected_before(rejected)
            for split, path in gathered.files.items():
                everything = settings.relabel and split in gather.RELABELLED
                goal, share = (settings.rows, request.gates.balance) if split in gather.RELABELLED else (None, 1.0)
                loop = Loop(
                    asking=made,
                    clients=clients,
                    gate=check,
                    balance=Balance(share, len(made.style.labels)),
                    goal=goal,
                    min_success=settings.min_success,
                    sink=files.of("rows" if split == "all" else split),
                    progress=progress,
                    total=gathered.counts[split],
                    spent=lambda: budget.spent,
                )
                loops[:] = [loop]
                kept[split] = 0
                rows = _without_answer(made.task, path, files, split, everything, kept)
                tallies[split] = await loop.run(rows)
                if tallies[split].stopped is not None:
                    break
    ledger = _ledger(made, gathered, tallies, kept, clients, journal, budget)
    (folder / LEDGER).write_bytes(canonical(ledger))
    complete = all(tally.stopped is None for tally in tallies.values())
    return Labelled(folder=folder, complete=complete, ledger=ledger)


def _without_answer(
    task: Task, path: Path, files: _Files, split: str, everything: bool, kept: dict[str, int]
) -> Iterator[Candidate]:
    """The candidates that a teacher is asked about; rows that keep their own answer are written at once."""
    number = 0
    for candidate in gather.candidates(path):
        if task.has_answer(candidate.row) and not everything:
            files.of("rows" if split == "all" else split).accepted(candidate.row)
            kept[split] += 1
        else:
            yield Candidate(number=number, source=candidate.source, row=candidate.row)
            number += 1


def _ledger(
    made: Asking,
    gathered: gather.Gathered,
    tallies: Mapping[str, Tally],
    kept: Mapping[str, int],
    clients: Mapping[str, Client],
    journal: Journal,
    budget: Budget,
) -> dict[str, Any]:
    """What was asked, what came of it and what it cost, for the report, the model card and people."""
    accounts = journal.accounts()
    teachers = {}
    for name, client in clients.items():
        account = accounts.get(client.answerer.name)
        known = made.prices[name]
        teachers[name] = {
            "answered": 0 if account is None else account.answered,
            "unanswered": 0 if account is None else account.unanswered,
            "attempts": 0 if account is None else account.attempts,
            "prompt_tokens": 0 if account is None else account.prompt_tokens,
            "completion_tokens": 0 if account is None else account.completion_tokens,
            "usd": None if known is None else (account.usd or 0.0) if account else 0.0,
            "lost_usd": 0.0 if account is None else account.lost_usd,
            "price": None if known is None else {"input": known.input, "output": known.output, "source": known.source},
            "enforces_form": client.answerer.enforces,
            "signal": made.signals[name],
            "reused": client.counts.reused,
            "asked_now": client.counts.asked,
        }
    splits = {
        split: {
            "candidates": gathered.counts[split],
            "kept": kept[split],
            "decided": tally.decided,
            "accepted": tally.accepted,
            "rejected": tally.rejected,
            "failed": tally.failed,
            "usable": tally.usable,
            "reasons": dict(tally.reasons.most_common()),
            "examples": tally.examples,
            "by_teacher": dict(tally.by_teacher),
            "agreement": tally.agreed[0] / tally.agreed[1] if tally.agreed[1] else None,
            "compared": int(tally.agreed[1]),
            "labels": dict(tally.labels.most_common()),
            "stopped": tally.stopped,
            "seconds": tally.seconds,
        }
        for split, tally in tallies.items()
    }
    return {
        "task": made.task.name,
        "labels": len(made.style.labels),
        "splits": splits,
        "teachers": teachers,
        "spent_usd": budget.spent,
        "budget_usd": budget.limit,
        "other_fields": [] if gathered.answered else sorted(gathered.other_fields)[:6],
        "duplicates": gathered.duplicates,
        "leaks": gathered.leaks,
        "unusable": len(gathered.rejected) - gathered.duplicates - gathered.leaks,
    }


class _Sink:
    """The rows of one split, on their way to disk."""

    def __init__(self, file: TextIO, rejected: TextIO) -> None:
        self._file, self._rejected = file, rejected

    def accepted(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def rejected(self, source: str, reason: str, row: Mapping[str, Any]) -> None:
        self._rejected.write(json.dumps({"source": source, "reason": reason, "row": row}, ensure_ascii=False) + "\n")


class _Files:
    """The files of a result, open while a run lasts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, TextIO] = {}

    def __enter__(self) -> Self:
        self._rejected = (self._folder / REJECTED).open("w", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for file in (*self._open.values(), self._rejected):
            file.close()

    def of(self, split: str) -> _Sink:
        """Where the rows of a split go."""
        if split not in self._open:
            self._open[split] = (self._folder / f"{split}.jsonl").open("w", encoding="utf-8")
        return _Sink(self._open[split], self._rejected)

    def rejected_before(self, rejected: Rejected) -> None:
        """Notes a row that was never asked about."""
        line = {"source": f"{rejected.file}:{rejected.line}", "reason": rejected.reason}
        self._rejected.write(json.dumps(line, ensure_ascii=False) + "\n")
