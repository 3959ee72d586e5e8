"""A folder that runs on the device, from an exported file: model, tokenizer, runtime, requirements.

<name>-<target>/
  manifest.json      what is in here, with hashes, the pinned engine and the numbers
  model/             model.onnx and its weights in model.onnx.data, a decoder's model.gguf, encoder.onnx and
                     decoder.onnx, what onnxruntime-genai runs, or tables in model.safetensors
  tokenizer.json     where it is not in the model file
  app.onnx           where it is asked for: text in, label out, for apps
  requirements.txt   README.md (the model card)
  runtime/           python -m runtime predict "text", or chat
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill import __version__, runtime
from edgedistill.bundle import manifest
from edgedistill.bundle.card import card
from edgedistill.config import Request
from edgedistill.store import ENTRY, Output, Store, hashes
from edgedistill.types import Exported, Kind, Measurement, Plan, Report, Rows, Student

REQUIRED = {
    "onnxruntime": ("onnxruntime", "numpy", "tokenizers"),
    "llama-cpp-python": ("llama-cpp-python",),
    "onnxruntime-genai": ("onnxruntime-genai", "onnxruntime", "numpy", "tokenizers"),
    "numpy": ("numpy", "tokenizers"),
}
"""Packages that the runtime needs on the device, by engine."""
RUNTIME = Path(runtime.__file__).parent
CARD = "README.md"
APP = "app.onnx"


def draft(
    request: Request, plan: Plan, student: Student, exported: Exported, rows: Rows, *, threads: int, store: Store
) -> Output:
    """A bundle that runs but says no measured numbers yet: what the benchmark measures.

    Args:
        threads: of the engine on the device.
    """
    inputs = {
        "file": exported.sha256,
        "student": student.sha256,
        "name": request.name,
        "target": plan.device.name,
        "max_tokens": request.data.max_tokens,
        "threads": threads,
        "runtime": hashes(RUNTIME),
        "requirements": _versions("onnxruntime"),
    }

    def produce(folder: Path, _: Path) -> None:
        _fill(folder, request, plan, student, exported, rows, threads)

    return store.get("draft", inputs, produce)


def _fill(
    folder: Path, request: Request, plan: Plan, student: Student, exported: Exported, rows: Rows, threads: int
) -> None:
    config = json.loads((student.path / "config.json").read_text(encoding="utf-8"))
    model = {
        "recipe": exported.recipe,
        "parameters": student.shape.parameters,
        "labels": list(rows.labels),
        "max_tokens": request.data.max_tokens,
        "pad_id": config["pad_token_id"] or 0,
    }
    said = {"name": request.name, "target": plan.device.name, "task": "classification", "model": model}
    pack(folder, exported.files, said, engine="onnxruntime", threads=threads, tokenizer=student.path / "tokenizer.json")


def pack(
    folder: Path,
    files: Sequence[Path],
    content: Mapping[str, Any],
    *,
    engine: str,
    threads: int,
    tokenizer: Path | None = None,
) -> None:
    """Puts everything that runs into a folder, and seals it.

    Args:
        folder: empty, but for a README.md or other files that belong to the bundle.
        files: of the model, or the folder of them; the runtime opens the first one.
        content: what the manifest says of it: name, target, task and model.
        engine: a key of `REQUIRED`.
        tokenizer: tokenizer.json; None where the model file holds it.
    """
    if files[0].is_dir():
        file = "model"
        shutil.copytree(files[0], folder / file)
    else:
        file = f"model/{files[0].name}"
        (folder / "model").mkdir()
        for one in files:
            shutil.copyfile(one, folder / "model" / one.name)
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
    copy_runtime(folder)
    versions = _versions(engine)
    (folder / "requirements.txt").write_text("".join(f"{key}=={value}\n" for key, value in versions.items()))
    told = {
        **content,
        "edgedistill": __version__,
        "engine": {"name": engine, "version": versions[engine], "threads": threads},
        "model": {"file": file, **content["model"]},
        "numbers": [],
    }
    manifest.seal(folder, told)


def copy_runtime(folder: Path) -> None:
    """Puts the runtime into a bundle, so that `python -m runtime` runs there."""
    shutil.copytree(RUNTIME, folder / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    # A file where Python wants a folder: it then writes no bytecode here, and running the bundle leaves it verifiable.
    (folder / "runtime" / "__pycache__").touch()


def _versions(engine: str) -> dict[str, str]:
    """What the runtime needs on the device, pinned to what is installed and measured here."""
    return {package: importlib.metadata.version(package) for package in REQUIRED[engine]}


def finish(made: Path, folder: Path, report: Report) -> None:
    """Copies a bundle and adds what was measured: the numbers in the manifest, and the model card."""
    shutil.copytree(made, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(ENTRY))
    content: Mapping[str, Any] = manifest.read(folder).manifest
    kept = {key: value for key, value in content.items() if key not in {"schema", "files", "digest"}}
    (folder / CARD).write_text(card(report, content), encoding="utf-8")
    manifest.seal(folder, {**kept, "numbers": numbers(report)})


def numbers(report: Report) -> list[dict[str, Any]]:
    """The report's figures in the form that the manifest keeps: each with its kind, its unit and its range.

    What was measured has its 95 % interval there, what was predicted a rough range. Figures without spread have none.
    """
    found: list[dict[str, Any]] = []

    def add(name: str, unit: str, kind: Kind, value: float, bounds: tuple[float, float] | None) -> None:
        key = "rough_range" if kind == "predicted" else "interval"
        found.append({"name": name, "unit": unit, "kind": kind, "value": value, key: bounds and list(bounds)})

    for contrast in report.contrasts:
        e = contrast.estimate
        add(contrast.name, contrast.unit, "measured", e.value, (e.low, e.high))
    for key, e in report.ratios.items():
        add(f"{key}_ratio", "times", "measured", e.value, (e.low, e.high) if e.low < e.high else None)
    for m in (*report.plan.predictions, *report.on_target):
        if isinstance(m, Measurement):
            add(m.name, m.unit, m.kind, m.median, m.interval)
    return found
