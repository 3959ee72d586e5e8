"""Labelling on many machines: Ray Data spreads the asking, this process decides, so the rows are those of one machine.

    candidates ─► blocks ─► Ray actors, each with a journal of its own ─► entries ─► this journal ─► label, as always

What an actor asks goes through the same loop as on one machine. Its journal lies beside those of its neighbours, and an
actor that takes a dead one's place reads them first: what was answered is not asked again. Entries come back through
Ray, so no file system has to be shared.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill import tasks
from edgedistill.config import Request
from edgedistill.data.curate import Balance
from edgedistill.errors import MissingExtra
from edgedistill.labeling import gather
from edgedistill.labeling.asking import Asking, asking
from edgedistill.labeling.clients import clients_of, closed
from edgedistill.labeling.journal import Journal
from edgedistill.labeling.loop import Candidate, Loop
from edgedistill.types import Progress, silent

BLOCK_ROWS = 20_000
"""Rows that the driver hands to the cluster at once: what it holds in memory."""
BATCH_ROWS = 100
"""Rows that an actor answers between two reports: what a killed one may have to begin again, from its journal."""


class Actor:
    """Answers batches of rows on one worker of the cluster.

    Args:
        request: as JSON; its budget is this worker's share.
        labels: the classes.
        shards: where the workers of this machine keep their journals.
        job: what requests are booked under.
    """

    def __init__(self, request: str, labels: Sequence[str], shards: str, job: str) -> None:
        self._request = Request.model_validate_json(request)
        self._asking = asking(self._request, labels)
        folder = Path(shards)
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"{os.getpid()}.sqlite"
        others = [path for path in sorted(folder.glob("*.sqlite")) if path != own]
        self._journal = Journal(own)
        self._journal.job = job
        for other in others:
            self._journal.merge(other)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
        """Asks about a batch; gives back the journal's entries on it, as JSON."""
        rows = [json.loads(str(row)) for row in batch["row"]]
        asyncio.run(ask(self._request, self._asking, rows, self._journal))
        keys = [ask.key for row in rows for _, ask in requests_of(self._asking, row)]
        return {"entry": self._journal.entries(keys)}


def answer(
    request: Request,
    journal: Journal,
    *,
    work: Path,
    workers: int,
    address: str | None = None,
    progress: Progress = silent,
) -> int:
    """Has a cluster answer the rows of a request into the journal; a labelling run then finds every answer there.

    Args:
        workers: actors, each with its own connections or its own copy of a local teacher.
        address: of a running cluster, as `ray.init` takes it; without one a cluster is started here.

    Returns:
        How many answers are new.

    Raises:
        MissingExtra: Ray is not installed.
        InputError: rows or teachers cannot be used.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtra("ray", extra="ray") from error
    task = tasks.find(request.task)
    gathered = gather.gather(task, request.data, request.gates, work, silent)
    made = asking(request, gathered.labels)
    job = gather.job(request.label, gathered)
    journal.job = job
    share = request.label.budget
    if share is not None:
        share = max(0.0, share - journal.spent()) / workers
    told = request.model_copy(update={"label": request.label.model_copy(update={"budget": share})})
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    shards = work / "shards"
    new = done = 0
    total = gathered.counts.total()
    try:
        for block in blocks(request, made, gathered, journal):
            answered = (
                ray.data.from_items(block)
                .repartition(max(1, len(block) // BATCH_ROWS))
                .map_batches(
                    Actor,
                    fn_constructor_args=(told.model_dump_json(), list(made.style.labels), str(shards), job),
                    batch_size=BATCH_ROWS,
                    compute=ray.data.ActorPoolStrategy(size=workers),
                    num_cpus=1,
                )
            )
            for found in answered.iter_batches(batch_size=BATCH_ROWS, batch_format="numpy"):
                new += journal.take([str(entry) for entry in found["entry"]])
                done += len(found["entry"])
                progress(done, total, f"{new} answers from {workers} workers")
    finally:
        if started:
            ray.shutdown()
    for shard in sorted(shards.glob("*.sqlite")):
        new += journal.merge(shard)
    shutil.rmtree(shards, ignore_errors=True)
    return new


def blocks(
    request: Request, made: Asking, gathered: gather.Gathered, journal: Journal
) -> Iterator[list[dict[str, str]]]:
    """The rows that are still to be asked about, up to the goal, a block at a time."""

    def rows() -> Iterator[dict[str, str]]:
        for split, path in gathered.files.items():
            goal = request.label.rows if split in gather.RELABELLED else None
            everything = request.label.relabel and split in gather.RELABELLED
            wanted = (c for c in gather.candidates(path) if everything or not made.task.has_answer(c.row))
            for candidate in itertools.islice(wanted, goal):
                asks = requests_of(made, candidate.row)
                if any(journal.find(ask.key) is None for _, ask in asks):
                    yield {"row": json.dumps(candidate.row, ensure_ascii=False)}

    source = rows()
    while block := list(itertools.islice(source, BLOCK_ROWS)):
        yield block


def requests_of(made: Asking, row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The requests of a row; none when no teacher serves it."""
    try:
        return list(made.requests(row))
    except tasks.task.Unusable:
        return []


async def ask(request: Request, made: Asking, rows: Sequence[Mapping[str, Any]], journal: Journal) -> None:
    """Asks about rows through the loop of a labelling run, without judging the answers."""
    loops: list[Loop] = []
    clients, budget = clients_of(request.label, made, journal, loops)
    loop = Loop(
        asking=made,
        clients=clients,
        gate=lambda row, answer: None,
        balance=Balance(1.0, 1),
        goal=None,
        min_success=0.0,
        sink=_Nowhere(),
        progress=silent,
        total=len(rows),
        spent=lambda: budget.spent,
    )
    loops.append(loop)
    async with closed(clients):
        await loop.run(Candidate(number=n, source=str(n), row=row) for n, row in enumerate(rows))


class _Nowhere:
    """Decided rows are decided again where all answers are."""

    def accepted(self, row: Mapping[str, Any]) -> None:
        pass

    def rejected(self, source: str, reason: str, row: Mapping[str, Any]) -> None:
        pass
