"""A blind judge at a real endpoint on loopback: what it prefers counts only where it survives the swap."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from edgedistill.config import LabelTeacher
from edgedistill.errors import StageError
from edgedistill.evaluate.judge import Judged, Pair, judge, request, winner
from edgedistill.labeling.client import Client, Settings
from edgedistill.labeling.cost import FREE, Budget
from edgedistill.labeling.journal import Journal
from edgedistill.tasks import find
from edgedistill.teachers.choose import choose
from edgedistill.types import Reply
from tests.evaluate.judges import Judge, Verdict, longer, says

TALK = find("conversation")


def pair(number: int, first: str, second: str) -> Pair:
    row = {"messages": [{"role": "user", "content": f"Question {number}?"}]}
    return Pair(row=row, first=first, second=second)


PAIRS = [pair(n, "short", f"a much longer answer {n}") for n in range(4)] + [
    pair(n, f"the longest answer of all {n}", "short") for n in range(4, 10)
]


def judged(verdict: Verdict, pairs: list[Pair], journal: Path, seed: int = 0) -> tuple[Judged, Judge]:
    server = Judge()
    server.verdict = verdict

    async def run(url: str, book: Journal) -> Judged:
        answerer = choose(LabelTeacher(kind="openai", model="stub", base_url=url, name="judge"), ())
        client = Client(answerer, book, Budget(limit=None, spent=0.0), FREE, Settings(pause_s=0.02))
        try:
            # The port differs from run to run, and a real endpoint's does not.
            return await judge(TALK, pairs, client.ask, identity={"model": "stub"}, seed=seed)
        finally:
            await client.close()

    with server.running(), Journal(journal) as book:
        return asyncio.run(run(server.url, book)), server


def test_a_judge_that_always_says_a_gives_only_ties(tmp_path: Path) -> None:
    found, _ = judged(lambda _: says("A"), PAIRS, tmp_path / "journal")
    assert found.outcomes == (0,) * 10
    assert (found.ties.value, found.wins.value, found.losses.value) == (1, 0, 0)
    assert found.position_bias == 1
    assert found.swapped == 10


def test_a_judge_that_prefers_length_names_the_same_winner_in_both_positions(tmp_path: Path) -> None:
    found, server = judged(longer, PAIRS, tmp_path / "journal")
    assert found.outcomes == (-1,) * 4 + (1,) * 6
    assert (found.wins.value, found.losses.value, found.ties.value) == pytest.approx((0.6, 0.4, 0))
    assert found.lead.value == pytest.approx(0.2)
    assert found.lead.low < 0.2 < found.lead.high
    assert found.position_bias == 0.5
    assert (found.swapped, found.unparsable, found.failed) == (0, 0, 0)
    assert len(server.accepted) == 20


def test_nothing_is_asked_twice_and_the_order_follows_from_the_seed(tmp_path: Path) -> None:
    first, one = judged(longer, PAIRS, tmp_path / "journal")
    again, two = judged(longer, PAIRS, tmp_path / "journal")
    assert first == again
    assert sum(one.accepted.values()) == 20
    assert not two.accepted
    other, three = judged(longer, PAIRS, tmp_path / "other", seed=1)
    assert other.outcomes == first.outcomes
    assert [*three.accepted] != [*one.accepted]
    assert {*three.accepted} == {*one.accepted}


def test_a_reply_without_a_verdict_leaves_its_pair_out_and_is_counted(tmp_path: Path) -> None:
    def sometimes(shown: dict[str, Any]) -> str:
        asked = shown["request"][-1]["content"]
        return "I like both" if asked == "Question 0?" and shown["A"] == "short" else longer(shown)

    found, _ = judged(sometimes, PAIRS, tmp_path / "journal")
    assert found.outcomes == (None, -1, -1, -1) + (1,) * 6
    assert found.unparsable == 1
    assert found.wins.value == pytest.approx(6 / 9)


def test_a_judge_that_never_gives_a_verdict_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="on any of 10 pairs"):
        judged(lambda _: "A", PAIRS, tmp_path / "journal")


def test_equal_answers_are_a_tie_that_costs_nothing(tmp_path: Path) -> None:
    found, server = judged(longer, [pair(0, "same", " same "), PAIRS[5]], tmp_path / "journal")
    assert found.outcomes == (0, 1)
    assert len(server.accepted) == 2


def test_a_request_that_fails_leaves_its_pair_out() -> None:
    async def ask(asked: Any) -> object:
        if "Question 1?" in asked.messages[1]["content"]:
            return "no reply"
        text = longer(json.loads(asked.messages[1]["content"]))
        return Reply(text=text, finish="stop", prompt_tokens=1, completion_tokens=1)

    found = asyncio.run(judge(TALK, PAIRS, ask, identity={}))
    assert found.outcomes[1] is None
    assert (found.failed, found.unparsable) == (2, 0)


def test_the_judge_sees_the_request_and_two_answers_and_no_names() -> None:
    straight = request(TALK, PAIRS[0], {"model": "x"}, swapped=False)
    turned = request(TALK, PAIRS[0], {"model": "x"}, swapped=True)
    shown, other = (json.loads(ask.messages[1]["content"]) for ask in (straight, turned))
    assert shown.keys() == {"request", "A", "B"}
    assert (shown["A"], shown["B"]) == (other["B"], other["A"]) == ("short", "a much longer answer 0")
    assert shown["request"] == other["request"]
    keys = {straight.key, turned.key, request(TALK, PAIRS[0], {"model": "y"}, swapped=False).key}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"winner": "A"}', "A"),
        ('I think so.\n```json\n{"winner": "tie"}\n```', "tie"),
        ('{"winner": "a"}', None),
        ('{"winner": ["A"]}', None),
        ('{"winner": "A", "also": "B"}', None),
        ("A", None),
        ("", None),
    ],
)
def test_a_verdict_is_one_of_three_words_in_one_form(text: str, expected: str | None) -> None:
    assert winner(text) == expected
