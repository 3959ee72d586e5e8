"""The answers of two checkpoints before a blind judge: what `edgedistill evaluate` asks when `[judge]` is set."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgedistill import tasks
from edgedistill.config import Judge
from edgedistill.errors import BudgetMissed
from edgedistill.labeling.asking import price
from edgedistill.labeling.client import Client, Settings
from edgedistill.labeling.cost import Budget
from edgedistill.labeling.journal import Journal
from edgedistill.labeling.label import JOURNAL
from edgedistill.stages import Run
from edgedistill.store import digest
from edgedistill.teachers.choose import choose
from edgedistill.types import Ask, Progress

if TYPE_CHECKING:
    from edgedistill.evaluate.evaluate import Evaluated
    from edgedistill.evaluate.judge import Judged, Pair


def judge(run: Run, settings: Judge, rows: Sequence[dict[str, Any]], found: Evaluated) -> Judged:
    """Which of the student's and the teacher's answers the judge finds better. It is told no names.

    Every reply goes into the journal of labelling, so a second evaluation pays for nothing.

    Args:
        rows: those that were evaluated, with the fields of the task.

    Raises:
        InputError: the judge cannot be used, or has a budget and no known price.
        BudgetMissed: its questions may cost more than there is; nothing was asked.
        StageError: it gave no verdict that can be read.
    """
    from edgedistill.evaluate.judge import Pair

    answers = found.answers
    pairs = [
        Pair(row=rows[number], first=first, second=second)
        for number, first, second in zip(found.used, answers["student"], answers["teacher"], strict=True)
    ]
    with run.stage("judge") as stage, Journal(run.store.root / JOURNAL) as journal:
        judged, client = asyncio.run(_asked(run, settings, pairs, journal, stage.progress))
        stage.cached = not client.counts.asked
        stage.note = f"{settings.title}: {client.counts.asked} asked, {client.counts.reused} known, "
        stage.note += "price unknown" if client.price is None else f"${journal.spent():.4g}"
    return judged


async def _asked(
    run: Run, settings: Judge, pairs: Sequence[Pair], journal: Journal, progress: Progress
) -> tuple[Judged, Client]:
    from edgedistill.evaluate.judge import judge as judging
    from edgedistill.evaluate.judge import request

    task = tasks.find(run.request.task)
    cost = price(settings, run.request.label.model_copy(update={"budget": settings.budget}))
    answerer = choose(settings, ())
    journal.job = digest({"judge": answerer.identity, "task": task.name})
    budget = Budget(limit=settings.budget, spent=journal.spent())
    # What is sent was reckoned to fit; money is short only when requests were lost that may have been paid for.
    client: Client = Client(
        answerer, journal, budget, cost, Settings(retries=settings.retries), poor=lambda: client.drop_waiting()
    )
    try:
        # Equal answers are a tie without asking.
        open_ = [pair for pair in pairs if pair.first.strip() != pair.second.strip()]
        asks = [request(task, pair, answerer.identity, swapped=swapped) for pair in open_ for swapped in (False, True)]
        most = 0.0 if cost is None else sum(cost.most(ask) for ask in _new(asks, journal))
        if settings.budget is not None and budget.spent + most > settings.budget:
            raise BudgetMissed(
                f"judging {len(pairs)} rows may cost ${most:.4g}, and ${settings.budget - budget.spent:.4g} are left",
                hint="take fewer rows with --rows, or raise [judge] budget",
            )
        seed = run.request.seed
        told = await judging(task, pairs, client.ask, identity=answerer.identity, seed=seed, progress=progress)
        return told, client
    finally:
        await client.close()


def _new(asks: Sequence[Ask], journal: Journal) -> list[Ask]:
    """What has not been answered before, each once."""
    return [ask for ask in {ask.key: ask for ask in asks}.values() if journal.find(ask.key) is None]
