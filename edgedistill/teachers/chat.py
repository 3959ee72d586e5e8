"""What a tokenizer's chat template makes of the turns of a prompt, whether its model teaches or learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from edgedistill.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLANK_LINE = "\n\n"
_FOLDS: WeakKeyDictionary[PreTrainedTokenizerBase, bool] = WeakKeyDictionary()
"""What `_folds` found, by tokenizer."""


def folded(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[dict[str, str]]:
    """The turns as the tokenizer's chat template takes them.

    Some templates, such as those of Gemma and Gemma 2, refuse a system turn. For them alone its text moves to the start
    of the first user turn, with a blank line behind it. This is asked once a tokenizer, so all rows are treated alike.
    Turns that a template refuses for another reason stay as they are, as do those of a tokenizer without a template.
    """
    turns = [dict(message) for message in messages]
    user = next((place for place, turn in enumerate(turns) if turn["role"] == "user"), None)
    if user is None or turns[0]["role"] != "system" or not _folds(tokenizer):
        return turns
    turns[user]["content"] = turns[0]["content"] + BLANK_LINE + turns[user]["content"]
    return turns[1:]


def text_of(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], *, opened: bool = True) -> str:
    """The text of some turns; without a template they stand one below the other.

    Args:
        opened: whether the assistant's turn is opened behind them.

    Raises:
        jinja2.TemplateError: the template refuses the turns.
    """
    untyped: Any = tokenizer
    if untyped.chat_template is None:
        return BLANK_LINE.join(turn["content"] for turn in turns) + BLANK_LINE
    plain = [dict(turn) for turn in turns]
    return str(untyped.apply_chat_template(plain, tokenize=False, add_generation_prompt=opened))


def _folds(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template takes a user's turn, but not with a system's before it."""
    found = _FOLDS.get(tokenizer)
    if found is None:
        user = {"role": "user", "content": "Hello."}
        system = {"role": "system", "content": "Be kind."}
        found = _FOLDS[tokenizer] = _takes(tokenizer, [user]) and not _takes(tokenizer, [system, user])
    return found


def _takes(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]]) -> bool:
    from jinja2 import TemplateError

    try:
        text_of(tokenizer, turns)
    except TemplateError:
        return False
    return True
