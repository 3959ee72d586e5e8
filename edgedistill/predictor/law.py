"""The form of a prediction for decoders: what a board promises, and what the form of the weights makes of it.

Decoding is bound by memory: tokens a second × the bytes that a token reads is a bandwidth, and one that hardly changes
with the model. Reading a prompt is bound by arithmetic: tokens a second × two operations for each weight of a layer is
a throughput. Both depend on the board and on the form of the weights. How much, `speed` finds in published rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgedistill.predictor.names import Quantization
from edgedistill.types import Device

Metric = Literal["decode", "prefill"]
METRICS: tuple[Metric, ...] = ("decode", "prefill")
LEVEL = 0.9
"""Of every interval in this package that is called one."""
SIZE = 1e9
"""Bytes read and operations done for a token, against which the slope over size is taken."""
NORMAL = 1.645
"""Deviations to each side that hold 90 % of a normal distribution: where there is no error to scale by."""
THREADS: Mapping[Metric, float] = {"decode": 0.75, "prefill": 0.95}
"""Speed grows with this power of the threads: memory is shared, arithmetic is not. From an M4 and a Pi 5, 1 to 10."""
PLAIN_KERNELS: Mapping[Metric, float] = {"decode": -0.05, "prefill": -0.8}
"""Log speed of forms that no kernel for several rows at once reads, against those with one, on boards with dotprod:
Q5_0, which a k-quant becomes where it does not fit, and Q4_K to Q8_0 before 2025. From Q3_K against Q4_0 on phones."""
GROUPED = frozenset({"q4_k", "q5_k", "q6_k", "q8_0"})
INT8_SHARE = {True: 0.5, False: 0.25}
"""Throughput of a prompt against int8 of all cores as the profile has it, with dot-product instructions and without."""
# Standard deviations, in log speed, of what is expected of a board before a row of it is seen.
SOURCED, ASSUMED, COPIED, UNKNOWN = 0.35, 0.6, 0.4, 1.1
MATRIX_ISA = frozenset({"dotprod", "i8mm", "avx-vnni", "avx512-vnni"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Of a board before any decoder was timed on it: bytes or operations a second, and the deviation of their log.

    Attributes:
        why: what it is taken from.
    """

    value: float
    spread: float
    why: str


def of_profile(device: Device, metric: Metric) -> Expected:
    """What a profile promises, all cores at work."""
    if metric == "decode":
        assumed = device.sources.get("bandwidth_bytes_s", "assumed").startswith("assumed")
        return Expected(
            value=device.bandwidth_bytes_s, spread=ASSUMED if assumed else SOURCED, why="the profile's bandwidth"
        )
    fact = device.gops["int8"]
    share = INT8_SHARE[bool(MATRIX_ISA & set(device.isa))]
    spread = ASSUMED + 0.25 if fact.trust == "assumed" else SOURCED + 0.25
    return Expected(value=fact.value * 1e9 * device.cores * share, spread=spread, why="the profile's int8 throughput")


def of_form(form: Quantization, metric: Metric, *, grouped: bool, old: bool = False, falls_back: bool = False) -> float:
    """Log speed that is expected of a form of the weights, against one with the best kernels.

    Args:
        grouped: the board has kernels that read several rows at once.
        old: the row is from before most forms had them.
        falls_back: a k-quant that does not fit the model's width.
    """
    plain = form.narrow or form.kind == "q5_0" or (falls_back and form.kind in ("q4_k", "q5_k"))
    log = PLAIN_KERNELS[metric] if grouped and (plain or (old and form.kind in GROUPED)) else 0.0
    # Below 4 bits the time goes into unpacking, which takes as long for a weight however few bits it has.
    return log + (math.log(min(1.0, form.bits / 4)) if metric == "decode" else 0.0)


def width(deviation: float, spread: float, scale: float) -> float:
    """Half an interval of `LEVEL`, in log speed.

    Args:
        deviation: with the board known, and `spread` what is added where it is not: nothing measured scales that.
    """
    return math.hypot(scale * deviation, NORMAL * spread)


def parted(deviation: float, spread: float) -> tuple[float, float]:
    """A deviation without that between boards, and that: of a board that no row is from, else 0."""
    return math.sqrt(max(1e-12, deviation**2 - spread**2)), spread
