"""The small parts of labelling: pace, prices, signals, and the gathering of candidates."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.config import Data, Gates
from edgedistill.errors import InputError
from edgedistill.labeling import gather
from edgedistill.labeling.cost import TABLE, Budget, Price, price_of, prompt_tokens
from edgedistill.labeling.pace import START, Pace
from edgedistill.labeling.signals import chosen, label_probabilities
from edgedistill.tasks import find
from edgedistill.types import Ask, Reply, silent


def served(pace: Pace, slots: int, rounds: int, seconds: float = 1.0) -> None:
    """Lets a server with so many slots answer full rounds of what the pace allows."""
    now = 0.0
    for _ in range(rounds):
        under_way = int(pace.limit)
        pace.begin(now)
        while under_way > 0:
            now += seconds
            done = min(slots, under_way)
            under_way -= done
            pace.up(done, now)


@pytest.mark.parametrize(("slots", "most", "expected"), [(1, 64, (1, 2)), (64, 256, (64, 128)), (1000, 48, (48, 48))])
def test_the_limit_ends_near_what_the_server_can_do(slots: int, most: int, expected: tuple[int, int]) -> None:
    pace = Pace(most)
    assert pace.limit == 1
    served(pace, slots, rounds=12)
    assert expected[0] <= pace.limit <= expected[1]


def test_a_busy_server_halves_the_limit_once_a_round_and_gets_one_more_a_round_afterwards() -> None:
    pace = Pace(64)
    served(pace, 1000, rounds=3)
    assert pace.limit == 64
    assert [pace.down(0), pace.down(0), pace.down(0)] == [True, False, False]
    assert pace.limit == 32
    served(pace, 1000, rounds=1)
    assert pace.limit == pytest.approx(33, abs=0.5)
    for _ in range(20):
        pace.down(pace.rounds)
    assert pace.limit == 1


@given(st.lists(st.sampled_from(["up", "down", "restart"]), max_size=200), st.integers(1, 100))
def test_the_limit_stays_between_one_and_what_is_allowed(steps: list[str], most: int) -> None:
    pace = Pace(most)
    for now, step in enumerate(steps):
        pace.begin(float(now))
        match step:
            case "up":
                pace.up(3, float(now + 1))
            case "down":
                pace.down(pace.rounds)
            case "restart":
                pace.restart()
        assert 1 <= pace.limit <= most


def test_the_first_request_goes_alone() -> None:
    pace = Pace(64)
    pace.begin(0.0)
    assert (pace.limit, pace.proven) == (1, False)
    pace.up(1, 0.1)
    assert (pace.limit, pace.proven) == (START, True)


def test_every_listed_price_is_positive_and_names_where_it_was_read() -> None:
    entries = tomllib.loads(TABLE.read_text())["price"]
    assert len(entries) > 10
    for entry in entries:
        assert entry["input"] > 0
        assert entry["output"] >= entry["input"]
        assert "https://" in entry["source"]
        assert 0 < entry.get("batch", 1.0) <= 1
    assert len({entry["model"] for entry in entries}) == len(entries)


def test_the_longest_name_wins_and_ones_own_price_comes_first() -> None:
    mini, full = price_of("gpt-4o-mini"), price_of("gpt-4o")
    assert mini is not None
    assert full is not None
    assert mini.input < full.input
    own = price_of("gpt-4o", [{"model": "gpt-4*", "input": 1.0, "output": 2.0}])
    assert own == Price(input=1.0, output=2.0, source="edgedistill.toml")
    assert price_of("a-model-of-my-own") is None


def test_a_reservation_is_never_below_the_cost() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 20  # 200 words, about 200 tokens
    ask = Ask(key="k", messages=({"role": "user", "content": text},), schema=None, max_tokens=50, temperature=0.0)
    assert prompt_tokens(ask) > 220
    price = Price(input=1.0, output=10.0, batch=0.5)
    reply = Reply(text="", finish="length", prompt_tokens=210, completion_tokens=50)
    assert price.of(reply) < price.most(ask)
    assert price.of(reply, batch=True) == pytest.approx(price.of(reply) / 2)


def test_a_budget_never_lends_more_than_it_has() -> None:
    told: list[int] = []
    budget = Budget(limit=1.0)
    budget.on_release(lambda: told.append(1))
    assert [budget.reserve(0.4), budget.reserve(0.4), budget.reserve(0.4)] == [True, True, False]
    budget.settle(0.4, 0.1)
    assert told
    assert budget.reserve(0.4)
    assert not budget.reserve(0.2)
    assert Budget(limit=None).reserve(1e9)


def reply(tokens: list[str], tops: list[dict[str, float]]) -> Reply:
    logs = tuple({token: math.log(share) for token, share in top.items()} for top in tops)
    text = "".join(tokens)
    return Reply(
        text=text, finish="stop", prompt_tokens=1, completion_tokens=1, tokens=tuple(tokens), top_logprobs=logs
    )


def test_probabilities_of_labels_come_from_the_token_where_they_part() -> None:
    plain = reply(["ent", "ailment"], [{"ent": 0.6, "neut": 0.3, "contr": 0.1}, {"ailment": 1.0}])
    labels = ("entailment", "neutral", "contradiction")
    assert label_probabilities(plain, labels) == pytest.approx(
        {"entailment": 0.6, "neutral": 0.3, "contradiction": 0.1}
    )
    tokens = ['{"', "answer", '": "', "neut", "ral", '"}']
    within = reply(tokens, [{t: 1.0} for t in tokens[:3]] + [{"neut": 0.8, "ent": 0.2}, {"ral": 1.0}, {'"}': 1.0}])
    assert label_probabilities(within, labels) == pytest.approx({"neutral": 0.8, "entailment": 0.2, "contradiction": 0})


def test_probabilities_that_nobody_can_tell_apart_are_none_rather_than_a_guess() -> None:
    both = reply(["turn", "_on"], [{"turn": 0.9, "play": 0.1}, {"_on": 1.0}])
    assert label_probabilities(both, ("turn_on", "turn_off", "play")) is None
    assert label_probabilities(reply([], []), ("a", "b")) is None
    assert label_probabilities(reply(["x"], [{"x": 1.0}]), ("a", "b")) is None


@pytest.mark.parametrize(
    ("task", "gives", "kind", "signal", "said"),
    [
        ("nli", ("labels", "class probabilities"), "encoder", "class probabilities", "kept with the row"),
        ("nli", ("text", "labels"), "openai", "labels", "set logprobs = 5"),
        ("nli", ("text", "labels"), "anthropic", "labels", "gives no probabilities"),
        ("math", ("text", "labels", "top-k log-probabilities"), "gguf", "top-k log-probabilities", "journal"),
        ("math", ("text",), "anthropic", "text", "no log-probabilities"),
    ],
)
def test_the_richest_signal_that_fits_is_used_and_a_missing_one_is_said(
    task: str, gives: tuple[str, ...], kind: str, signal: str, said: str
) -> None:
    teacher: Any = SimpleNamespace(gives=gives, identity={"kind": kind})
    found, why = chosen(find(task), teacher)
    assert found == signal
    assert said in why


def write(folder: Path, **splits: list[dict[str, Any]]) -> Data:
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Data(folder=str(folder), max_bad_share=0.2)


def test_a_training_row_that_nearly_equals_a_test_row_leaves_training(tmp_path: Path) -> None:
    asked = "could you switch on the light in the kitchen before i come home tonight please"
    rows = [{"text": asked + " now"}, {"text": "something else"}, {"text": "Something, else!"}, {"text": "a third"}]
    data = write(tmp_path, train=rows, test=[{"text": asked}])
    (tmp_path / "work").mkdir()
    found = gather.gather(find("classification"), data, Gates(near_duplicates=0.8), tmp_path / "work", silent)
    assert (found.counts["train"], found.counts["test"], found.leaks, found.duplicates) == (2, 1, 1, 1)
    assert [one.reason for one in found.rejected] == [
        "leak: nearly the same as test:1",
        "duplicate: nearly the same as train:2",
    ]
    kept = [candidate.row["text"] for candidate in gather.candidates(found.files["train"])]
    assert kept == ["something else", "a third"]


def test_of_two_rows_that_ask_the_same_the_answered_one_stays(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    asked = "kill the lights in the garage"
    data = write(tmp_path, train=[{"text": asked}, {"text": asked + "!", "label": "light_off"}, {"text": "other"}])
    found = gather.gather(find("classification"), data, Gates(), tmp_path / "work", silent)
    kept = [candidate.row for candidate in gather.candidates(found.files["train"])]
    assert kept == [{"text": asked + "!", "label": "light_off"}, {"text": "other"}]
    assert [(one.line, one.reason) for one in found.rejected] == [(1, "duplicate: nearly the same as train:2")]


def test_fields_that_may_be_the_answer_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    data = write(tmp_path, train=[{"text": "hi", "intent": "greet"}])
    found = gather.gather(find("classification"), data, Gates(), tmp_path / "work", silent)
    assert (found.answered, found.other_fields) == (0, {"intent"})


def test_bad_rows_are_named_and_too_many_stop(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    good = [{"text": f"text number {n}"} for n in range(9)]
    data = write(tmp_path, train=[*good, {"txt": "x"}])
    found = gather.gather(find("classification"), data, Gates(near_duplicates=0), tmp_path / "work", silent)
    assert [(one.file, one.line) for one in found.rejected] == [("train.jsonl", 10)]
    data = write(tmp_path, train=[*good[:2], {"txt": "x"}])
    with pytest.raises(InputError, match=r"train.jsonl:3: no field 'text'"):
        gather.gather(find("classification"), data, Gates(), tmp_path / "work", silent)


def test_columns_of_other_names_are_read_as_the_task_names_them(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    data = write(tmp_path, train=[{"utterance": "hi", "intent": "greet"}]).model_copy(
        update={"text": "utterance", "label": "intent"}
    )
    found = gather.gather(find("classification"), data, Gates(), tmp_path / "work", silent)
    assert found.labels == ("greet",)
    assert next(gather.candidates(found.files["train"])).row == {"text": "hi", "label": "greet"}
