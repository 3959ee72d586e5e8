"""Invented rows: three boards that read at known speeds, and models of known sizes."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from edgedistill.predictor import names
from edgedistill.predictor.rows import COLUMNS

Row = Mapping[str, str]
MODELS = ("alpha-1b", "beta-2b", "gamma-3b", "delta-7b", "epsilon-1.5b")
BANDWIDTH = {"Slow board": 5e9, "Fast phone": 40e9, "Odd box": 12e9}


def row(**changes: object) -> Row:
    """A row of llama.cpp with confidence A; what is not given is as usual."""
    usual: dict[str, object] = {
        "device": "Slow board",
        "runtime": "llama.cpp",
        "backend": "cpu",
        "model": "alpha-1b",
        "quant": "Q4_0",
        "metric": "decode",
        "value": 10.0,
        "unit": "tok/s",
        "confidence": "A",
    }
    return {name: str({**usual, **changes}.get(name, "")) for name in COLUMNS}


def invented(boards: Sequence[str] = tuple(BANDWIDTH), quants: Sequence[str] = ("Q4_0", "Q8_0")) -> list[Row]:
    """Rows that obey the law exactly: decoding at the board's bandwidth, prompts at ten operations a byte of it."""
    found = []
    for device in boards:
        for model in MODELS:
            for quant in quants:
                sizes, form = names.decoder(model), names.quantization(quant)
                assert sizes is not None
                assert form is not None
                speed = BANDWIDTH[device] / sizes.bytes_read(form)
                found.append(row(device=device, model=model, quant=quant, value=speed))
                prompt = 10 * BANDWIDTH[device] / (2 * sizes.active)
                found.append(row(device=device, model=model, quant=quant, metric="prefill", value=prompt))
    return found


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows into a file."""

    def written(rows: Sequence[Row], name: str = "rows.csv") -> Path:
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        return path

    return written
