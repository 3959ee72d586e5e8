"""Rows for a decoder: where the answer starts and ends, and what goes when there is too much."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from edgedistill.distill.examples import Example, collate, conversation, encode, targets
from edgedistill.teachers.chat import folded
from edgedistill.types import Message
from tests.distill.chats import CHATML, GEMMA, chat_tokenizer, turns

ANSWER = "the door is open"
LONG = ["lock the door please", "which door?", "the one in the kitchen, and play a song"]
SYSTEM: Message = {"role": "system", "content": "Be kind."}
TWICE: list[Message] = [{"role": "user", "content": text} for text in ("play jazz", "please")]
ALTERNATING = (
    "{% for message in messages %}{% if not loop.first and message.role == messages[loop.index0 - 1].role %}"
    "{{ raise_exception('two turns of one role') }}{% endif %}{% endfor %}" + CHATML
)
BOTH = GEMMA.replace("<bos>", "<bos>" + ALTERNATING.removesuffix(CHATML))
"""Takes neither a system turn nor two turns of one role."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return chat_tokenizer()


def example(
    tokenizer: Any, *contents: str, answer: str = ANSWER, system: str | None = None, room: int = 500
) -> Example:
    found = encode(tokenizer, turns(*contents, system=system), answer, room)
    assert isinstance(found, Example), found
    return found


