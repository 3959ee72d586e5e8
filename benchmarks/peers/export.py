"""The exported file against what other tools make of the same student: size, accuracy and latency, in one run.

    python benchmarks/peers/export.py --student FOLDER --data FOLDER [--peer NAME=PYTHON ...] [--out FOLDER]

The student is a BERT classifier with tokenizer.json; FOLDER has train.jsonl and test.jsonl with the fields text and
label. Ours are the recipes given by --recipe. Of other tools, what this environment has is always measured:
quantize_dynamic on a torch.onnx export, and transformers.exporters with its own quantizer. optimum-onnx and Olive need
other versions: --peer optimum=PYTHON, olive=PYTHON and olive-int4=PYTHON name the interpreters of their environments. A
tool that fails is in the result with its error.

All files are answered by this environment's onnxruntime from token ids, one row at a time; latency in turns of random
order, so that a drift of the machine meets all alike. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

RECIPES = ("onnx-int8-int4emb", "onnx-int8-dynamic", "onnx-w4a8")
ROUNDS = 6
MAX_TOKENS = 48
CALIBRATION_ROWS = 200
HERE = ("plain", "transformers")


def main() -> None:
    """Makes every file, then measures them together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", type=Path, help="a checkpoint folder")
    parser.add_argument("--data", type=Path, help="a folder with train.jsonl and test.jsonl")
    parser.add_argument("--recipe", action="append", help=f"of ours (default: {', '.join(RECIPES)})")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", help="optimum, olive or olive-int4"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=200, help="timed in each turn")
    parser.add_argument("--test-rows", type=int, default=0, help="judged; 0 is all")
    parser.add_argument("--out", type=Path, help="keep the files here (default: a temporary folder)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        CHILDREN[options.child[0]](*map(Path, options.child[1:]))
        return
    if options.student is None or options.data is None:
        parser.error("--student and --data are needed")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(options, options.out or Path(folder)), sort_keys=True))


def compare(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The figures of every file, and ours as a share of the best of the others."""
    out.mkdir(parents=True, exist_ok=True)
    ids, classes, train = rows_of(options)
    files: dict[str, Path] = {}
    failed: dict[str, str] = {}
    for name in options.recipe or RECIPES:
        files[name] = ours(name, options.student, train, out)
    peers = dict.fromkeys(HERE, sys.executable) | dict(peer.split("=", 1) for peer in options.peer)
    for name, python in peers.items():
        folder = out / name
        command = [python, __file__, "--child", name, str(options.student.absolute()), str(folder.absolute())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and (folder / "model.onnx").is_file():
            files[name] = folder / "model.onnx"
        else:
            failed[name] = (done.stderr.strip().splitlines() or ["it made no model.onnx"])[-1][:300]
    found: dict[str, Any] = {name: figures(path, ids, classes, options.test_rows) for name, path in files.items()}
    for threads in options.threads:
        for name, p50 in latencies(files, ids[: options.rows], threads).items():
            found[name][f"p50_ms_{threads}"] = p50
    mine = [name for name in files if name.startswith("onnx-")]
    return {"files": found, "failed": failed, "ratios": ratios(found, mine)}


def rows_of(options: argparse.Namespace) -> tuple[list[np.ndarray], np.ndarray, list[list[int]]]:
    """Token ids and classes of the test rows, shuffled, and token ids of some training rows."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(options.student / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    labels = json.loads((options.student / "config.json").read_text(encoding="utf-8"))["id2label"]
    number = {label: int(key) for key, label in labels.items()}
    splits = {}
    for split in ("train", "test"):
        lines = (options.data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        splits[split] = [json.loads(line) for line in lines]
        random.Random(0).shuffle(splits[split])
    encoded = [tokenizer.encode(row["text"]).ids for row in splits["test"]]
    train = [tokenizer.encode(row["text"]).ids for row in splits["train"][:CALIBRATION_ROWS]]
    return [np.array([row]) for row in encoded], np.array([number[row["label"]] for row in splits["test"]]), train


def ours(name: str, student: Path, train: list[list[int]], out: Path) -> Path:
    """The file of one of our recipes, as this machine's instruction set wants it."""
    from edgedistill import catalog
    from edgedistill.export import isa
    from edgedistill.export.onnx import to_onnx
    from edgedistill.export.parity import feed
    from edgedistill.export.quantize import base_of, quantize, set_apart

    (recipe,) = isa.suited([catalog.recipe(name)], isa.here())
    (out / name).mkdir(exist_ok=True)
    fused, path = out / "fused.onnx", out / name / "model.onnx"
    to_onnx(student, fused, **base_of(recipe))
    quantize(fused, path, recipe, rows=[feed(row) for row in train])
    set_apart(path)
    fused.unlink()
    return path


def figures(path: Path, ids: list[np.ndarray], classes: np.ndarray, rows: int) -> dict[str, Any]:
    """Size with everything beside it, accuracy, and the memory that loading and answering takes, in a child."""
    count = rows or len(ids)
    engine = opened(path, 1)
    said = np.array([int(answer(engine, row).argmax()) for row in ids[:count]])
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]); import export, edgedistill.runtime.engine_onnx;"
        "before = export.peak_kilobytes();"
        "engine = export.opened(export.Path(sys.argv[1]), 1);"
        "[export.answer(engine, export.np.arange(1, 12)[None]) for _ in range(20)];"
        "print(export.peak_kilobytes() - before)"
    )
    command = [sys.executable, "-c", program, str(path), str(Path(__file__).parent)]
    kilobytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    beside = sum(file.stat().st_size for file in path.parent.glob("*.onnx*data*"))
    return {
        "megabytes": round((path.stat().st_size + beside) / 1e6, 2),
        "accuracy": round(float((said == classes[:count]).mean()), 4),
        "memory_megabytes": round(kilobytes * 1024 / 1e6, 1),
    }


