"""Rows as a decoder reads them: the prompt by the tokenizer's chat template, the answer, and the token that ends it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from edgedistill.store import digest
from edgedistill.teachers.chat import BLANK_LINE, folded, text_of
from edgedistill.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A row in the pieces of one tokenizer.

    Attributes:
        key: of the messages and the answer; it is the same whatever the tokenizer and however long a prompt may be.
        ids: prompt, answer and end token.
        answer_start: position of the answer's first token. The answer is never empty: it has its end token at least.
    """

    key: str
    ids: tuple[int, ...]
    answer_start: int

    @property
    def answer(self) -> tuple[int, ...]:
        """The tokens to learn, the end token among them."""
        return self.ids[self.answer_start :]

    @property
    def fingerprint(self) -> bytes:
        """sha256 of all tokens and of where the answer starts."""
        return hashlib.sha256(np.array([self.answer_start, *self.ids], dtype="<i8").tobytes()).digest()


class DecoderBatch(TypedDict):
    """All are [rows, longest]. `predicts` is True where the next token is one to learn."""

    input_ids: Tensor
    attention_mask: Tensor
    predicts: Tensor


class _Taken(NamedTuple):
    """A row that can be learned from if it is short enough: its pieces, and its whole text."""

    prompt: list[int]
    answer: list[int]
    end: int
    text: str


def conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> str | None:
    """The whole text of a row, its turns folded, as the template writes it; without one, with blank lines between.

    Args:
        messages: the turns before the answer.

    Returns:
        None for a row that `encode` refuses, however long it may be.
    """
    found = _taken(tokenizer, folded(tokenizer, messages), answer)
    return None if isinstance(found, str) else found.text


def encode(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str, max_tokens: int
) -> Example | str:
    """A row in the tokenizer's pieces, or why it cannot be learned from.

    Prompt and answer are tokenized apart. So the boundary lies where it lies when the student generates, and no piece
    reaches across it; what a template may strip from an answer is not stripped. Where the template puts a special token
    or a line break before the answer, as those of Llama, Qwen, Phi, Gemma and SmolLM do, the tokens are those of the
    whole conversation.

    Turns are `folded` first. A prompt that is too long loses its oldest tokens behind the system's text, or behind its
    first special tokens when there is none. The answer is never cut: a student would learn to stop in the middle of a
    sentence.

    Args:
        messages: the turns before the answer.
        max_tokens: length of prompt, answer and end token together.
    """
    turns = folded(tokenizer, messages)
    found = _taken(tokenizer, turns, answer)
    if isinstance(found, str):
        return found
    prompt = found.prompt
    room = max_tokens - len(found.answer) - 1
    if len(prompt) > room:
        head = _head(tokenizer, messages, turns, prompt)
        least = head + _opening(tokenizer, turns, prompt)
        if room <= least:
            return f"the answer has {len(found.answer)} tokens, which leaves no room for its prompt in {max_tokens}"
        prompt = prompt[:head] + prompt[len(prompt) - (room - head) :]
    return Example(
        # Of the messages as they were given: what a template refuses must not change which row it is.
        key=digest({"messages": [dict(message) for message in messages], "answer": answer}),
        ids=(*prompt, *found.answer, found.end),
        answer_start=len(prompt),
    )


def collate(examples: Sequence[Example], pad: int) -> DecoderBatch:
    """One batch, padded on the right to the longest row.

    The masks come from the lengths. Comparing with `pad` would leave out the end token wherever a model pads with it,
    and a student that never saw the end of an answer does not stop.
    """
    longest = max((len(example.ids) for example in examples), default=1)
    ids = torch.full((len(examples), longest), pad)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
    lengths = torch.tensor([len(example.ids) for example in examples], dtype=torch.long)[:, None]
    starts = torch.tensor([example.answer_start for example in examples], dtype=torch.long)[:, None]
    places = torch.arange(longest)
    return DecoderBatch(
        input_ids=ids,
        attention_mask=(places < lengths).long(),
        predicts=(places >= starts - 1) & (places < lengths - 1),
    )


def targets(batch: DecoderBatch) -> Tensor:
    """The tokens to learn, [items]: row by row, in order, as `hidden[predicts]` yields what predicts them."""
    return batch["input_ids"].roll(-1, dims=1)[batch["predicts"]]


def _taken(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]], answer: str) -> _Taken | str:
    """A row before its prompt is cut, or why it cannot be learned from at any length."""
    from jinja2 import TemplateError

    untyped: Any = tokenizer
    special = _special(tokenizer)
    try:
        prompt = text_of(tokenizer, turns)
        text = prompt + answer
        if untyped.chat_template is not None:
            text = text_of(tokenizer, [*turns, {"role": "assistant", "content": answer}], opened=False)
    except TemplateError as error:  # many take no two turns of the same role
        return f"the chat template refuses the row: {error}"
    read, written = _pieces(tokenizer, prompt), _pieces(tokenizer, answer)
    if not written:
        return "the answer is empty"
    if not read:
        return "the prompt is empty"  # and nothing would predict the answer's first token
    end = _end(tokenizer, text, answer, special)
    if end is None:
        return "the tokenizer has no token that ends an answer"
    if found := next((number for number in written if number in special), None):
        return f"the answer holds the special token {untyped.convert_ids_to_tokens(found)!r}"
    return _Taken(prompt=read, answer=written, end=end, text=text)


def _special(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    untyped: Any = tokenizer
    return {number for number, token in untyped.added_tokens_decoder.items() if token.special}


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    untyped: Any = tokenizer
    return list(untyped(text, add_special_tokens=False).input_ids)


def _end(tokenizer: PreTrainedTokenizerBase, text: str, answer: str, special: set[int]) -> int | None:
    """The token that ends an answer: the special one that the template writes after it, else the end of the text.

    They differ: Gemma and Phi-3 end a turn with a token of its own, and a student that learned the other one would
    write the user's next turn as well.
    """
    untyped: Any = tokenizer
    end: int | None = untyped.eos_token_id
    if not answer.strip():
        return end
    _, found, after = text.rpartition(answer.strip())
    following = _pieces(tokenizer, after) if found else []
    return next((number for number in following if number in special), end)


def _head(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    turns: Sequence[dict[str, str]],
    prompt: Sequence[int],
) -> int:
    """How many of a prompt's first tokens are its system turn, or what that was folded to, or special ones."""
    from jinja2 import TemplateError

    untyped: Any = tokenizer
    if untyped.chat_template is not None and turns[0]["role"] == "system":
        try:
            system = _pieces(tokenizer, text_of(tokenizer, turns[:1], opened=False))
        except TemplateError:  # a template may want a user's turn to write the system's into
            system = []
        if system and list(prompt[: len(system)]) == system:
            return len(system)
    elif len(turns) < len(messages) and (folded_in := messages[0]["content"].lstrip()):  # as templates strip it
        before, found, _ = text_of(tokenizer, turns).partition(folded_in + BLANK_LINE)
        if found:
            # A piece may reach from the blank line into the user's text, so only those that are the same count.
            system = _pieces(tokenizer, before + found)
            pairs = zip(system, prompt, strict=False)
            return next((place for place, (mine, whole) in enumerate(pairs) if mine != whole), len(system))
    special = _special(tokenizer)
    return next((place for place, number in enumerate(prompt) if number not in special), len(prompt))


def _opening(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]], prompt: Sequence[int]) -> int:
    """How many of a prompt's last tokens open the assistant's turn."""
    return max(len(prompt) - len(_pieces(tokenizer, text_of(tokenizer, turns, opened=False))), 0)