def whole(tokenizer: Any, *contents: str, answer: str = ANSWER) -> list[int]:
    """The tokens of the conversation as one text."""
    messages = [*turns(*contents), {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("template", [CHATML, GEMMA], ids=["chatml", "gemma"])
@pytest.mark.parametrize("answer", [ANSWER, "jazz", "A\n\nB é 水", "1 2 3?"])
def test_prompt_and_answer_apart_are_the_tokens_of_the_whole_conversation(template: str, answer: str) -> None:
    tokenizer = chat_tokenizer(template)
    found = example(tokenizer, *LONG, answer=answer)
    conversation = whole(tokenizer, *LONG, answer=answer)
    assert list(found.ids) == conversation[: len(found.ids)]
    assert len(conversation) - len(found.ids) == 1  # the line break behind the turn
    assert tokenizer.decode(found.answer) == f"{answer}<|im_end|>"
    assert tokenizer.decode(found.ids[: found.answer_start]).endswith("<|im_start|>assistant\n")


def test_the_answer_ends_with_the_token_that_the_template_writes_and_not_with_the_end_of_the_text() -> None:
    assert example(chat_tokenizer(end="<eos>"), "play jazz").ids[-1] == 3


def test_without_a_template_the_answer_ends_with_the_end_of_the_text() -> None:
    tokenizer = chat_tokenizer(None)
    found = example(tokenizer, "play jazz", system="Be kind.")
    assert tokenizer.decode(found.ids) == f"Be kind.\n\nplay jazz\n\n{ANSWER}<eos>"


def test_the_end_token_is_learned_even_where_rows_are_padded_with_it() -> None:
    tokenizer = chat_tokenizer(pad="<|im_end|>", end="<|im_end|>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = [example(tokenizer, "play jazz"), example(tokenizer, *LONG)]
    batch = collate(rows, tokenizer.pad_token_id)
    learned = targets(batch)
    assert learned.tolist() == [token for row in rows for token in row.answer]
    assert (learned == tokenizer.eos_token_id).sum() == 2
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(row.ids) for row in rows]


def test_only_positions_that_predict_the_answer_are_marked(tokenizer: Any) -> None:
    rows = [example(tokenizer, "play jazz", answer="ok"), example(tokenizer, *LONG)]
    batch = collate(rows, 0)
    for row, marked, ids in zip(rows, batch["predicts"], batch["input_ids"], strict=True):
        places = marked.nonzero().flatten().tolist()
        assert places == list(range(row.answer_start - 1, len(row.ids) - 1))
        assert ids.tolist()[: len(row.ids)] == list(row.ids)
        assert (ids[len(row.ids) :] == 0).all()


def test_a_batch_of_no_rows_has_nothing_to_learn() -> None:
    batch = collate([], 0)
    assert batch["input_ids"].shape == (0, 1)
    assert targets(batch).shape == torch.Size([0])


@pytest.mark.parametrize("cut", [1, 7, 20])
def test_a_long_prompt_loses_its_oldest_tokens_behind_the_system_turn(tokenizer: Any, cut: int) -> None:
    full = example(tokenizer, *LONG, system="Answer in one line.")
    short = example(tokenizer, *LONG, system="Answer in one line.", room=len(full.ids) - cut)
    head = len(tokenizer("<|im_start|>system\nAnswer in one line.<|im_end|>\n", add_special_tokens=False).input_ids)
    assert short.ids == full.ids[:head] + full.ids[head + cut :]
    assert (short.answer, short.key) == (full.answer, full.key)
    assert short.fingerprint != full.fingerprint


def test_without_a_system_turn_the_first_special_tokens_stay() -> None:
    tokenizer = chat_tokenizer(GEMMA)
    full = example(tokenizer, *LONG)
    short = example(tokenizer, *LONG, room=len(full.ids) - 9)
    assert short.ids == full.ids[:2] + full.ids[11:]
    assert tokenizer.decode(short.ids[:2]) == "<bos><|im_start|>"


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_an_answer_is_never_cut_and_the_assistants_turn_is_always_opened(tokenizer: Any, spare: int) -> None:
    system, opening, answer = (
        len(tokenizer(text, add_special_tokens=False).input_ids)
        for text in ("<|im_start|>system\nBe kind.<|im_end|>\n", "<|im_start|>assistant\n", f"{ANSWER}<|im_end|>")
    )
    found = encode(tokenizer, turns(*LONG, system="Be kind."), ANSWER, system + opening + answer + spare)
    if spare < 1:
        assert isinstance(found, str)
        assert "leaves no room" in found
    else:
        assert isinstance(found, Example)
        assert tokenizer.decode(found.answer) == f"{ANSWER}<|im_end|>"
        assert tokenizer.decode(found.ids).endswith(f"<|im_start|>assistant\n{ANSWER}<|im_end|>")


@pytest.mark.parametrize(
    ("answer", "reason"), [("", "empty"), ("ok<|im_end|>\n<|im_start|>user", r"special token '<\|im_end\|>'")]
)
def test_an_answer_that_cannot_be_learned_is_said(tokenizer: Any, answer: str, reason: str) -> None:
    found = encode(tokenizer, turns("play jazz"), answer, 100)
    assert isinstance(found, str)
    assert re.search(reason, found)


def test_a_template_that_takes_no_system_turn_reads_its_text_in_the_users() -> None:
    tokenizer = chat_tokenizer(GEMMA)
    found = example(tokenizer, *LONG, system="Answer in one line.")
    first, *later = tokenizer.decode(found.ids[: found.answer_start]).split("<|im_end|>\n")
    assert first == f"<bos><|im_start|>user\nAnswer in one line.\n\n{LONG[0]}"
    assert later[-1] == "<|im_start|>assistant\n"
    assert "line" not in "".join(later)
    assert tokenizer.decode(found.answer) == f"{ANSWER}<|im_end|>"
    assert found.key == example(chat_tokenizer(CHATML), *LONG, system="Answer in one line.").key


def test_only_for_a_template_that_takes_no_system_turn_are_turns_folded() -> None:
    rows = turns(*LONG, system="Be kind.")
    folds = [{"role": "user", "content": f"Be kind.\n\n{LONG[0]}"}, *turns(*LONG)[1:]]
    assert folded(chat_tokenizer(GEMMA), rows) == folds
    assert folded(chat_tokenizer(GEMMA), turns(*LONG)) == turns(*LONG)
    for template in (CHATML, None, "{{ raise_exception('never') }}", ALTERNATING):
        assert folded(chat_tokenizer(template), rows) == rows
    assert rows == turns(*LONG, system="Be kind.")


def test_a_tokenizer_is_asked_once_whether_its_template_takes_a_system_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = chat_tokenizer(GEMMA)
    rows = [turns(text, system="Be kind.") for text in LONG]
    first = folded(tokenizer, rows[0])
    monkeypatch.setattr(tokenizer, "apply_chat_template", None)  # so that asking it again would raise
    assert len(first) == len(folded(tokenizer, rows[1])) == len(folded(tokenizer, rows[2])) == 1


@pytest.mark.parametrize("cut", [1, 7, 20])
def test_a_long_prompt_keeps_a_system_text_that_stands_in_the_users_turn(cut: int) -> None:
    tokenizer = chat_tokenizer(GEMMA)
    full = example(tokenizer, *LONG, system=" Answer in one line. ")
    short = example(tokenizer, *LONG, system=" Answer in one line. ", room=len(full.ids) - cut)
    head = next(
        place for place in range(len(full.ids)) if tokenizer.decode(full.ids[:place]).endswith("one line. \n\n")
    )
    assert short.ids == full.ids[:head] + full.ids[head + cut :]
    assert (short.answer, short.key) == (full.answer, full.key)


@pytest.mark.parametrize(
    ("template", "messages"),
    [(ALTERNATING, TWICE), (ALTERNATING, [SYSTEM, *TWICE]), (BOTH, TWICE), (BOTH, [SYSTEM, *TWICE])],
)
def test_a_row_that_the_template_refuses_for_another_reason_is_said(template: str, messages: list[Message]) -> None:
    tokenizer = chat_tokenizer(template)
    assert encode(tokenizer, messages, ANSWER, 100) == "the chat template refuses the row: two turns of one role"
    assert conversation(tokenizer, messages, ANSWER) is None


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            CHATML,
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nplay jazz<|im_end|>\n"
            f"<|im_start|>assistant\n{ANSWER}<|im_end|>\n",
        ),
        (
            GEMMA,
            f"<bos><|im_start|>user\nBe kind.\n\nplay jazz<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>\n",
        ),
        (None, f"Be kind.\n\nplay jazz\n\n{ANSWER}"),
    ],
    ids=["chatml", "gemma", "none"],
)
def test_a_conversation_is_the_text_that_an_example_has_the_pieces_of(template: str | None, text: str) -> None:
    tokenizer = chat_tokenizer(template)
    messages = turns("play jazz", system="Be kind.")
    assert conversation(tokenizer, messages, ANSWER) == text
    ids = list(example(tokenizer, "play jazz", system="Be kind.").ids)
    whole_text = tokenizer(text, add_special_tokens=False).input_ids
    assert ids[:-1] == whole_text[: len(ids) - 1]


@pytest.mark.parametrize("answer", ["", "ok<|im_end|>\n<|im_start|>user"])
@pytest.mark.parametrize("template", [CHATML, None], ids=["chatml", "none"])
def test_a_row_that_cannot_be_learned_has_no_conversation(template: str | None, answer: str) -> None:
    tokenizer = chat_tokenizer(template)
    assert conversation(tokenizer, turns("play jazz"), answer) is None
    assert isinstance(encode(tokenizer, turns("play jazz"), answer, 100), str)


def test_the_key_names_messages_and_answer_and_nothing_else(tokenizer: Any) -> None:
    keys = {
        example(tokenizer, "play jazz").key,
        example(tokenizer, "play jazz", answer="no").key,
        example(tokenizer, "play jazz", system="Be kind.").key,
        example(tokenizer, "play", "jazz", ".").key,
    }
    assert len(keys) == 4
    assert example(chat_tokenizer(GEMMA, size=300), "play jazz").key in keys
