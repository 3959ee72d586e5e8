"""A static student against model2vec's classifier: accuracy, bytes on disk and time a row, side by side in one run.

    python benchmarks/static.py --data FOLDER [--peer PYTHON] [--teacher CHECKPOINT] [--out FOLDER]

FOLDER has train.jsonl, validation.jsonl and test.jsonl with the fields text and label. MiniLM-L6 is fine-tuned on the
training rows and teaches the student. PYTHON is the interpreter of an environment with `model2vec[distill,train]`,
which wants other versions of transformers and tokenizers; it distils the same MiniLM and trains its own classifier on
the same rows. Without it only the student is measured, and the output says so.

Both files are answered from text to class, one row at a time, one thread each, by two processes that take turns. The
last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).with_name("clinc150.toml")
VOCABULARY = 8000
SETTINGS = {"epochs": 30, "learning_rate": 2e-3, "batch_tokens": 3072, "checkpoint_steps": 1000}
TURN = 250
"""Rows that one process answers before the other one has its turn."""
ROUNDS = 3
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")


def main() -> None:
    """Trains both, then lets them answer the test rows in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with train, validation and test.jsonl")
    parser.add_argument("--peer", type=Path, help="an interpreter with model2vec[distill,train]")
    parser.add_argument(
        "--teacher", type=Path, help="a checkpoint with these labels (default: MiniLM, fine-tuned here)"
    )
    parser.add_argument("--out", type=Path, help="keep the stages and both files here (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        CHILDREN[options.child[0]](*map(Path, options.child[1:]))
        return
    if options.data is None:
        parser.error("--data is needed")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(options, options.out or Path(folder)), sort_keys=True))