def peak_kilobytes() -> int:
    """The most memory that this process has had. getrusage would count the parent's from before the program began."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def latencies(files: dict[str, Path], ids: list[np.ndarray], threads: int) -> dict[str, float]:
    """Median milliseconds a row of each file, in turns of random order."""
    engines = {name: opened(path, threads) for name, path in files.items()}
    samples: dict[str, list[float]] = {name: [] for name in files}
    order, chance = list(files), random.Random(0)
    for _ in range(ROUNDS):
        chance.shuffle(order)
        for name in order:
            for row in ids[:10]:
                answer(engines[name], row)
            for row in ids:
                started = time.perf_counter()
                answer(engines[name], row)
                samples[name].append(time.perf_counter() - started)
    return {name: round(statistics.median(values) * 1e3, 4) for name, values in samples.items()}


def ratios(found: dict[str, Any], mine: list[str]) -> dict[str, Any]:
    """Each of ours as a share of the best other file: below 1 is faster, smaller or leaner."""
    others = [name for name in found if name not in mine]
    keys = [key for key in next(iter(found.values())) if key != "accuracy"]
    return {
        name: {key: round(found[name][key] / max(min(found[other][key] for other in others), 1e-9), 3) for key in keys}
        for name in mine
        if others
    }


def opened(path: Path, threads: int) -> Any:
    """A session of the pinned engine."""
    from edgedistill.runtime.engine_onnx import session

    return session(path, threads)


def answer(engine: Any, ids: np.ndarray) -> np.ndarray:
    """Scores of one row, whatever names a tool gave its inputs beyond the usual three."""
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    wanted = {value.name: given[value.name] for value in engine.get_inputs()}
    found: np.ndarray = engine.run(None, wanted)[0]
    return found


def plain(student: Path, folder: Path) -> None:
    """torch.onnx and quantize_dynamic, both with their defaults."""
    import onnx
    import torch
    from onnxruntime.quantization import quantize_dynamic
    from transformers import BertForSequenceClassification

    folder.mkdir(exist_ok=True)
    model = BertForSequenceClassification.from_pretrained(student, attn_implementation="eager").eval()
    names = ("input_ids", "attention_mask")
    sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    torch.onnx.export(
        model,
        (),
        str(folder / "float.onnx"),
        kwargs={name: torch.ones((2, 9), dtype=torch.long) for name in names},
        dynamo=True,
        dynamic_shapes=dict.fromkeys(names, sizes),
        external_data=False,
        input_names=list(names),
        output_names=["logits"],
        verbose=False,
    )
    graph = onnx.load(folder / "float.onnx")
    del graph.graph.value_info[:]  # stale after the exporter's rewriting: quantize_dynamic refuses them
    onnx.save_model(graph, str(folder / "float.onnx"))
    quantize_dynamic(folder / "float.onnx", folder / "model.onnx")
    (folder / "float.onnx").unlink()


def transformers(student: Path, folder: Path) -> None:
    """The exporter of transformers, fused for the CPU, with its own dynamic quantizer."""
    import torch
    from transformers import BertForSequenceClassification
    from transformers.exporters import OnnxConfig, OnnxExporter
    from transformers.exporters.quantizers import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    model = BertForSequenceClassification.from_pretrained(student).eval()
    inputs = {name: torch.ones((2, 9), dtype=torch.long) for name in ("input_ids", "attention_mask")}
    quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True))
    config = OnnxConfig(dynamic=True, ort_fusions="cpu", quantizer=quantizer)
    OnnxExporter().export(model, inputs, config=config).save_pretrained(folder)


def optimum(student: Path, folder: Path) -> None:
    """optimum-cli: export, then its preset for AVX-512 VNNI, the fastest of its presets on x86."""
    tool = Path(sys.executable).with_name("optimum-cli")
    exported = folder / "float"
    export = ["export", "onnx", "--model", student, "--task", "text-classification", exported]
    shrink = ["onnxruntime", "quantize", "--avx512_vnni", "--onnx_model", exported, "-o", folder / "int8"]
    for arguments in (export, shrink):
        subprocess.run([tool, *arguments], check=True)
    (folder / "int8" / "model_quantized.onnx").rename(folder / "model.onnx")


def olive(student: Path, folder: Path, *, precision: str = "int8") -> None:
    """Olive's auto-opt."""
    tool = Path(sys.executable).with_name("olive")
    folder.mkdir(exist_ok=True)
    where = ["--provider", "CPUExecutionProvider", "--device", "cpu", "--precision", precision, "-o", folder / "made"]
    subprocess.run([tool, "auto-opt", "-m", student, "-t", "text-classification", *where], check=True)
    made = max((folder / "made").rglob("*.onnx"), key=lambda path: path.stat().st_mtime)
    for file in made.parent.glob("*.onnx*"):
        file.rename(folder / ("model.onnx" if file == made else file.name))


CHILDREN = {
    "plain": plain,
    "transformers": transformers,
    "optimum": optimum,
    "olive": olive,
    "olive-int4": partial(olive, precision="int4"),
}


if __name__ == "__main__":
    main()
