"""Rows as a decoder reads them: the prompt by the tokenizer's chat template, the answer, and the token that ends it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from edgedistill.store import digest
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


def encode(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str, max_tokens: int
) -> Example | str:
    """A row in the tokenizer's pieces, or why it cannot be learned from.

    Prompt and answer are tokenized apart. So the boundary lies where it lies when the student generates, and no piece
    reaches across it; what a template may strip from an answer is not stripped. Where the template puts a special token
    or a line break before the answer, as those of Llama, Qwen, Phi, Gemma and SmolLM do, the tokens are those of the
    whole conversation.

    A prompt that is too long loses its oldest tokens behind the system turn, or behind its first special tokens when
    there is none. The answer is never cut: a student would learn to stop in the middle of a sentence.

    Args:
        messages: the turns before the answer.
        max_tokens: length of prompt, answer and end token together.
    """
    from jinja2 import TemplateError

    untyped: Any = tokenizer
    special = {number for number, token in untyped.added_tokens_decoder.items() if token.special}
    turns = [dict(message) for message in messages]
    try:
        prompt = _pieces(untyped, _prompt(untyped, turns))
        end = _end(untyped, turns, answer, special)
    except TemplateError as error:  # many take no system turn, or no two turns of the same role
        return f"the chat template refuses the row: {error}"
    written = _pieces(untyped, answer)
    if not written:
        return "the answer is empty"
    if not prompt:
        return "the prompt is empty"  # and nothing would predict the answer's first token
    if end is None:
        return "the tokenizer has no token that ends an answer"
    if found := next((number for number in written if number in special), None):
        return f"the answer holds the special token {untyped.convert_ids_to_tokens(found)!r}"
    room = max_tokens - len(written) - 1
    if len(prompt) > room:
        head = _head(untyped, turns, prompt, special)
        least = head + _opening(untyped, turns, prompt)
        if room <= least:
            return f"the answer has {len(written)} tokens, which leaves no room for its prompt in {max_tokens}"
        prompt = prompt[:head] + prompt[len(prompt) - (room - head) :]
    return Example(
        key=digest({"messages": turns, "answer": answer}), ids=(*prompt, *written, end), answer_start=len(prompt)
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


def _pieces(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _prompt(tokenizer: Any, turns: Sequence[dict[str, str]], *, opened: bool = True) -> str:
    """The prompt's text; without a template the turns stand one below the other, as for a teacher without one."""
    if tokenizer.chat_template is None:
        return "\n\n".join(turn["content"] for turn in turns) + "\n\n"
    return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=opened))


def _end(tokenizer: Any, turns: Sequence[dict[str, str]], answer: str, special: set[int]) -> int | None:
    """The token that ends an answer: the special one that the template writes after it, else the end of the text.

    They differ: Gemma and Phi-3 end a turn with a token of its own, and a student that learned the other one would
    write the user's next turn as well.
    """
    end: int | None = tokenizer.eos_token_id
    if tokenizer.chat_template is None or not answer.strip():
        return end
    whole = _prompt(tokenizer, [*turns, {"role": "assistant", "content": answer}], opened=False)
    _, found, after = whole.rpartition(answer.strip())
    following = _pieces(tokenizer, after) if found else []
    return next((number for number in following if number in special), end)


def _head(tokenizer: Any, turns: Sequence[dict[str, str]], prompt: Sequence[int], special: set[int]) -> int:
    """How many of a prompt's first tokens are its system turn, or special ones."""
    from jinja2 import TemplateError

    if tokenizer.chat_template is not None and turns[0]["role"] == "system":
        try:
            system = _pieces(tokenizer, _prompt(tokenizer, turns[:1], opened=False))
        except TemplateError:  # a template may want a user's turn to write the system's into
            system = []
        if system and list(prompt[: len(system)]) == system:
            return len(system)
    return next((place for place, number in enumerate(prompt) if number not in special), len(prompt))


def _opening(tokenizer: Any, turns: Sequence[dict[str, str]], prompt: Sequence[int]) -> int:
    """How many of a prompt's last tokens open the assistant's turn."""
    return max(len(prompt) - len(_pieces(tokenizer, _prompt(tokenizer, turns, opened=False))), 0)
