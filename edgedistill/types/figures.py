"""Numbers that say how they came about."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["measured", "emulated", "predicted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval; all three in the unit that the field around it names."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number with the samples it came from.

    `kind` says where the clock stood: on the device itself, under emulation, or in the predictor's head.
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
class NotMeasured:
    """A number that is missing, with the reason and, where there is one, the remedy."""

    name: str
    reason: str
    remedy: str | None = None
