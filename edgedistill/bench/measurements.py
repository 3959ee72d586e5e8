"""Measurements to canonical JSON and back, so that the store can keep them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edgedistill.store import canonical
from edgedistill.types import Measurement, NotMeasured, Subject


def to_json(found: Sequence[Measurement | NotMeasured]) -> bytes:
    """Canonical JSON of a list of measurements."""
    return canonical([asdict(measurement) for measurement in found])


def from_json(raw: bytes) -> tuple[Measurement | NotMeasured, ...]:
    """What `to_json` wrote."""
    return tuple(_measurement(plain) for plain in json.loads(raw))


def subjects_to_json(subjects: Sequence[Subject]) -> bytes:
    """Canonical JSON of what was measured of several contestants."""
    return canonical([asdict(subject) for subject in subjects])


def subjects_from_json(raw: bytes) -> tuple[Subject, ...]:
    """What `subjects_to_json` wrote."""
    return tuple(
        Subject(**plain | {"measurements": tuple(_measurement(m) for m in plain["measurements"])})
        for plain in json.loads(raw)
    )


def _measurement(plain: Mapping[str, Any]) -> Measurement | NotMeasured:
    if "reason" in plain:
        return NotMeasured(**plain)
    interval = None if plain["interval"] is None else (plain["interval"][0], plain["interval"][1])
    rest = {key: value for key, value in plain.items() if key not in {"median", "values", "interval"}}
    return Measurement(**rest, values=tuple(plain["values"]), interval=interval)
