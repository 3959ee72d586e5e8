"""How fast a model writes: prompts of exact lengths, the times between tokens, and each engine's own steps."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgedistill.runtime import measure, writing
from edgedistill.runtime.__main__ import main
from edgedistill.runtime.engine_llama import Chat
from tests.distill.chats import turns
from tests.runtime.ggufs import CONTEXT, bundle

READ_S, STEP_S = 0.001, 0.01


class Clerk:
    """Reads a token in a millisecond and writes one in ten, by a clock that only it moves."""

    context = 100

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[list[int]] = []
        self.now = 0.0
        for module in (measure, writing):
            monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

    def prompt(self, said: str) -> list[int]:
        return [ord(letter) for letter in said]

    def holds(self, prompt_tokens: int, new_tokens: int) -> bool:
        return prompt_tokens + new_tokens <= self.context

    def work(self, prompt: Sequence[int], new_tokens: int) -> Iterator[int]:
        self.read.append(list(prompt))
        self.now += READ_S * len(prompt)
        return self._write(new_tokens)

    def _write(self, new_tokens: int) -> Iterator[int]:
        for token in range(new_tokens):
            self.now += STEP_S
            yield token


@pytest.fixture
def clerk(monkeypatch: pytest.MonkeyPatch) -> Clerk:
    return Clerk(monkeypatch)


def test_reading_the_first_token_and_the_gaps_are_told_apart(clerk: Clerk) -> None:
    found = writing.writing(lambda: clerk, ["abcd", "abcdefgh", "ab"], new_tokens=5)
    (prompts,) = found["prompts"]
    assert prompts["prompt_tokens"] == 4
    assert prompts["first_token_ms"] == pytest.approx([14, 18, 12])
    assert prompts["prefill_tokens_s"] == pytest.approx([1000, 1000, 1000])
    assert prompts["decode_tokens_s"] == pytest.approx([100, 100, 100])
    assert prompts["token_ms"] == pytest.approx([10] * 12)
    assert (found["ended_by"], found["steady"]) == ("once", True)
    assert [len(anchors) for anchors in found["anchors_ms"]] == [measure.WINDOW] * 2


def test_prompts_have_the_lengths_that_were_asked_for_and_those_beyond_the_context_are_named(clerk: Clerk) -> None:
    found = writing.writing(
        lambda: clerk, ["abc", "defg"], prompt_tokens=[2, 30, 99], new_tokens=8, within=0.01, limit_s=30
    )
    assert [prompts["prompt_tokens"] for prompts in found["prompts"]] == [2, 30]
    assert [(one["prompt_tokens"], "context" in one["reason"]) for one in found["skipped"]] == [(99, True)]
    assert found["ended_by"] == "interval"
    timed = clerk.read[3 : 3 + 2 * len(found["prompts"][0]["first_token_ms"])]
    assert {len(prompt) for prompt in timed[::2]} == {2}
    assert {len(prompt) for prompt in timed[1::2]} == {30}
    whole = "".join(chr(token) for token in timed[1])
    assert whole == ("abcdefg" * 5)[:30]
    assert timed[0] != timed[2]  # another piece of the texts in each round


def test_a_small_model_goes_on_until_it_can_be_told_what_other_programs_did(clerk: Clerk) -> None:
    """An answer takes 24 ms and none differs, so eight would be enough for the interval and last 0.19 s."""
    found = writing.writing(lambda: clerk, ["abcd"], prompt_tokens=[4], new_tokens=2, within=0.5)
    assert found["ended_by"] == "interval"
    assert len(found["prompts"][0]["first_token_ms"]) == 11


def test_rounds_over_lengths_end_when_the_time_is_over_and_each_length_was_there(clerk: Clerk) -> None:
    found = writing.writing(lambda: clerk, ["abc"], prompt_tokens=[2, 4], new_tokens=8, within=0.0001, limit_s=0.05)
    assert found["ended_by"] == "time"
    assert [len(prompts["first_token_ms"]) for prompts in found["prompts"]] == [1, 1]


def test_without_a_length_that_fits_nothing_is_timed_and_all_are_named(clerk: Clerk) -> None:
    found = writing.writing(lambda: clerk, ["abc"], prompt_tokens=[500], within=0.1)
    assert found["prompts"] == []
    assert len(found["skipped"]) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("llama") / "bundle"
    bundle(made)
    return made


def test_work_writes_what_an_answer_would_be_and_goes_on_behind_its_end(folder: Path) -> None:
    chat = Chat(folder)
    prompt = chat.prompt(turns("turn the light on"))
    answer = list(chat.tokens(prompt, max_tokens=24))
    for _ in range(2):  # the second time nothing of the first is held
        assert list(chat.work(prompt, 40))[: len(answer)] == answer
    assert len(list(chat.work(prompt, 40))) == 40
    assert chat.holds(CONTEXT - 8, 8)
    assert not chat.holds(CONTEXT - 8, 9)
    with pytest.raises(ValueError, match=f"1 to {CONTEXT - 9}"):
        chat.work([1] * (CONTEXT - 8), 9)


def test_a_prompt_is_read_before_the_first_token_is_asked_for(folder: Path) -> None:
    chat = Chat(folder)
    prompt = chat.prompt(turns("turn the light on"))
    chat.work(prompt, 2)
    assert chat._held == prompt
    for _ in itertools.islice(chat.work(prompt, 5), 3):
        pass
    assert len(chat._held) == len(prompt) + 2  # the third token is chosen and not read


def test_a_decoders_cell_is_measured_by_the_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(["turn the light on", "open the door"]))
    (tmp_path / "cell.json").write_text(
        json.dumps({"within": 0.5, "limit_s": 0.2, "prompt_tokens": [3, 40, 1000], "new_tokens": 4})
    )
    command = ["--bundle", str(folder), "--threads", "1", "measure", "--what", "writing"]
    assert main([*command, "--texts", str(tmp_path / "texts.json"), "--cell", str(tmp_path / "cell.json")]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [prompts["prompt_tokens"] for prompts in found["prompts"]] == [3, 40]
    for prompts in found["prompts"]:
        assert len(prompts["token_ms"]) == 3 * len(prompts["first_token_ms"])
        assert min(prompts["decode_tokens_s"] + prompts["prefill_tokens_s"] + prompts["first_token_ms"]) > 0
    assert found["skipped"][0]["prompt_tokens"] == 1000
    assert main([*command, "--texts", str(tmp_path / "texts.json"), "--cell", str(folder / "manifest.json")]) == 1
    assert "'engine'" in capsys.readouterr().err
