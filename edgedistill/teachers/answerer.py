"""What the labelling stage needs of a teacher, and the ways in which an answer can fail to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edgedistill.types import Ask, Reply, Signal


class Answerer(Protocol):
    """A teacher that answers requests: an endpoint, a GGUF file, a checkpoint.

    Attributes:
        name: for people: in progress lines, the ledger, and each row's field `teacher`.
        identity: everything that decides its answers; part of the key of every request. No secrets.
        gives: the signals it can give.
        enforces: whether a JSON schema is enforced while it writes, rather than only asked for.
        batch: how many requests one call takes.
        slots: how many calls may be under way at once, at most.
        linger_s: how long to wait for more requests before a call that is not full.
    """

    @property
    def name(self) -> str:
        """Its name for people."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that decides its answers."""

    @property
    def gives(self) -> tuple[Signal, ...]:
        """The signals it can give."""

    @property
    def enforces(self) -> bool:
        """Whether it holds an answer to its schema."""

    @property
    def batch(self) -> int:
        """Requests in one call."""

    @property
    def slots(self) -> int:
        """Calls under way at once, at most."""

    @property
    def linger_s(self) -> float:
        """Seconds to wait for a fuller call."""

    async def answer(self, asks: Sequence[Ask]) -> Sequence[Reply | Failure]:
        """One reply to each request, in their order, or why there is none.

        Raises:
            Failure: one of the kinds below; it holds for all requests of the call.
            EdgeDistillError: no request can be answered, so the run must stop.
        """

    async def close(self) -> None:
        """Lets connections and memory go."""


class Failure(Exception):
    """A call that came to nothing. The message says why, without secrets.

    Attributes:
        charged: the request was sent and may have been paid for.
    """

    def __init__(self, reason: str, *, charged: bool = False) -> None:
        super().__init__(reason)
        self.charged = charged


class Busy(Failure):
    """The endpoint wants less: try again later, with fewer at once. `wait_s` is what it asked for, if it did."""

    def __init__(self, reason: str, *, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Broken(Failure):
    """An error on the way or in the endpoint, or an answer that cannot be read: the same request may work next time."""


class Declined(Failure):
    """The endpoint will not answer this request however often it is asked; others may work."""
