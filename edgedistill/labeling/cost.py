"""What answers cost: a price table that people can edit, an estimate beforehand, and a budget that holds.

Prices are USD per million tokens. The first of these that names a model counts: `price` of the teacher in
edgedistill.toml, `[label.prices]` there, the table `prices.toml` of this package. A local teacher costs nothing.
"""

from __future__ import annotations

import fnmatch
import math
import string
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from edgedistill.types import Ask, Reply

TABLE = Path(__file__).with_name("prices.toml")
MILLION = 1_000_000
CHARACTERS_PER_TOKEN = 3.0
"""Low on purpose: English has about four. A reservation that is too high only waits; one too low overspends."""
BYTES_PER_TOKEN = 1.5
"""Of characters beyond ASCII: a Chinese one has three bytes, and is up to two tokens. A digit or a mark may be one."""
_LETTERS = (string.ascii_letters + string.whitespace).encode()
TOKENS_PER_MESSAGE = 8
"""What chat templates put around each message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD per million tokens. `batch` is the factor that a provider's batch mode multiplies it by."""

    input: float
    output: float
    batch: float = 1.0
    source: str = ""

    def of(self, reply: Reply, *, batch: bool = False) -> float:
        """What an answer cost, in USD, from the tokens that the endpoint counted."""
        return self._usd(reply.prompt_tokens, reply.completion_tokens, batch=batch)

    def most(self, ask: Ask, *, batch: bool = False) -> float:
        """The most that a request can cost, in USD: its prompt, rounded up, and as many tokens as it may answer."""
        return self._usd(prompt_tokens(ask), ask.max_tokens, batch=batch)

    def _usd(self, read: float, written: float, *, batch: bool) -> float:
        return (
            (max(0.0, read) * self.input + max(0.0, written) * self.output) / MILLION * (self.batch if batch else 1.0)
        )


FREE = Price(input=0.0, output=0.0, source="runs here")


def prompt_tokens(ask: Ask) -> int:
    """An upper estimate of a prompt's tokens, the schema included."""
    text = "".join([*(message["content"] for message in ask.messages), str(ask.schema or "")])
    plain = text.encode("ascii", "ignore")
    marks = len(plain.translate(None, _LETTERS))
    beyond = len(text.encode(errors="replace")) - len(plain)
    tokens = (len(plain) - marks) / CHARACTERS_PER_TOKEN + marks + beyond / BYTES_PER_TOKEN
    return math.ceil(tokens) + TOKENS_PER_MESSAGE * (len(ask.messages) + 1)


def price_of(model: str, own: Sequence[Mapping[str, object]] = ()) -> Price | None:
    """The price of a model by its name; the longest pattern that matches wins, the user's own come first.

    Args:
        own: entries of the same form as in the table: model, input, output.
    """
    for table in (own, _table()):
        # A name may hold brackets, which are no pattern then.
        matching = [entry for entry in table if str(entry["model"]).lower() == model.lower()] or [
            entry for entry in table if fnmatch.fnmatchcase(model.lower(), str(entry["model"]).lower())
        ]
        if matching:
            best = max(matching, key=lambda entry: len(str(entry["model"]).rstrip("*")))
            return Price(
                input=_number(best, "input"),
                output=_number(best, "output"),
                batch=_number(best, "batch", 1.0),
                source=str(best.get("source", "edgedistill.toml")),
            )
    return None


def _number(entry: Mapping[str, object], key: str, otherwise: float = 0.0) -> float:
    value = entry.get(key, otherwise)
    return float(value) if isinstance(value, (int, float)) else otherwise


@cache
def _table() -> tuple[Mapping[str, object], ...]:
    return tuple(tomllib.loads(TABLE.read_text(encoding="utf-8"))["price"])


@dataclass(slots=True)
class Budget:
    """Money that a run may spend, in USD. A request is sent only if the most that it can cost is still there.

    Attributes:
        limit: None for no limit.
        spent: paid for answers, and the most that lost requests can have cost; of earlier runs too.
    """

    limit: float | None
    spent: float = 0.0
    reserved: float = 0.0
    _released: list[Callable[[], None]] = field(default_factory=list)

    def reserve(self, usd: float) -> bool:
        """Sets money aside for a request. False when it is not there."""
        if self.limit is not None and self.spent + self.reserved + usd > self.limit:
            return False
        self.reserved += usd
        return True

    def settle(self, reserved: float, spent: float) -> None:
        """Books what a request cost in the end, and lets those who wait for money know."""
        self.reserved = max(0.0, self.reserved - reserved)
        self.spent += spent
        if self.limit is not None:
            for tell in self._released:
                tell()

    def on_release(self, tell: Callable[[], None]) -> None:
        """Calls back whenever a reservation ends."""
        self._released.append(tell)
