"""One of several processes that train a tiny model: several.py LESSON TEACHER ROWS WORK RESULT PARTS."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import distributed
from transformers import PreTrainedModel

from edgedistill.distill import logits, tokens
from edgedistill.distill.batches import encode
from edgedistill.distill.classes import Classes, Examples, Teaching
from edgedistill.distill.onpolicy import OnPolicy, Writing
from edgedistill.distill.trainer import Lesson, Schedule, fit
from edgedistill.store import process_rank
from edgedistill.teachers import local
from tests.distill import lessons

LABELS = ("door", "light", "music")


Taught = tuple[PreTrainedModel, Lesson]


def classes(teacher: Path, rows: Path, _: Path) -> Taught:
    found = [json.loads(line) for line in (rows / "train.jsonl").read_text().splitlines()]
    tokenizer = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    examples = Examples(
        ids=encode(tokenizer, [row["text"] for row in found], 32),
        classes=[LABELS.index(row["label"]) for row in found],
        pad=0,
    )
    torch.manual_seed(5)
    model = local.load(teacher, LABELS)
    signal = logits.ask(model, examples.ids, [str(row) for row in range(len(found))], hidden=True)
    teaching = Teaching(
        signal=signal, layers=(0, 1, 2), temperature=(4.0, 1.0), kd_weight=0.5, hidden_weight=1.0, width=32
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):  # which draws other numbers in each process
            module.p = 0.0
    return model, Classes(examples, teaching)


def answers(_: Path, __: Path, work: Path) -> Taught:
    tokenizer = lessons.tokenizer()
    examples, pieces = lessons.chats(tokenizer), len(tokenizer)
    judgements = [
        tokens.Judgement(signals=lessons.asked(lessons.speaker(pieces, seed), examples, folder, pieces, k=20))
        for seed in (7, 9)
        for folder in (work.with_name(f"asked {seed} {process_rank()}"),)
    ]
    teaching = tokens.Teaching(judgements=judgements, kd_weight=0.7, temperature=(2.0, 1.0), by_confidence=True)
    return lessons.student(pieces), tokens.Answers(examples, tokenizer.pad_token_id, teaching)


def onpolicy(_: Path, __: Path, ___: Path) -> Taught:
    tokenizer = lessons.tokenizer()
    pieces = len(tokenizer)
    writing = Writing(share=0.7, max_tokens=6)
    return lessons.student(pieces), OnPolicy(lessons.chats(tokenizer), lessons.speaker(pieces), range(pieces), writing)


LESSONS = {"classes": classes, "answers": answers, "onpolicy": onpolicy}


def main(lesson: str, teacher: Path, rows: Path, work: Path, result: Path, parts: int) -> None:
    """Trains, and writes the curve where this process leads."""
    model, taught = LESSONS[lesson](teacher, rows, work)
    # A step has a row for each part of each process at least, or it would be cut elsewhere.
    epochs, batch_tokens = (2, 64) if lesson == "classes" else (3, 320)
    schedule = Schedule(
        epochs=epochs, learning_rate=5e-3, batch_tokens=batch_tokens, checkpoint_steps=10, seed=11, parts=parts
    )
    curve = fit(model, taught, schedule, work=work)
    if process_rank() == 0:
        processes = distributed.get_world_size() if distributed.is_initialized() else 1
        result.write_text(json.dumps({"processes": processes, "curve": curve}))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:6]), int(sys.argv[6]))
