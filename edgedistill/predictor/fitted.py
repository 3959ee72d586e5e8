"""What the fit on published rows came to: a few numbers for each board and form, which travel with the package.

The rows themselves do not. `python benchmarks/predictor.py --rows CSV --write` makes the file anew.

A board that has rows keeps what they say against its profile's bandwidth or throughput; every other board, one of your
own among them, takes its profile as it stands, with the spread that profiles have had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgedistill.catalog import read_toml
from edgedistill.predictor.law import MATRIX_ISA, METRICS, SIZE, THREADS, Metric, of_form, of_profile, width
from edgedistill.predictor.names import Quantization
from edgedistill.types import Device

FILE = Path(__file__).with_name("fitted.toml")
EXTRAPOLATED = 0.2
"""Deviation for each unit of log size beyond the sizes that rows have: a judgement, for small models have overheads."""
NEAR = 0.2
"""Of log size: what is worth no word."""
OTHER = "other"
"""Forms that no row has."""
NO_ROWS = "the board's profile alone, for nobody has published decoders on it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Log of a speed against what a profile promises, and its standard deviation for a new model."""

    log: float
    deviation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """What the rows say of one metric.

    Attributes:
        scale: deviations that an interval of `LEVEL` has to each side.
        sizes: log of the smallest and the largest size that rows have.
        slope: of log speed over log size, with `slope_deviation`; sizes are relative to `SIZE`.
        boards: by name of the profile and form; `any_board` by form, its deviation without that between boards.
    """

    scale: float
    slope: float
    slope_deviation: float
    sizes: tuple[float, float]
    boards: Mapping[str, Mapping[str, Level]]
    any_board: Mapping[str, Level]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Bytes a second that decoding reads, or operations a second of a prompt.

    Attributes:
        factor: an interval of `LEVEL` reaches from value / factor to value × factor.
        why: what it rests on.
    """

    value: float
    factor: float
    why: str


def rate(
    device: Device, metric: Metric, form: Quantization, work: float, *, threads: int, falls_back: bool = False
) -> Rate:
    """How fast a board works through a token.

    Args:
        work: bytes that a token reads, or operations that it takes.
        threads: of the board's cores.
        falls_back: a k-quant that does not fit the model's width.
    """
    law, expected = laws()[metric], of_profile(device, metric)
    known = law.boards.get(device.name, {})
    level = known.get(form.kind) or known.get(OTHER)
    spread, why = (0.0, "published rows of this board") if level else (expected.spread, NO_ROWS)
    level = level or law.any_board.get(form.kind) or law.any_board[OTHER]
    size = math.log(work / SIZE)
    share = min(1.0, threads / device.cores)
    log = level.log + law.slope * size + THREADS[metric] * math.log(share)
    log += of_form(form, metric, grouped=bool(MATRIX_ISA & set(device.isa)), falls_back=falls_back)
    beyond = max(law.sizes[0] - size, size - law.sizes[1], 0.0)
    if beyond > NEAR:
        why += "; models of this size have no rows"
    model = math.hypot(level.deviation, law.slope_deviation * size, EXTRAPOLATED * beyond)
    return Rate(value=expected.value * math.exp(log), factor=math.exp(width(model, spread, law.scale)), why=why)


@cache
def laws() -> Mapping[Metric, Law]:
    """What the file of the package says."""
    found: Any = read_toml(FILE)
    return {metric: _law(found[metric]) for metric in METRICS}


def _law(found: Mapping[str, Any]) -> Law:
    def levels(table: Mapping[str, Sequence[float]]) -> dict[str, Level]:
        return {form: Level(log=log, deviation=deviation) for form, (log, deviation) in table.items()}

    return Law(
        scale=found["scale"],
        slope=found["slope"],
        slope_deviation=found["slope_deviation"],
        sizes=(found["sizes"][0], found["sizes"][1]),
        boards={name: levels(table) for name, table in found["boards"].items()},
        any_board=levels(found["any_board"]),
    )
