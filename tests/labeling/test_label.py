"""The labelling stage against a real endpoint: what is accepted, what is paid for, and what survives faults."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from edgedistill.errors import InputError, StageError
from edgedistill.labeling.journal import Journal
from tests.labeling.conftest import Run, Write, request, written
from tests.labeling.server import FAULTS, Endpoint, label_of

KEY = "sk-planted-4f1d9c2b7a"


def test_every_row_gets_the_answer_to_its_own_text(rows: Write, run: Run) -> None:
    with Endpoint().running() as endpoint:
        done = run(request(rows(200), endpoint.url))
    found = written(done.folder)
    assert len(found) == 200
    assert all(row["label"] == label_of(row["text"]) and row["teacher"] == "stub" for row in found)
    assert [row["text"].split()[2] for row in found] == [str(n) for n in range(200)]
    assert done.complete
    assert done.ledger["teachers"]["stub"]["answered"] == 200


def test_a_second_run_asks_for_nothing(rows: Write, run: Run) -> None:
    with Endpoint().running() as endpoint:
        first = run(request(rows(50), endpoint.url))
        second = run(request(rows(50), endpoint.url))
        assert endpoint.accepted.total() == 50
    assert written(first.folder) == written(second.folder)
    assert second.ledger["teachers"]["stub"]["asked_now"] == 0


def test_identical_requests_are_asked_once(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "the same"}\n' * 40)
    with Endpoint(delay_s=0.02).running() as endpoint:
        done = run(request(path, endpoint.url))
        assert endpoint.accepted.total() == 1
    assert len(written(done.folder)) == 40


@pytest.mark.timeout(120)
def test_thirty_percent_faults_leave_exactly_the_rows_wanted_and_none_paid_twice(rows: Write, run: Run) -> None:
    endpoint = Endpoint(faults=FAULTS, share=0.3, seed=5, unusable=10)
    ask = {"teacher": {"timeout_s": 0.5, "retries": 12, "price": {"input": 100.0, "output": 100.0}}}
    with endpoint.running():
        done = run(request(rows(500), endpoint.url, rows=300, budget=10.0, **ask))
    found = written(done.folder)
    assert len(found) == 300
    assert all(row["label"] == label_of(row["text"]) for row in found)
    assert set(endpoint.failed) == set(FAULTS)
    assert max(endpoint.accepted.values()) == 1
    ledger = done.ledger["teachers"]["stub"]
    assert ledger["usd"] == pytest.approx(endpoint.accepted.total() * 58 * 100 / 1e6)
    assert done.ledger["spent_usd"] <= 10.0


def test_what_is_accepted_does_not_depend_on_faults(rows: Write, run: Run, tmp_path: Path) -> None:
    with Endpoint(unusable=10).running() as endpoint:
        calm = run(request(rows(200), endpoint.url, rows=120), tmp_path / "calm.sqlite")
        asked = set(endpoint.accepted)
    with Endpoint(unusable=10, faults=("error", "reset", "busy"), share=0.3).running() as endpoint:
        rough = run(request(rows(200), endpoint.url, rows=120), tmp_path / "rough.sqlite")
        assert set(endpoint.accepted) == asked
    assert written(calm.folder) == written(rough.folder)


def test_the_budget_is_not_exceeded_and_more_money_goes_on(rows: Write, run: Run) -> None:
    price = {"teacher": {"price": {"input": 1000.0, "output": 1000.0}}, "max_tokens": 16}
    with Endpoint().running() as endpoint:
        poor = run(request(rows(60), endpoint.url, budget=1.0, **price))
        spent = endpoint.accepted.total() * 58 * 1000 / 1e6
        assert not poor.complete
        assert spent == pytest.approx(poor.ledger["spent_usd"])
        assert spent <= 1.0
        assert 0 < len(written(poor.folder)) < 60
        rich = run(request(rows(60), endpoint.url, budget=100.0, **price))
        assert rich.complete
        assert max(endpoint.accepted.values()) == 1
    assert written(rich.folder)[: len(written(poor.folder))] == written(poor.folder)


def test_a_budget_without_a_price_is_refused_before_anything_is_asked(rows: Write, run: Run) -> None:
    wanted = request(rows(5), "https://somewhere.example/v1", budget=1.0)
    with pytest.raises(InputError, match="nobody knows what 'stub' costs"):
        run(wanted)


def test_too_few_usable_answers_stop_the_run_early(rows: Write, run: Run) -> None:
    with Endpoint(unusable=80).running() as endpoint:
        with pytest.raises(StageError, match="less than min_success"):
            run(request(rows(1000), endpoint.url))
        assert endpoint.accepted.total() < 250


def test_a_wrong_address_costs_a_few_tries(rows: Write, run: Run) -> None:
    with pytest.raises(StageError, match="the first request to stub failed: cannot connect"):
        run(request(rows(5), "http://127.0.0.1:9/v1"))


def test_a_dead_endpoint_ends_the_run_and_keeps_what_was_answered(rows: Write, run: Run, tmp_path: Path) -> None:
    endpoint = Endpoint(faults=("error",))
    with endpoint.running():
        run(request(rows(20), endpoint.url))
        endpoint.share = 1.0
        (tmp_path / "rows.jsonl").write_text((tmp_path / "rows.jsonl").read_text() + '{"text": "one more"}\n')
        with pytest.raises(StageError):
            run(request(tmp_path / "rows.jsonl", endpoint.url, teacher={"retries": 2}))
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert journal.states()["answered"] == 20


def test_an_endpoint_that_says_busy_is_asked_less_at_once(rows: Write, run: Run) -> None:
    with Endpoint(faults=("busy",), share=0.2, delay_s=0.01).running() as endpoint:
        done = run(request(rows(300), endpoint.url))
        assert endpoint.most_at_once < 64
    assert len(written(done.folder)) == 300


def test_rows_that_differ_only_in_the_system_message_stay_apart(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "rows.jsonl"
    turns = [
        [{"role": "system", "content": f"You are {name}."}, {"role": "user", "content": "Who are you?"}]
        for name in ("Ann", "Bob")
    ]
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    with Endpoint().running() as endpoint:
        run(request(path, endpoint.url, task="conversation", labels=[]))
        assert len(set(endpoint.keys)) == 2


def test_the_key_appears_nowhere(
    rows: Write, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLANTED", KEY)
    with Endpoint(faults=FAULTS, share=0.3).running() as endpoint:
        teacher = {"key_env": "PLANTED", "timeout_s": 0.3, "retries": 12}
        run(request(rows(60), endpoint.url, teacher=teacher))
    with pytest.raises(StageError) as raised:
        run(request(rows(2), "http://127.0.0.1:9/v1", teacher={"key_env": "PLANTED"}), tmp_path / "other.sqlite")
    import traceback

    told = "".join(traceback.format_exception(raised.value)) + "".join(capfd.readouterr())
    assert KEY not in told
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(Exception, match="cannot be read"):
        Journal(path)


def test_journals_merge_without_loss(rows: Write, run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    with Endpoint().running() as endpoint:
        run(request(rows(30), endpoint.url), first)
        run(request(rows(50), endpoint.url), second)
        with Journal(first) as journal:
            assert journal.merge(second) == 20
            assert journal.merge(second) == 0
        done = run(request(rows(50), endpoint.url), first)
    assert done.ledger["teachers"]["stub"]["asked_now"] == 0
    with sqlite3.connect(first) as db:
        assert db.execute("SELECT COUNT(*) FROM requests WHERE state = 'answered'").fetchone() == (50,)
