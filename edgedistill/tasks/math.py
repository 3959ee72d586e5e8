"""Word problems with a number as the answer, written as in GSM8K: the working, then `#### number`."""

from __future__ import annotations

import logging
import re
from typing import Any

from edgedistill.errors import MissingExtra
from edgedistill.tasks.task import Answer, Row, Style, Task, Unusable, whole

MARK = "####"
LONGEST = 100
_TOWER = re.compile(
    r"(\^|\*\*).*(\^|\*\*)|!"
    r"|(\^|\*\*)(?!\s*(?:[+-]?\d{1,3}(?![\d.])|[({]\s*[+-]?\d{1,3}(?:[./]\d{1,3})?\s*[)}]|\{?\s*\\circ))"
)
"""Powers of powers, exponents that are no small number, and factorials: working them out would take for ever."""
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})+)\}")
_SCIENTIFIC = re.compile(r"(\d)[eE]([+-]?\d+)")
_LATEX = re.compile(r"\^\{|\\(?:sqrt|times|cdot|pi)")


class Math(Task):
    """A question in, its working and a verified final answer out. Judged by the share of right answers."""

    name = "math"
    inputs = ("question",)
    target = "answer"
    max_tokens = 400
    verifies_gold = True
    instruction = (
        f"Solve the problem in short steps. Write the final answer alone on the last line as {MARK} followed by the "
        "number, without units."
    )

    def system(self, row: Row, style: Style) -> str:
        """The working is always asked for: without it even big models guess."""
        return super().system(row, Style(labels=style.labels, instruction=style.instruction))

    def schema(self, style: Style) -> dict[str, Any] | None:
        """Plain text: long working inside a JSON string is what models get wrong."""
        return None

    def parse(self, text: str, row: Row, style: Style) -> Answer:
        """The number after the mark, or in a LaTeX box; what stands before it is the rationale."""
        working, mark, final = text.rpartition(MARK)
        if not mark:
            boxed = _BOXED.findall(text)
            if not boxed:
                raise Unusable(f"no final answer after {MARK}")
            working, final = text, boxed[-1]
        line = final.strip().split("\n")[0].strip()
        if not _parsed(whole(line)):
            raise Unusable(f"{line[:40]!r} after {MARK} is no number")
        return Answer(value=f"{MARK} {line}", rationale=whole(working.strip()) or None)

    def verify(self, answer: Answer, row: Row) -> str | None:
        """Right when math-verify finds it equal to the answer that the row came with."""
        gold = self.gold(row)
        if gold is None or same(answer.value, gold):
            return None
        return f"the answer {final(answer.value)} is not {final(gold)}"

    def score(self, answer: str, reference: str) -> float:
        """1.0 when the final answers are equal as numbers."""
        return float(same(answer, reference))


def final(answer: str) -> str:
    """What stands after the mark, without thousands separators; the whole text when there is no mark."""
    return answer.rpartition(MARK)[2].strip().replace(",", "")


def same(answer: str, reference: str) -> bool:
    """Whether two final answers are the same number, by math-verify."""
    if final(answer) == final(reference):
        return True
    verify = _math_verify().verify
    # Its own time-outs use signals, which only a main thread may set.
    return bool(verify(_parsed(final(reference)), _parsed(final(answer)), timeout_seconds=None))


def _parsed(text: str) -> list[Any]:
    """The numbers that math-verify reads in a text; none in one that is too long or a tower of powers."""
    if len(text) > LONGEST:
        return []
    text = _plain(text)
    if _TOWER.search(text):
        return []
    found: list[Any] = _math_verify().parse(text, parsing_timeout=None)
    return found


def _plain(text: str) -> str:
    """A number without what would make math-verify read half of it: bold type, separators, LaTeX without its signs."""
    text = text.strip().replace(",", "").replace("\N{MINUS SIGN}", "-").replace("\\$", "").rstrip(".")
    if text.startswith("**"):
        text = text.strip("*")
    text = _SCIENTIFIC.sub(r"\1*10^(\2)", text)
    if _LATEX.search(text) and not re.search(r"[A-Za-z%]", re.sub(r"\\[A-Za-z]+", "", text)):
        text = f"${text.replace('$', '')}$"
    return text


def _math_verify() -> Any:
    try:
        import math_verify
    except ImportError as error:
        raise MissingExtra("math-verify", extra="label") from error
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of every call without a time-out
    return math_verify
