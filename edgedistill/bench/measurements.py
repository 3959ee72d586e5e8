"""Measurements to canonical JSON and back, so that the store can keep them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgedistill.store import canonical
from edgedistill.types import Measurement, NotMeasured, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What was measured of the contestants, and on what: the two never part."""

    subjects: tuple[Subject, ...]
    environment: Mapping[str, str]


def to_json(found: Sequence[Measurement | NotMeasured]) -> bytes:
    """Canonical JSON of a list of measurements."""
    return canonical([asdict(measurement) for measurement in found])


def from_json(raw: bytes) -> tuple[Measurement | NotMeasured, ...]:
    """What `to_json` wrote."""
    return tuple(_measurement(plain) for plain in json.loads(raw))


def benchmark_to_json(found: Benchmark) -> bytes:
    """Canonical JSON of a benchmark."""
    return canonical(asdict(found))


def benchmark_from_json(raw: bytes) -> Benchmark:
    """What `benchmark_to_json` wrote."""
    plain = json.loads(raw)
    return Benchmark(
        subjects=tuple(
            Subject(**subject | {"measurements": tuple(_measurement(m) for m in subject["measurements"])})
            for subject in plain["subjects"]
        ),
        environment=plain["environment"],
    )


def _measurement(plain: Mapping[str, Any]) -> Measurement | NotMeasured:
    if "reason" in plain:
        return NotMeasured(**plain)
    interval = None if plain["interval"] is None else (plain["interval"][0], plain["interval"][1])
    rest = {key: value for key, value in plain.items() if key not in {"median", "values", "interval"}}
    return Measurement(**rest, values=tuple(plain["values"]), interval=interval)
