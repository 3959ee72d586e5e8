"""A labelling run that is killed again and again ends with the rows of one that was not."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path

import pytest

from edgedistill.config import Request
from edgedistill.labeling import label
from edgedistill.labeling.journal import Journal
from tests import forks
from tests.labeling.conftest import Run, Write, request, written
from tests.labeling.server import Endpoint

KILLS = 50
ROWS = 500
IMPORTED = ("aiohttp", "edgedistill.teachers.api")


def answered(journal: Path) -> set[str]:
    """The keys whose answers a journal holds."""
    with sqlite3.connect(journal) as db:
        return {key for (key,) in db.execute("SELECT key FROM requests WHERE state = 'answered'")}


@pytest.mark.timeout(400)
def test_fifty_kills_change_no_row_and_no_answer_is_asked_for_twice(rows: Write, run: Run, tmp_path: Path) -> None:
    chance = random.Random(11)
    path = rows(ROWS)
    with Endpoint(unusable=5).running() as endpoint:
        whole = run(request(path, endpoint.url))
    folder = tmp_path / "killed"
    folder.mkdir()
    journal = folder / "journal.sqlite"
    with Endpoint(unusable=5, delay_s=0.02).running() as endpoint:
        wanted = request(path, endpoint.url, teacher={"concurrency": 4})
        again = (IMPORTED, folder, label_into, wanted.model_dump_json(), folder)
        for kill in range(KILLS):
            known = answered(journal) if journal.exists() else set()
            before = len(endpoint.keys)
            child = forks.start(*again)
            wait_for(endpoint, before + chance.randint(0, 2 * ROWS // KILLS - 4), child)
            time.sleep(chance.random() * 0.02)
            forks.kill(child)
            assert not known & set(endpoint.keys[before:]), f"kill {kill}: an answer was asked for again"
        assert 0 < len(answered(journal)) < ROWS, "the kills came too late or too early to say anything"
        child = forks.start(*again)
        child.join()
        assert child.exitcode == 0
        # What was under way at a kill is asked again, under the same Idempotency-Key; nothing else is.
        assert len(endpoint.charged) == ROWS
        assert len(endpoint.keys) <= ROWS + KILLS * 4
    assert written(folder / "out") == written(whole.folder)
    assert (folder / "out" / "rejected.jsonl").read_bytes() == (whole.folder / "rejected.jsonl").read_bytes()


def label_into(wanted: str, folder: Path) -> None:
    for name in ("out", "work"):
        (folder / name).mkdir(exist_ok=True)
    with Journal(folder / "journal.sqlite") as journal:
        label.label(Request.model_validate_json(wanted), folder / "out", journal, work=folder / "work", pause_s=0.02)


def wait_for(endpoint: Endpoint, asked: int, child: forks.Fork) -> None:
    """Waits until the endpoint was asked so often, or the child has ended."""
    while len(endpoint.keys) < asked and child.is_alive():
        time.sleep(0.002)
