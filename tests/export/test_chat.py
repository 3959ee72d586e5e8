"""A chat template that was cut into texts writes every prompt as the whole template does, or is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgedistill.errors import StageError
from edgedistill.export.chat import cut
from edgedistill.runtime.turns import text
from edgedistill.teachers.chat import folded, text_of
from tests.distill.chats import CHATML, GEMMA, chat_tokenizer, turns

LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0].content %}"
    "{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message.content %}"
    "{% else %}{% set content = message.content %}{% endif %}"
    "{% if message.role == 'user' %}<bos>[INST] {{ content }} [/INST]{% else %} {{ content }} <eos>{% endif %}"
    "{% endfor %}"
)
MISTRAL = (  # the system's turn stands before the last question, not the first
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{% for message in rest %}{% if message.role == 'user' %}[INST] "
    "{% if loop.last and system is defined %}{{ system }}\n\n{% endif %}{{ message.content }}[/INST]"
    "{% else %} {{ message.content }}</s>{% endif %}{% endfor %}"
)
HALF = "{% for m in messages %}{{ m.role }}: {{ m.content.lstrip() }}\n{% endfor %}"
COUNTED = "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}"
TALKS = [
    turns("a"),
    turns(" a \n", system=" s \n"),
    turns("a", " b", "c\n"),
    turns("{{ x }}", "b ", " c", "d", "e", "f", "g", "h", "i", "j", "k", system="s"),
    turns(" ", "", " c"),
]


@pytest.mark.parametrize("template", [CHATML, GEMMA, LLAMA2, None], ids=["chatml", "gemma", "llama2", "none"])
@pytest.mark.parametrize("talk", TALKS)
def test_the_pieces_write_what_the_template_writes(template: str | None, talk: Any) -> None:
    tokenizer = chat_tokenizer(template)
    pieces = json.loads(json.dumps(cut(tokenizer)))
    assert text(pieces, talk) == text_of(tokenizer, folded(tokenizer, talk))


@pytest.mark.parametrize("template", [MISTRAL, HALF, COUNTED])
def test_a_template_that_looks_at_more_than_the_roles_is_refused(template: str) -> None:
    with pytest.raises(StageError, match="cannot be cut"):
        cut(chat_tokenizer(template))


@pytest.mark.parametrize("roles", [["tool"], ["user", "user"], ["user", "assistant"], []])
def test_turns_that_no_template_was_asked_about_are_refused(roles: list[str]) -> None:
    pieces = cut(chat_tokenizer())
    with pytest.raises(ValueError, match="takes no"):
        text(pieces, [{"role": role, "content": "a"} for role in roles])
