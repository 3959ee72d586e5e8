"""How many requests one teacher gets at once: more while that pays, half as many when it says that it is busy.

The first request goes alone: a wrong address, key or model costs one. Then the limit doubles a round as long as a
doubling brings more answers a second: a server with one slot would only queue what comes on top until it times out.
From the first 429 or 503 on it grows by one a round and halves at each further one (Jacobson, 1988, "Congestion
avoidance and control").
"""

from __future__ import annotations

from dataclasses import dataclass

START = 32
PAYS = 1.2
"""What a doubling of the limit must bring at least in answers a second to go on."""
ALONE = 2
"""The limit for a teacher that answers one request after the other: the next one waits there already."""


@dataclass(slots=True)
class Pace:
    """The limit of one teacher.

    Attributes:
        most: the limit that the user allows.
        limit: calls that may be under way; its whole part counts.
        rounds: how often it was halved. Calls know the round they were sent in.
        proven: whether the teacher has answered at all.
    """

    most: int
    limit: float = 1.0
    rounds: int = 0
    proven: bool = False
    _growing: bool = True
    _settled: bool = False
    _since: float | None = None
    _answers: int = 0
    _window: int = 1
    _rate: float = 0.0
    _before: float = 1.0

    def begin(self, now: float) -> None:
        """Called when requests are sent; the first time starts the clock."""
        if self._since is None:
            self._since = now

    def up(self, answers: int, now: float) -> None:
        """After answers. The first window is the first request: it tells what one at a time gives."""
        self._answers += answers
        if not self.proven:
            self.proven = True
            self.limit = float(min(START, self.most))
            self._judge(now)
            return
        if not self._settled:
            grown = self.limit + (answers if self._growing else answers / self.limit)
            self.limit = min(float(self.most), grown)
        if self._growing and self._answers >= self._window:
            self._judge(now)

    def down(self, round_: int) -> bool:
        """After a busy call of a round; calls of one round count once, since they were all sent at the old pace."""
        if round_ < self.rounds:
            return False
        self._growing = self._settled = False
        self.limit = max(1.0, self.limit / 2)
        self.rounds += 1
        return True

    def restart(self) -> None:
        """After an outage: one request, then more again."""
        self.limit, self._growing, self._settled = 1.0, True, False
        self._since, self._answers, self._window, self._rate = None, 0, 1, 0.0

    def _judge(self, now: float) -> None:
        """Compares the answers a second of this window with those of the one before."""
        rate = self._answers / max(1e-9, now - (now if self._since is None else self._since))
        if self._rate and rate < PAYS * self._rate:
            self.limit = max(float(ALONE), self._before)
            self._growing, self._settled = False, True
        self._growing = self._growing and self.limit < self.most
        self._before = self.limit if self._rate else 1.0
        self._rate, self._since, self._answers, self._window = rate, now, 0, int(self.limit)
