"""Numbers that say how they came about."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["measured", "emulated", "predicted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval; all three in the unit that the field around it names.

    Attributes:
        value: the figure.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number with the samples it came from.

    `kind` says where the clock stood: on the device itself, under emulation, or in the predictor's head.

    Attributes:
        name: what was measured; "@64" behind it is the length of the prompt in tokens.
        unit: ms, rows/s, tokens/s, bytes, J, share (of 1), or none.
        kind: measured on that device, emulated (answers and memory, never time), or predicted.
        values: every sample, in the unit, in the order in which they were taken; percentiles come from them.
        interval: 95 % bootstrap interval of the median; null where there is one value a round.
        stable: false when a rule of the protocol was broken: do not believe the figure, and compare it with nothing.
        median: of the values.
    """

    name: str
    unit: str
    kind: Kind
    values: tuple[float, ...]
    interval: tuple[float, float] | None = None
    stable: bool = True
    median: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "median", statistics.median(self.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedMeasurement(Measurement):
    """One number that a predictor gives.

    Attributes:
        interval: both ends of what `called` names.
        called: "90 % interval" where errors on published rows stand behind it, else "rough range".
    """

    kind: Kind = "predicted"
    called: str = "rough range"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMeasured:
    """A number that is missing, with the reason and, where there is one, the remedy.

    Attributes:
        name: what was not measured.
        reason: why.
        remedy: what to do about it.
    """

    name: str
    reason: str
    remedy: str | None = None
