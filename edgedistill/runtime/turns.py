r"""The text of a conversation, as the chat template of the model would write it, without an engine for templates.

A template was cut into the texts that stand before, between and behind what the turns say, by the roles on both sides:

    {"between": {"": {"user": "<|im_start|>user\n"}, "user": {"": "<|im_end|>\n<|im_start|>assistant\n", …}, …},
     "trimmed": ["user"], "folds": false}

`trimmed` are the roles whose turns lose the space around them. A template that `folds` refuses a system's turn: its
text then stands at the start of the first user's turn, with a blank line behind it, as in training.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PIECES = "chat.json"
END = ""
"""In the place of a role: before the first turn, and behind the last, where the assistant's turn is opened."""


def read(folder: Path) -> dict[str, Any] | None:
    """The pieces of a bundle; None where it has none."""
    file = folder / PIECES
    if not file.is_file():
        return None
    pieces: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return pieces


def text(pieces: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> str:
    """The prompt that a conversation makes.

    Args:
        pieces: from `read`.
        messages: turns, each with role and content, the oldest first.

    Raises:
        ValueError: the template of the model takes no such order of roles.
    """
    said = [(turn["role"], turn["content"]) for turn in messages]
    user = next((place for place, (role, _) in enumerate(said) if role == "user"), None)
    if pieces["folds"] and user is not None and said[0][0] == "system":
        said[user] = ("user", f"{said[0][1]}\n\n{said[user][1]}")
        del said[0]
    written, before = "", END
    for role, content in [*said, (END, "")]:
        try:
            written += pieces["between"][before][role]
        except KeyError:
            raise ValueError(
                f"the model takes no {role or 'answer'} after {before or 'nothing'}: give turns of user and assistant"
            ) from None
        written += content.strip() if role in pieces["trimmed"] else content
        before = role
    return written


def room(tokens: int, context: int, *, needed: int = 1) -> int:
    """How many tokens an answer to a prompt may have.

    Raises:
        ValueError: the prompt is empty or leaves no room for as many as are needed.
    """
    if not 0 < tokens <= context - needed:
        raise ValueError(f"a prompt of {tokens} tokens, where 1 to {context - needed} are taken")
    return context - tokens
