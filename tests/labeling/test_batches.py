"""A labelling run through a provider's batches: one direct request, one batch for all others, half the price."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.labeling.conftest import Run, request, written
from tests.teachers.endpoint import serving
from tests.teachers.test_provider_batch import Provider


@pytest.mark.timeout(60)
def test_a_run_hands_in_one_batch_and_a_second_run_nothing(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "rows.jsonl"
    turns = [[{"role": "user", "content": f"Question {n}?"}] for n in range(30)]
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    provider = Provider(polls=1)
    with serving(provider) as endpoint:
        price = {"input": 1000.0, "output": 1000.0, "batch": 0.5}
        teacher = {"batch": True, "price": price}
        wanted = request(path, endpoint.url, task="conversation", labels=[], budget=100.0, teacher=teacher)
        first = run(wanted)
        second = run(wanted)
        assert provider.handed_in(endpoint) == 1
        assert [len(provider.requests(name)) for name in provider.batches] == [29]
    assert first.complete
    assert len(written(first.folder)) == 30
    assert written(first.folder) == written(second.folder)
    ledger = first.ledger["teachers"]["stub"]
    tokens = ledger["prompt_tokens"] + ledger["completion_tokens"]
    assert ledger["usd"] == pytest.approx(tokens * 1000 / 1e6 * 0.5)