def compare(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The figures of both, and their ratios."""
    ours, theirs = out / "student", out / "model2vec"
    ours.mkdir(parents=True, exist_ok=True)
    rows, encoder, seconds = student(options, out, ours)
    contestants = {"student": (ours, [sys.executable, __file__, "--child", "student", str(ours)])}
    found: dict[str, Any] = {"student_seconds": seconds, "peer_skipped": "no --peer with model2vec was given"}
    if options.peer is not None:
        started = time.monotonic()
        command = [str(options.peer), __file__, "--child"]
        subprocess.run([*command, "train_peer", str(rows), str(encoder), str(theirs)], check=True)
        contestants["peer"] = (theirs, [*command, "peer", str(theirs)])
        found |= {"peer_seconds": time.monotonic() - started, "peer_skipped": None}
    test = [json.loads(line) for line in (rows / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    for name, answers in in_turns({name: command for name, (_, command) in contestants.items()}, test).items():
        right = [answer == row["label"] for answer, row in zip(answers["labels"], test, strict=True)]
        found[f"{name}_accuracy"] = statistics.fmean(right)
        found[f"{name}_ms"] = statistics.median(answers["ms"])
        found[f"{name}_ms_p90"] = statistics.quantiles(answers["ms"], n=10)[-1]
        found[f"{name}_bytes"] = sum(path.stat().st_size for path in contestants[name][0].rglob("*") if path.is_file())
    if options.peer is not None:
        found["points"] = 100 * (found["student_accuracy"] - found["peer_accuracy"])
        found["latency_ratio"] = found["peer_ms"] / found["student_ms"]
        found["size_ratio"] = found["peer_bytes"] / found["student_bytes"]
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}


def student(options: argparse.Namespace, out: Path, folder: Path) -> tuple[Path, Path, float]:
    """Trains the student and writes its file.

    Returns:
        The folder of the prepared rows, that of the pretrained encoder, and the seconds after the teacher's answers.
    """
    from tokenizers import Tokenizer

    from edgedistill.config import DEMO_TEACHER, read_request
    from edgedistill.data import rows as data
    from edgedistill.distill import static, teach
    from edgedistill.distill.trainer import Schedule
    from edgedistill.store import Store
    from edgedistill.teachers import local
    from edgedistill.types import SPLITS

    request = read_request(CONFIG, data=str(options.data.absolute()), out=out, seed=options.seed)
    with Store(out / "stages") as store:
        rows, _ = data.prepare(request.data, seed=request.seed, store=store)
        splits = {split: data.read(rows, split) for split in SPLITS}
        teacher = local.find(str(options.teacher or request.teacher.model), rows.labels)
        tuned = teach.teach(teacher, rows, splits["train"], request, store=store)
        path, identity = (teacher.path, teacher.sha256) if tuned is None else (tuned.path, tuned.sha256)
        limit = request.data.max_tokens
        answers = teach.ask(path, identity, rows, splits, limit, store=store)
        started = time.monotonic()
        pretrained = local.locate(DEMO_TEACHER)
        with tempfile.TemporaryDirectory() as work:
            model, tokenizer, _ = static.distil(
                local.load(pretrained, rows.labels),
                Tokenizer.from_file(str(pretrained / local.TOKENIZER)),
                splits["train"],
                rows.labels,
                teach.signal(answers, "train", splits["train"]),
                Schedule(**SETTINGS, seed=options.seed),
                vocabulary=VOCABULARY,
                max_tokens=limit,
                work=Path(work),
            )
    static.save(model, tokenizer, folder)
    manifest = {"model": {"file": static.MODEL, "labels": list(rows.labels), "max_tokens": limit}}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return rows.path, pretrained, time.monotonic() - started


def train_peer(rows: Path, encoder: Path, folder: Path) -> None:
    """What model2vec's documentation does: distil, train with the validation rows, quantize to 8 bits, save."""
    from model2vec import quantize_model
    from model2vec.distill import distill
    from model2vec.train import StaticModelForClassification

    texts, labels = {}, {}
    for split in ("train", "validation"):
        found = [json.loads(line) for line in (rows / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        texts[split], labels[split] = [row["text"] for row in found], [row["label"] for row in found]
    model = StaticModelForClassification.from_static_model(model=distill(str(encoder), pca_dims=256))
    model.fit(texts["train"], labels["train"], X_val=texts["validation"], y_val=labels["validation"])
    pipeline = model.to_pipeline()
    pipeline.model = quantize_model(pipeline.model, quantize_to="int8")
    pipeline.save_pretrained(str(folder))


def in_turns(commands: dict[str, list[str]], test: list[dict[str, str]]) -> dict[str, dict[str, list[Any]]]:
    """Each process answers all test rows so many rounds: its labels, and of each row the median milliseconds."""
    environment = os.environ | ONE_THREAD | {"TOKENIZERS_PARALLELISM": "false"}
    running = {
        name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for name, command in commands.items()
    }
    chance = random.Random(0)
    labels: dict[str, dict[int, str]] = {name: {} for name in running}
    times: dict[str, list[list[float]]] = {name: [[] for _ in test] for name in running}
    for _ in range(ROUNDS):
        for start in range(0, len(test), TURN):
            texts = [row["text"] for row in test[start : start + TURN]]
            for name in chance.sample(list(running), len(running)):
                child = running[name]
                child.stdin.write(json.dumps(texts) + "\n")
                child.stdin.flush()
                answer = json.loads(child.stdout.readline())
                for i, (label, ms) in enumerate(zip(answer["labels"], answer["ms"], strict=True)):
                    labels[name][start + i] = label
                    times[name][start + i].append(ms)
    for child in running.values():
        child.communicate()
    return {
        name: {"labels": [labels[name][i] for i in range(len(test))], "ms": [statistics.median(t) for t in times[name]]}
        for name in running
    }


def answer_student(folder: Path) -> None:
    """The child that answers with the student's file."""
    from edgedistill.runtime.engine_static import Classifier

    classifier = Classifier(folder)
    serve(lambda text: classifier.labels[int(classifier([text])[0].argmax())])


def answer_peer(folder: Path) -> None:
    """The child that answers with model2vec's file."""
    from model2vec.inference import StaticModelPipeline

    pipeline = StaticModelPipeline.from_pretrained(str(folder))
    serve(lambda text: str(pipeline.predict([text])[0]))


def serve(classify: Callable[[str], str]) -> None:
    """Reads lists of texts line by line, and answers each with the labels and the milliseconds a text."""
    classify("warm up")
    for line in sys.stdin:
        labels, times = [], []
        for text in json.loads(line):
            started = time.perf_counter_ns()
            labels.append(classify(text))
            times.append((time.perf_counter_ns() - started) / 1e6)
        print(json.dumps({"labels": labels, "ms": times}), flush=True)


CHILDREN: dict[str, Callable[..., None]] = {
    "train_peer": train_peer,
    "student": answer_student,
    "peer": answer_peer,
}


if __name__ == "__main__":
    main()
