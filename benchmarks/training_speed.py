"""How fast a student is trained against a loop as one writes it by hand, and what its loss takes in memory.

    python benchmarks/training_speed.py [--data FOLDER] [--epochs N]

The loop by hand: shuffled rows, 32 a batch, padded to the longest, and the teacher asked anew at every step. Ours: the
teacher's answers from the cache, batches filled by tokens, with as many rows on average. Both train the same student
from the same start for the same epochs, with the same loss, in turn, on the threads that torch takes. Without --data
the rows are the embedded ones. The last line printed is one JSON object; the memory figures are those of
`kd_memory.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kd_memory
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from edgedistill.config import Request, read_request
from edgedistill.data import rows as data
from edgedistill.distill import logits, teach
from edgedistill.distill.batches import collate, encode
from edgedistill.distill.classes import Classes, Examples, Teaching, examples_of
from edgedistill.distill.encoder import schedule_of
from edgedistill.distill.student import initialise, unit_importance
from edgedistill.distill.trainer import fit
from edgedistill.distill.vocab import trim
from edgedistill.pipeline import prepare
from edgedistill.stages import Run
from edgedistill.store import Store
from edgedistill.teachers import local
from edgedistill.terminal import Lines
from edgedistill.types import SPLITS

BATCH = 32
WARM_UP = 0.1


def main() -> None:
    """Trains the same student both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a folder with train, validation and test.jsonl (default: the embedded rows)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-tokens", type=int, default=320, help="of ours; 320 hold about 32 of the embedded rows")
    parser.add_argument("--out", type=Path, help="keep the teacher here (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        request = read_request(data=options.data, out=(options.out or Path(folder)) / "dist")
        settings = request.distill.model_copy(update={"epochs": options.epochs, "batch_tokens": options.batch_tokens})
        found = compared(request.model_copy(update={"distill": settings}), Path(folder))
    memory = kd_memory.figures(items=4096, vocabulary=49_152, width=576, rounds=1)
    print(json.dumps({**found, **memory}, sort_keys=True))


def compared(request: Request, work: Path) -> dict[str, float]:
    """Rows a second and test accuracy of both."""
    with Lines() as lines, Store(request.out.parent / ".edgedistill") as store:
        run = Run(request, store, lines)
        known = prepare(run)
        rows, limit = known.rows, request.data.max_tokens
        splits = {split: data.read(rows, split) for split in SPLITS}
        tuned = teach.teach(known.teacher, rows, splits["train"], request, store=store)
        folder = known.teacher.path if tuned is None else tuned.path
        identity = known.teacher.sha256 if tuned is None else tuned.sha256
        answers = teach.ask(folder, identity, rows, splits, limit, store=store)
    teacher: Any = local.load(folder, rows.labels)
    tokenizer = Tokenizer.from_file(str(folder / local.TOKENIZER))
    trimmed = trim(tokenizer, [text for row in splits["train"] for text in row.texts])
    whole = encode(tokenizer, [row.content for row in splits["train"]], limit)
    importance = unit_importance(teacher, (collate(whole, [row], 0) for row in range(256)))
    train, test = (examples_of(splits[s], rows, trimmed.tokenizer, limit, pad=0) for s in ("train", "test"))
    shape = known.plan.student_shape
    signal = teach.signal(answers, "train", splits["train"])
    teaching = Teaching(
        signal=signal,
        layers=shape.layers,
        temperature=request.distill.temperatures,
        kd_weight=request.distill.kd_weight,
        hidden_weight=0.0,
    )

    def ours(student: Any) -> None:
        fit(student, Classes(train, teaching), schedule_of(request.distill, request.seed), work=work / "ours")

    def by_hand(student: Any) -> None:
        simple_loop(student, teacher, train, whole, request)

    figures: dict[str, float] = {}
    ways: dict[str, Callable[[Any], None]] = {"naive": by_hand, "ours": ours}
    for name, way in ways.items():
        student: Any = initialise(teacher, shape, trimmed.kept, importance)
        started = time.perf_counter()
        way(student)
        seconds = time.perf_counter() - started
        figures[f"{name}_rows_s"] = round(request.distill.epochs * len(train.ids) / seconds, 1)
        said = logits.ask(student.train(False), test.ids, [""] * len(test.ids), hidden=False).logits.argmax(dim=1)
        figures[f"{name}_accuracy"] = round(float((said == torch.tensor(test.classes)).float().mean()), 4)
    figures["speed_ratio"] = round(figures["ours_rows_s"] / figures["naive_rows_s"], 2)
    return figures


def simple_loop(student: Any, teacher: Any, train: Examples, whole: Any, request: Request) -> None:
    """A distillation loop without any of our tricks.

    Args:
        train: the rows in the student's pieces.
        whole: the same rows in the teacher's pieces.
    """
    settings = request.distill
    order = random.Random(request.seed)
    steps = settings.epochs * -(-len(train.ids) // BATCH)
    warm = max(1, round(WARM_UP * steps))
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / (steps - warm)))
    )
    classes = torch.tensor(train.classes)
    torch.manual_seed(request.seed)
    student.train()
    for _ in range(settings.epochs):
        rows = list(range(len(train.ids)))
        order.shuffle(rows)
        for start in range(0, len(rows), BATCH):
            chosen = rows[start : start + BATCH]
            mine, theirs = (collate(ids, chosen, 0) for ids in (train.ids, whole))
            said = student(input_ids=mine["input_ids"], attention_mask=mine["attention_mask"]).logits
            with torch.no_grad():
                answer = teacher(input_ids=theirs["input_ids"], attention_mask=theirs["attention_mask"]).logits
            t = settings.temperature
            kl = functional.kl_div(
                (said / t).log_softmax(-1), (answer / t).log_softmax(-1), reduction="batchmean", log_target=True
            )
            loss = settings.kd_weight * t * t * kl + (1 - settings.kd_weight) * functional.cross_entropy(
                said, classes[chosen]
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            rate.step()


if __name__ == "__main__":
    main()
