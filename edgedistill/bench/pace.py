"""How long the rest of a benchmark takes, from what its steps took until now.

A cell in a browser takes a second and one under emulation a minute, so steps are not counted: each is expected to take
what the same one took before, else what it took on other devices, else a guess.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

GUESS_S: Mapping[str, float] = {"looking": 2, "threads": 20, "timing": 15, "writing": 60, "memory": 5, "answers": 5}
"""Of a small model on a slow board; it stands until the first step of the kind has ended."""


class Pace:
    """The steps of all courses, and the time that they take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._expected: Counter[tuple[Hashable, str]] = Counter()
        self._took: defaultdict[tuple[Hashable, str], list[float]] = defaultdict(list)

    def expect(self, who: Hashable, what: str, times: int = 1) -> None:
        """So many more steps of a kind are going to be made."""
        self._expected[who, what] += times

    def drop(self, who: Hashable) -> None:
        """Nothing more is expected of one."""
        for key in [key for key in self._expected if key[0] == who]:
            del self._expected[key]

    @contextmanager
    def step(self, who: Hashable, what: str) -> Iterator[None]:
        """What is done in it is one of the steps that were expected, or one more."""
        started = self._clock()
        self._expected[who, what] = max(1, self._expected[who, what])
        yield
        self._took[who, what].append(self._clock() - started)
        self._expected[who, what] -= 1

    @property
    def spent_ms(self) -> int:
        """Since the beginning."""
        return round(1e3 * (self._clock() - self._started))

    @property
    def left_ms(self) -> int:
        """Of the steps that are expected, the one that is being made among them."""
        return round(1e3 * sum(times * self._usual_s(*key) for key, times in self._expected.items()))

    def _usual_s(self, who: Hashable, what: str) -> float:
        own = self._took.get((who, what), [])
        others = [took for (_, kind), found in self._took.items() for took in found if kind == what]
        known = own or others
        return median(known) if known else GUESS_S[what]
