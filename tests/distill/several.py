"""One of several processes that train tiny models, one after the other, because to start takes longer than to train.

several.py TEACHER ROWS KILLED_AT TRAINING... where KILLED_AT is a step, or 0, and each training is LESSON:PARTS:FOLDER.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from edgedistill.distill import logits, tokens
from edgedistill.distill.batches import encode
from edgedistill.distill.classes import Classes, Examples, Teaching
from edgedistill.distill.generative import likelihood
from edgedistill.distill.inside import Inside, Matching
from edgedistill.distill.onpolicy import OnPolicy, Writing
from edgedistill.distill.trainer import Lesson, Schedule, Score, fit
from edgedistill.store import process_rank
from edgedistill.teachers import local
from edgedistill.types import silent
from tests.distill import lessons

LABELS = ("door", "light", "music")
RESULT = "curve.json"
WORK = "work"


Taught = tuple[PreTrainedModel, Lesson, Score | None]
"""The student, its lesson, and what the weights of its best epoch are chosen by."""


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
    assert signal.hidden is not None
    wider = torch.cat((signal.hidden, signal.hidden[..., :8]), dim=-1)  # so that there is a projection
    teaching = Teaching(
        signal=replace(signal, hidden=wider),
        layers=(0, 1, 2),
        temperature=(4.0, 1.0),
        kd_weight=0.5,
        hidden_weight=1.0,
        width=32,
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):  # which draws other numbers in each process
            module.p = 0.0
    return model, Classes(examples, teaching), None


def answers(_: Path, __: Path, work: Path) -> Taught:
    tokenizer = lessons.tokenizer()
    examples, pieces = lessons.chats(tokenizer), len(tokenizer)
    judgements = [
        tokens.Judgement(signals=lessons.asked(lessons.speaker(pieces, seed), examples, folder, pieces, k=20))
        for seed in (7, 9)
        for folder in (work.with_name(f"asked {seed} {os.getpid()}"),)
    ]
    teaching = tokens.Teaching(judgements=judgements, kd_weight=0.7, temperature=(2.0, 1.0), by_confidence=True)
    score = partial(likelihood, tokens.Answers(examples[:5], pad=0), 320)
    return lessons.student(pieces), tokens.Answers(examples, tokenizer.pad_token_id, teaching), score


def onpolicy(_: Path, __: Path, ___: Path) -> Taught:
    tokenizer = lessons.tokenizer()
    pieces = len(tokenizer)
    writing = Writing(share=0.7, max_tokens=6)
    taught = OnPolicy(lessons.chats(tokenizer), lessons.speaker(pieces), range(pieces), writing)
    return lessons.student(pieces), taught, None


def inside(_: Path, __: Path, ___: Path) -> Taught:
    tokenizer = lessons.tokenizer()
    pieces = len(tokenizer)
    model = lessons.student(pieces, hidden_size=24)
    answers = tokens.Answers(lessons.chats(tokenizer), tokenizer.pad_token_id)
    matching = Matching(hidden_weight=0.5, relation_weight=0.5)
    return model, Inside(answers, model, lessons.speaker(pieces), range(pieces), matching, layers=(0, 2)), None


LESSONS = {"classes": classes, "answers": answers, "onpolicy": onpolicy, "inside": inside}


def shard_on_cpus() -> None:
    """Has accelerate shard on CPUs, as torch can: on its own it keeps FSDP for cards, and does DDP without a word."""
    make = AcceleratorState.__init__

    def made(self: AcceleratorState, *args: Any, **settings: Any) -> None:
        make(self, *args, **settings)
        if settings.get("fsdp_plugin") is not None:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = settings["fsdp_plugin"]

    AcceleratorState.__init__ = made


def watched(lesson: Lesson) -> set[bool]:
    """Fills up with whether the weights of the model that learns are spread over the processes."""
    found: set[bool] = set()
    terms = lesson.terms

    def watch(model: torch.nn.Module, batch: Mapping[str, Tensor], done: float) -> Mapping[str, Tensor]:
        found.add(any(isinstance(parameter, DTensor) for parameter in model.parameters()))
        return terms(model, batch, done)

    lesson.terms = watch  # type: ignore[method-assign]
    return found


def train(lesson: str, teacher: Path, rows: Path, folder: Path, parts: int, killed_at: int) -> None:
    """Trains, and writes the curve where this process leads, and everywhere the weights."""
    torch.manual_seed(0)  # so that no training depends on those before it
    model, taught, score = LESSONS[lesson](teacher, rows, folder / WORK)
    sharded = watched(taught)
    # A step has a row for each part of each process at least, or it would be cut elsewhere.
    epochs, batch_tokens = (2, 64) if lesson == "classes" else (3, 320)
    schedule = Schedule(
        epochs=epochs,
        learning_rate=5e-3,
        batch_tokens=batch_tokens,
        checkpoint_steps=10,
        seed=11,
        parts=parts,
        patience=None if score is None else epochs,
    )
    progress = lessons.killed_at(killed_at) if killed_at else silent
    curve = fit(model, taught, schedule, work=folder / WORK, score=score, progress=progress)
    weights = {name: parameter.data.clone() for name, parameter in model.named_parameters()}
    save_file(weights, folder / f"weights-{process_rank()}.safetensors")
    if process_rank() == 0:
        processes = distributed.get_world_size() if distributed.is_initialized() else 1
        found = {"processes": processes, "sharded": sorted(sharded), "curve": curve}
        (folder / RESULT).write_text(json.dumps(found))


def main(teacher: Path, rows: Path, killed_at: int, trainings: Sequence[str]) -> None:
    gc.freeze()  # accelerate collects garbage after each training, and need not look at what was imported
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpus()
    for training in trainings:
        lesson, parts, folder = training.split(":", maxsplit=2)
        with contextlib.suppress(lessons.Killed):  # nothing but the folder outlives it: a model is made anew
            train(lesson, teacher, rows, Path(folder), int(parts), killed_at)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
