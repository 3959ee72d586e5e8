"""The journal: what it keeps, what it adds up, and what a damaged end of it costs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgedistill.errors import IntegrityError
from edgedistill.labeling.journal import Journal, reply_of, text_of
from edgedistill.types import Ask, Reply


def ask(key: str) -> Ask:
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": key})
    return Ask(key=key, messages=messages, schema=None, max_tokens=8, temperature=0.0)


def reply(text: str = "yes") -> Reply:
    return Reply(text=text, finish="stop", prompt_tokens=10, completion_tokens=2, id="x")


@pytest.mark.parametrize(
    "given",
    [
        reply(),
        reply("ünï\u2028\ud7ff \x00 end"),
        Reply(text="", finish="length", prompt_tokens=0, completion_tokens=0),
        Reply(
            text="a b",
            finish="refusal",
            prompt_tokens=1,
            completion_tokens=2,
            tokens=("a", " b"),
            top_logprobs=({"a": -0.1, "c": -3.0}, {" b": -0.2}),
            probabilities={"on": 0.25, "off": 0.75},
        ),
    ],
)
def test_a_reply_comes_back_as_it_was(given: Reply) -> None:
    assert reply_of(text_of(given)) == given


def test_an_answer_is_kept_for_ever_and_a_later_one_changes_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.send("big", [ask("a")])
        assert journal.find("a") is None
        journal.answer([("a", reply("first"), 0.5)])
        journal.send("big", [ask("a")])
        journal.fail("a", "too late", charged=True)
        journal.answer([("a", reply("second"), 9.0)])
    with Journal(tmp_path / "j.sqlite") as journal:
        found = journal.find("a")
        assert found is not None
        assert found.text == "first"
        assert journal.spent() == pytest.approx(0.5)


def test_attempts_without_an_answer_count_as_paid_when_they_may_have_been(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.send("big", [ask("refused")], [1.0])
        journal.fail("refused", "status 500", charged=False)
        assert journal.spent() == 0
        journal.send("big", [ask("broken")], [1.0])
        journal.fail("broken", "reset", charged=True)
        assert journal.spent() == pytest.approx(1.0)
        journal.send("big", [ask("broken")], [1.0])
        journal.answer([("broken", reply(), 0.25)])
        assert journal.spent() == pytest.approx(1.25)
        journal.send("big", [ask("killed")], [2.0])  # a kill leaves it as sent
    with Journal(tmp_path / "j.sqlite") as journal:
        assert journal.spent() == pytest.approx(3.25)
        account = journal.accounts()["big"]
        assert (account.answered, account.unanswered, account.attempts) == (1, 2, 4)
        journal.job = "another"
        assert journal.spent() == 0


def test_entries_travel_between_journals(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.sqlite") as one, Journal(tmp_path / "b.sqlite") as other:
        for key in ("x", "y", "z"):
            one.send("big", [ask(key)], [0.5])
        one.answer([("x", reply("from one"), 0.1), ("y", reply(), 0.1)])
        other.send("big", [ask("x")])
        other.answer([("x", reply("from other"), 0.2)])
        other.send("big", [ask("y")])
        assert other.take(one.entries(["x", "y", "z", "unknown"])) == 1
        assert other.states() == {"answered": 2, "sent": 1}
        kept = other.find("x")
        assert kept is not None
        assert kept.text == "from other"


def test_a_journal_that_another_process_is_about_to_make_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "begun.sqlite").touch()
    with Journal(tmp_path / "own.sqlite") as own:
        assert own.merge(tmp_path / "begun.sqlite") == 0
        with Journal(tmp_path / "begun.sqlite") as begun:
            begun.send("big", [ask("x")])
        assert own.merge(tmp_path / "begun.sqlite") == 0
        assert own.states() == {"sent": 1}


def test_a_batch_is_open_until_it_is_fetched(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.open_batch("batch_1", "big", ["a", "b"])
    with Journal(tmp_path / "j.sqlite") as journal:
        assert journal.open_batches("big") == [("batch_1", ["a", "b"])]
        assert journal.open_batches("small") == []
        journal.close_batch("batch_1")
        assert journal.open_batches("big") == []


def test_a_log_cut_off_anywhere_loses_its_last_answers_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "whole.sqlite"
    journal = Journal(source)
    for number in range(12):
        journal.send("big", [ask(str(number))])
        journal.answer([(str(number), reply(f"answer {number}"), None)])
    log = source.with_name("whole.sqlite-wal").read_bytes()
    counts = []
    for end in range(0, len(log), max(1, len(log) // 60)):
        copy = tmp_path / "cut.sqlite"
        for path in tmp_path.glob("cut.sqlite*"):
            path.unlink()
        shutil.copyfile(source, copy)
        copy.with_name("cut.sqlite-wal").write_bytes(log[:end])
        with Journal(copy) as cut:
            found = [cut.find(str(number)) for number in range(12)]
        known = [number for number, one in enumerate(found) if one is not None]
        assert known == list(range(len(known)))
        assert all(one.text == f"answer {number}" for number, one in enumerate(found) if one is not None)
        counts.append(len(known))
    assert counts == sorted(counts)
    assert counts[-1] > 6
    journal.close()


@pytest.mark.parametrize("content", [b"not a database at all, just text" * 64, b"SQLite format 3\x00" + b"\xff" * 4096])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="cannot be read"):
        Journal(path)
    assert path.read_bytes() == content
