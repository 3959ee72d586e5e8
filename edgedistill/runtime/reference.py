"""A fixed piece of work that no bundle changes: how fast the machine itself was when a bundle was timed.

Two results of one machine are compared by it: where the reference takes 4 % longer, the clock was lower.
"""

import time

import numpy as np

WIDTH = 192
"""Three matrices of 150 kB: they stay in the second cache of every board, so it is the clock that is seen."""
CALLS = 40
"""Of about a third of a millisecond each: short enough for some to run undisturbed between two turns of others."""


def times_ms() -> list[float]:
    """The time of each of some products of two float32 matrices, in ms. Their least is the machine's speed.

    Call it behind the timed part: before it, it would be a part of the cold start.
    """
    chance = np.random.default_rng(0)
    a, b = (chance.standard_normal((WIDTH, WIDTH), dtype=np.float32) for _ in range(2))
    found = []
    for _ in range(CALLS):
        started = time.perf_counter_ns()
        a @ b
        found.append((time.perf_counter_ns() - started) / 1e6)
    return found
