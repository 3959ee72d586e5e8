"""A GGUF file answers a conversation piece by piece, with the tokens of the checkpoint that it was made of."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from edgedistill.export.chat import cut
from edgedistill.runtime.__main__ import main
from edgedistill.runtime.engine_llama import Chat
from edgedistill.runtime.turns import PIECES
from edgedistill.teachers.chat import folded, text_of
from tests.distill.chats import GEMMA, turns
from tests.runtime.ggufs import CONTEXT, bundle, tiny, write_gguf

TALKS = [
    turns("turn the light on"),
    turns("which song do you like?", system="Answer in one line."),
    turns("open the door", "ok", "lock the door, 水 é 🙂"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel, Any]:
    folder = tmp_path_factory.mktemp("llama") / "bundle"
    return folder, *bundle(folder)


def of_transformers(model: Any, prompt: list[int], most: int) -> list[int]:
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=most
        )
    written: list[int] = out[0, len(prompt) :].tolist()
    return [token for token in written if token not in model.config.eos_token_id]


@pytest.mark.parametrize("talk", TALKS)
def test_the_tokens_are_those_of_the_checkpoint(made: tuple[Path, PreTrainedModel, Any], talk: Any) -> None:
    folder, model, tokenizer = made
    chat = Chat(folder)
    prompt = chat.prompt(talk)
    assert prompt == tokenizer(text_of(tokenizer, talk), add_special_tokens=False)["input_ids"]
    found = list(chat.tokens(prompt, max_tokens=24))
    assert found == of_transformers(model, prompt, 24)
    assert len(set(found)) > 3


def test_the_pieces_make_up_the_text_and_no_character_is_torn(made: tuple[Path, PreTrainedModel, Any]) -> None:
    folder, _, tokenizer = made
    chat = Chat(folder)
    for talk in TALKS:
        pieces = list(chat.stream(talk, max_tokens=40))
        ids = list(chat.tokens(chat.prompt(talk), max_tokens=40))
        assert len(pieces) > 3
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


def test_an_answer_ends_where_the_model_ends_it_or_at_the_limit(
    made: tuple[Path, PreTrainedModel, Any], tmp_path: Path
) -> None:
    folder, _, tokenizer = made
    chat = Chat(folder)
    prompt = chat.prompt(TALKS[0])
    long = list(chat.tokens(prompt, max_tokens=24))
    assert list(chat.tokens(prompt, max_tokens=5)) == long[:5]
    shutil.copytree(folder, tmp_path / "b")
    # the same file, in which the sixth token of that answer is the one that ends an answer
    ends = next(token for token in long[3:] if token not in long[: long.index(token)])
    write_gguf(tiny(tokenizer), tokenizer, tmp_path / "b" / "model" / "model.gguf", end=ends)
    assert list(Chat(tmp_path / "b").tokens(prompt, max_tokens=24)) == long[: long.index(ends)]


def test_a_conversation_that_goes_on_is_answered_like_one_that_is_new(made: tuple[Path, PreTrainedModel, Any]) -> None:
    folder, *_ = made
    warm = Chat(folder)
    talk = list(TALKS[0])
    talk.append({"role": "assistant", "content": "".join(warm.stream(talk, max_tokens=8))})
    talk.append({"role": "user", "content": "and the door"})
    assert list(warm.stream(talk, max_tokens=8)) == list(Chat(folder).stream(talk, max_tokens=8))


def test_an_answer_that_nobody_reads_to_its_end_spoils_none_after_it(made: tuple[Path, PreTrainedModel, Any]) -> None:
    folder, *_ = made
    chat = Chat(folder)
    expected = list(chat.stream(TALKS[1], max_tokens=8))
    for _ in zip(range(3), chat.stream(TALKS[2], max_tokens=8), strict=False):
        pass
    assert list(chat.stream(TALKS[1], max_tokens=8)) == expected


def test_an_answer_stops_where_the_context_is_full_and_a_prompt_without_room_is_refused(
    made: tuple[Path, PreTrainedModel, Any],
) -> None:
    chat = Chat(made[0])
    prompt = chat.prompt(TALKS[0])
    full = (prompt * CONTEXT)[: CONTEXT - 2]
    assert len(list(chat.tokens(full, max_tokens=10))) <= 2
    for wrong in ([], full + prompt[:2]):
        with pytest.raises(ValueError, match="tokens"):
            next(chat.tokens(wrong, max_tokens=10))


def test_pieces_beside_the_manifest_take_the_place_of_the_template(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    _, tokenizer = bundle(folder, template=GEMMA)
    talk = turns("turn the light on", system="Be kind.")
    with pytest.raises(ValueError, match="no system turn"):  # the template itself refuses what training folded
        Chat(folder).prompt(talk)
    (folder / PIECES).write_text(json.dumps(cut(tokenizer)))
    expected = tokenizer(text_of(tokenizer, folded(tokenizer, talk)), add_special_tokens=False)["input_ids"]
    assert Chat(folder).prompt(talk) == expected


def test_without_a_template_turns_stand_one_below_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    _, tokenizer = bundle(folder, template=None)
    talk = TALKS[2]
    expected = tokenizer(text_of(tokenizer, talk), add_special_tokens=False)["input_ids"]
    assert Chat(folder).prompt(talk) == expected


def test_the_command_answers_a_question_and_goes_on_with_a_conversation(
    made: tuple[Path, PreTrainedModel, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, *_ = made
    question, second = "turn the light on", "and the door"
    assert main(["--bundle", str(folder), "chat", question, "--max-tokens", "8", "--system", "s"]) == 0
    talk = turns(question, system="s")
    answer = "".join(Chat(folder).stream(talk, max_tokens=8))
    assert capsys.readouterr().out == answer + "\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{question}\n{second}\n"))
    assert main(["--bundle", str(folder), "chat", "--max-tokens", "8", "--system", "s"]) == 0
    talk += [{"role": "assistant", "content": answer}, {"role": "user", "content": second}]
    assert capsys.readouterr().out == f"{answer}\n{''.join(Chat(folder).stream(talk, max_tokens=8))}\n"


def test_the_command_says_in_one_line_why_it_cannot_answer(
    made: tuple[Path, PreTrainedModel, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made[0], tmp_path / "b")
    file = tmp_path / "b" / "model" / "model.gguf"
    file.write_bytes(file.read_bytes()[:5000])
    assert main(["--bundle", str(tmp_path / "b"), "chat", "x"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("runtime: ")
    assert said.err.count("\n") == 1
