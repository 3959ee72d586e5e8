"""Devices that are made up: what a link would bring from one, so that every rule can be met on any machine."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from edgedistill.errors import EngineCrashed
from edgedistill.links.link import EVERYTHING, Facts, Link
from edgedistill.store import canonical, digest
from edgedistill.types import Cell, Kind, What

LABELS = ("off", "on")
QUIET = {"clock_hz": 2e9, "max_clock_hz": 2.4e9, "governor": "performance", "temperature_c": 50.0, "throttled": []}


def timing(chance: random.Random, texts: int, *, passes: int = 2, factor: float = 1.0) -> dict[str, Any]:
    """Samples of a quiet process: text i takes 1 + i / 10 ms, give or take 2 %, and the process 1 % of its own."""
    here = factor * chance.gauss(1, 0.01)
    latency = [here * (1 + text / 10) * abs(chance.gauss(1, 0.02)) for _ in range(passes) for text in range(texts)]
    return {
        "load_ms": 20.0 * here,
        "first_answer_ms": 3.0 * here,
        "cold_start_ms": 200.0 * here,
        "warm_up_calls": 40,
        "steady": True,
        "latency_ms": latency,
        "throughput_rows_s": [900 / here * chance.gauss(1, 0.01) for _ in range(4)],
        "anchors_ms": [[here] * 20, [here] * 20],
        "reference_ms": [1.0, 1.1],
        "ended_by": "interval",
        "cpu_share": 1.0,
        "foreign_cores": 0.02,
        "waited_share": 0.001,
        "energy_j": None,
        "energy_reason": "no counter",
        "seconds": sum(latency) / 1e3,
        "conditions": [QUIET, QUIET],
    }


def writing(chance: random.Random, lengths: Sequence[int], new_tokens: int) -> dict[str, Any]:
    """Samples of a process that writes."""
    prompts = [
        {
            "prompt_tokens": length,
            "first_token_ms": [length * 0.5] * 3,
            "prefill_tokens_s": [2000.0 + chance.random()] * 3,
            "decode_tokens_s": [50.0 + chance.random()] * 3,
            "token_ms": [20.0] * (new_tokens - 1),
        }
        for length in lengths
    ]
    rest = {key: value for key, value in timing(chance, 1).items() if "answer" not in key and key != "latency_ms"}
    return rest | {"prompts": prompts, "energy_j": 30.0}


class Made(Link):
    """A device whose samples are drawn.

    Attributes:
        asked: every cell with its texts, in order.
        passes: through the texts, of each timed process.
        change: laid over the samples of each timed process, by its number.
        wrong: how many of its answers are not those of the others.
        breaks_at: the number of the cell at which its link breaks.
        stopped_at: the number of the cell at which the user has enough of it.
    """

    asked: list[tuple[Cell, int]]
    can: ClassVar[frozenset[What]] = EVERYTHING

    def __init__(
        self,
        address: str = "local",
        *,
        seed: int = 0,
        cores: int = 1,
        factor: float = 1.0,
        change: Mapping[int, Mapping[str, Any]] | None = None,
        passes: int = 2,
        wrong: int = 0,
        breaks_at: int | None = None,
        stopped_at: int | None = None,
    ) -> None:
        super().__init__(address, f"device {address}")
        self.chance = random.Random(seed)
        self.cores, self.factor, self.change = cores, factor, change or {}
        self.passes = passes
        self.wrong, self.breaks_at, self.stopped_at = wrong, breaks_at, stopped_at
        self.asked = []
        self.timed = 0

    def look(self, bundle: Path | None = None) -> Facts:
        return {"machine": "made up", "cores": self.cores, "packages": {"onnxruntime": "1.26.0"}}

    def measure(self, bundle: Path, texts: Sequence[Any], cell: Cell) -> Mapping[str, Any]:
        if len(self.asked) == self.breaks_at:
            raise EngineCrashed("the link broke", hint="plug it in")
        if len(self.asked) == self.stopped_at:
            raise SystemExit(130)  # as the command line does on SIGINT
        self.asked.append((cell, len(texts)))
        if cell.what == "answers":
            said = [(number + (number < self.wrong)) % 2 for number in range(len(texts))]
            return {"logits": [[1.0 - label, float(label)] for label in said]}
        if cell.what == "memory":
            part = {"rss": 10_000_000, "anonymous": 8_000_000, "file": 2_000_000, "swap": 0, "peak": 12_000_000}
            return {"engine": part, "model": part, "process": part}
        self.timed += 1
        change = self.change.get(self.timed - 1, {})
        if cell.what == "writing":
            return writing(self.chance, cell.prompt_tokens or (8,), cell.new_tokens) | change
        speed = self.factor * (1 + 0.5 / cell.threads)  # twice the threads, a little faster
        return timing(self.chance, len(texts), passes=self.passes, factor=speed) | change


class Emulated(Made):
    """Right answers, wrong clock."""

    kind: ClassVar[Kind] = "emulated"
    can: ClassVar[frozenset[What]] = frozenset({"answers", "memory"})


def bundle(folder: Path, *, engine: str = "onnxruntime", task: str = "classification", threads: int = 1) -> Path:
    """As much of a bundle as a benchmark on made-up devices looks at."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.onnx").write_bytes(b"12345")
    (folder / "runtime").mkdir()
    (folder / "runtime" / "cell.py").touch()
    told: dict[str, Any] = {
        "schema": 1,
        "name": "made",
        "target": "cpu",
        "task": task,
        "engine": {"name": engine, "version": "1.26.0", "threads": threads},
        "model": {"file": "model/model.onnx", "recipe": "int8", "labels": list(LABELS)},
        "files": {},
    }
    (folder / "manifest.json").write_bytes(canonical(told | {"digest": digest(told)}))
    return folder


def read(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())
