"""A chat template cut into plain texts, so that the device writes prompts without an engine for templates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgedistill.errors import StageError
from edgedistill.runtime.turns import END, text
from edgedistill.teachers.chat import folded, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from edgedistill.types import Message

MOST_QUESTIONS = 4
"""Of the conversations on which a template is tried. From the second question on, templates treat all alike."""
PROBES = ("Two words", "{{ 7 * 7 }} {% if x %}", "Ünïcödé 水 🙂", " a\n\n  b\tc \n", "[INST] <<SYS>> ### User: 'x'")
"""What the turns say when the cut is compared with the template."""


def cut(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The texts that a chat template writes before, between and behind the turns, by the roles on both sides.

    What a template does with the date is fixed on the day of the export, and thoughts that an earlier answer holds
    stay where they are.

    Returns:
        The pieces that `edgedistill.runtime.turns` reads; with a tokenizer that has no template, blank lines.

    Raises:
        StageError: what the template writes between two turns depends on more than their roles.
    """
    between: dict[str, dict[str, str]] = {}
    conversations = _conversations()
    folds = len(folded(tokenizer, _turns(["system", "user"], ["", ""]))) == 1
    for roles in conversations:
        if folds and roles[0] == "system":
            continue
        marks = [f"Qx{number}xQ" for number in range(len(roles))]
        written = _written(tokenizer, roles, marks)
        for before, role, mark in zip([END, *roles], [*roles, END], [*marks, None], strict=True):
            found, _, written = written.partition(mark) if mark else (written, "", "")
            if between.setdefault(before, {}).setdefault(role, found) != found or "Qx" in found:
                raise _uncut(
                    f"it writes {found!r} between {before or 'nothing'} and {role or 'the answer'} only at times"
                )
    longest = [role for role in conversations[-2] if not (folds and role == "system")]
    pieces: dict[str, Any] = {"between": between, "trimmed": _trimmed(tokenizer, longest), "folds": folds}
    for roles in conversations:
        for start in range(len(PROBES)):
            contents = [PROBES[(start + place) % len(PROBES)] for place in range(len(roles))]
            if text(pieces, _turns(roles, contents)) != _written(tokenizer, roles, contents):
                raise _uncut(f"it changes what a turn says, such as one of {contents!r}")
    return pieces


def _conversations() -> list[list[str]]:
    """Orders of roles: with and without a system's turn, of one question and of several."""
    return [
        [*first, *["user", "assistant"] * (questions - 1), "user"]
        for questions in range(1, MOST_QUESTIONS + 1)
        for first in (("system",), ())
    ]


def _trimmed(tokenizer: PreTrainedTokenizerBase, roles: list[str]) -> list[str]:
    """The roles whose turns lose the space around what they say."""
    marks = [f"Qx{number}xQ" for number in range(len(roles))]
    plain = _written(tokenizer, roles, marks)
    return [
        role
        for role in dict.fromkeys(roles)
        if _written(
            tokenizer, roles, [f" \n{mark}\n " if own == role else mark for own, mark in zip(roles, marks, strict=True)]
        )
        == plain
    ]


def _written(tokenizer: PreTrainedTokenizerBase, roles: list[str], contents: list[str]) -> str:
    from jinja2 import TemplateError

    try:
        return text_of(tokenizer, folded(tokenizer, _turns(roles, contents)))
    except TemplateError as error:
        raise _uncut(f"it refuses {', '.join(roles)}: {error}") from error


def _turns(roles: list[str], contents: list[str]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def _uncut(reason: str) -> StageError:
    return StageError(
        f"the chat template cannot be cut into pieces: {reason}",
        hint="export to GGUF, whose engine runs the template itself",
    )
