"""The clients of a run: one for each teacher, with one budget for all."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from edgedistill.config import Label
from edgedistill.labeling.asking import Asking
from edgedistill.labeling.client import Client, Settings
from edgedistill.labeling.cost import Budget
from edgedistill.labeling.journal import Journal
from edgedistill.labeling.loop import Loop
from edgedistill.teachers.provider_batch import OpenAIBatch


def clients_of(
    settings: Label, made: Asking, journal: Journal, loops: Sequence[Loop], pause_s: float = 1.0
) -> tuple[dict[str, Client], Budget]:
    """Makes the clients of a run.

    Args:
        loops: those that run now; they are woken when a client waits for money.
        pause_s: the first pause after a failed request.
    """
    budget = Budget(limit=settings.budget, spent=journal.spent())

    def poor() -> None:
        for loop in loops:
            loop.woken()

    clients = {}
    for name, teacher in made.teachers.items():
        own = made.settings[name]
        patience = Settings(retries=own.retries, pause_s=pause_s, batch=own.batch)
        clients[name] = Client(teacher, journal, budget, made.prices[name], patience, poor)
        if isinstance(teacher, OpenAIBatch):
            teacher.book = journal
    return clients, budget


@contextlib.asynccontextmanager
async def closed(clients: Mapping[str, Client]) -> AsyncIterator[None]:
    """Ends all calls and connections when the block ends."""
    try:
        yield
    finally:
        for client in clients.values():
            await client.close()
