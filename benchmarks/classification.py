"""Distils a classifier from any folder of rows and prints how it compares with its teacher.

    python benchmarks/classification.py --data FOLDER

FOLDER has train.jsonl, validation.jsonl and test.jsonl with the fields text and label. The teacher (MiniLM-L6) is
fine-tuned on the same rows; every figure of the exported file is taken in the same run as the teacher's. The last line
printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from edgedistill import pipeline
from edgedistill.config import read_request
from edgedistill.terminal import Lines, verdict

CONFIG = Path(__file__).with_name("clinc150.toml")


def main() -> None:
    """Builds once from nothing and prints the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with train, validation and test.jsonl")
    parser.add_argument("--config", type=Path, default=CONFIG, help="an edgedistill.toml (default: clinc150.toml)")
    parser.add_argument("--target", default=None, help="a board (default: the configuration's)")
    parser.add_argument("--out", type=Path, help="keep bundle, report and stages here (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = (options.out or Path(folder)) / "dist"
        request = read_request(
            options.config, target=options.target, data=str(options.data.absolute()), out=out, seed=options.seed
        )
        started = time.monotonic()
        with Lines() as lines:
            built = pipeline.build(request, lines)
        seconds = time.monotonic() - started
        console = Console(highlight=False)
        for part in verdict(built.report):
            console.print(part)
        print(json.dumps(figures(built.report, seconds), sort_keys=True))


def figures(report: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The figures that the record keeps: fractions of the teacher's accuracy, and how many times better."""
    contrasts = {contrast["name"]: contrast["estimate"] for contrast in report["contrasts"]}
    retained, gain = contrasts["retained"], contrasts["distillation"]
    found = {
        "retained": retained["value"],
        "retained_low": retained["low"],
        "retained_high": retained["high"],
        "control_retained": contrasts["control_retained"]["value"],
        "distillation_points": gain["value"],
        "distillation_points_low": gain["low"],
        "distillation_points_high": gain["high"],
        **{f"{key}_ratio": estimate["value"] for key, estimate in report["ratios"].items()},
        **{f"{arm['name']}_accuracy": arm["metrics"]["accuracy"]["value"] for arm in report["arms"]},
        "recipe": report["export"]["recipe"],
        "seconds": seconds,
    }
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}


if __name__ == "__main__":
    main()
