"""How much of its teacher a small encoder keeps, in PyTorch, and what plain distillation of the same student keeps.

    python benchmarks/distillation.py --data FOLDER [--out FOLDER]

FOLDER holds clinc150 and sick_nli, each with train.jsonl, validation.jsonl and test.jsonl; one that is not there is
left out, and said. The teacher (MiniLM-L6) is fine-tuned on the same rows. Plain distillation is the same student with
the same steps, cross-entropy and KL to the teacher: no hidden states are matched. `seconds` is the student's training,
without its control arm and after the teacher was asked. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedistill import pipeline
from edgedistill.config import Request, read_request
from edgedistill.stages import Watch
from edgedistill.terminal import Lines

CONFIGS = {name: Path(__file__).with_name(f"{name}.toml") for name in ("clinc150", "sick_nli")}
PLAIN = {"hidden_weight": 0.0}
DEEPER = {"clinc150": {"layers": 5, "ffn": 384, "vocabulary": 5500}}
"""Students of 30 % of the teacher's parameters; what the configurations build for a device is smaller and faster."""


class Clock:
    """Passes on what is said about stages, and keeps how long the student took."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.seconds: dict[str, float] = {}
        self.begin = lines.begin

    def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
        """A stage is done."""
        self.seconds[stage] = seconds
        self._lines.end(stage, seconds, cached=cached, note=note)


def main() -> None:
    """Distils each task twice and prints what is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with clinc150 and sick_nli in it")
    parser.add_argument("--out", type=Path, help="keep students and stages here (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, config in CONFIGS.items():
            rows = options.data / name
            if not rows.is_dir():
                print(f"{rows} is not there: {name} is left out")
                continue
            out = (options.out or Path(folder)) / "dist"
            request = read_request(config, data=str(rows.absolute()), out=out, seed=options.seed)
            student = request.student.model_copy(update=DEEPER.get(name, {}))
            found[name] = kept(request.model_copy(update={"name": f"{name}-distillation", "student": student}))
            print(json.dumps({name: found[name]}, sort_keys=True))
    print(json.dumps(found, sort_keys=True))


def kept(request: Request) -> dict[str, float]:
    """The figures of one task."""
    ours, seconds = distilled(request)
    settings = request.distill.model_copy(update=PLAIN)
    plain, _ = distilled(request.model_copy(update={"name": f"{request.name}-plain", "distill": settings}))
    retained, bare = (contrasts(training)["retained"] for training in (ours, plain))
    parameters = ours["parameters"]
    figures = {
        "retained": retained["value"],
        "retained_low": retained["low"],
        "retained_high": retained["high"],
        "plain_kd_retained": bare["value"],
        "control_retained": contrasts(ours)["control_retained"]["value"],
        "parameter_ratio": parameters["student"] / parameters["teacher"],
        "seconds": seconds,
        **{f"{arm['name']}_accuracy": arm["metrics"]["accuracy"]["value"] for arm in ours["arms"]},
    }
    return {name: round(value, 4) for name, value in figures.items()}


def distilled(request: Request) -> tuple[dict[str, Any], float]:
    """What is known about one training, and the seconds that the student took; 0 when it was there already."""
    with Lines() as lines:
        clock = Clock(lines)
        watch: Watch = clock
        done = pipeline.distill(request, watch)
    return done.training, clock.seconds["student"]


def contrasts(training: Mapping[str, Any]) -> dict[str, Any]:
    """The comparisons of a training by their names."""
    return {contrast["name"]: contrast["estimate"] for contrast in training["contrasts"]}


if __name__ == "__main__":
    main()
