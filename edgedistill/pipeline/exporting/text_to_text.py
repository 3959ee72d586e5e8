"""A model that reads a text and writes another, of the T5 or BART family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedistill import tasks
from edgedistill.config import DEMO
from edgedistill.data import prompts, smarthome
from edgedistill.distill import generative
from edgedistill.errors import InputError
from edgedistill.export import fit
from edgedistill.export.ladder import LIKELIHOOD
from edgedistill.export.seq2seq import ladder
from edgedistill.export.seq2seq.checkpoint import read
from edgedistill.pipeline.exporting.source import Source, weights_in
from edgedistill.pipeline.prepare import counted
from edgedistill.stages import Run
from edgedistill.store import Output
from edgedistill.teachers import causal
from edgedistill.teachers.causal import tokenizer_of
from edgedistill.teachers.local import TOKENIZER
from edgedistill.types import Device, Exported, NotMeasured, Progress, Recipe

ROWS = 50
TIMED_ROWS = 8
SUMMARIZATION = "summarization"


def text_to_text(run: Run, folder: Path, name: str, recipes: tuple[Recipe, ...], device: Device) -> Source:
    """Reads the rows. Nothing is asked yet: that needs the files.

    Raises:
        InputError: the checkpoint or the rows cannot be used, or every text is too long for it.
    """
    request = run.request
    found = generative.find(str(folder), what="checkpoint")
    context, tokenizer = read(folder).context, tokenizer_of(folder)
    with run.stage("rows") as stage:
        if request.data.folder == DEMO:
            texts = [row["text"] for row in smarthome.generate()["test"][:ROWS]]
            stage.note = f"{len(texts)} texts that come with edgedistill"
        else:
            task = tasks.find(SUMMARIZATION if tasks.find(request.task).has_labels else request.task)
            rows, output = prompts.prepare(request.data, task, seed=request.seed, store=run.store)
            stage.took(output)
            stage.note = counted(rows)
            read_rows = prompts.read(rows, "validation")
            texts = [task.user(row) for row in read_rows[:: -(-len(read_rows) // ROWS)]]
    short = [text for text in texts if len(list(tokenizer(text)["input_ids"])) <= context]
    if not short:
        raise InputError(
            f"every row is longer than the {context} tokens that {folder} takes",
            hint="give shorter rows with --data",
        )
    original = ladder.Original(folder, found.sha256, short)
    parameters = weights_in(causal.check(folder))

    def write(some: Sequence[Recipe], progress: Progress) -> tuple[Exported, Output]:
        return ladder.export(original, some, tolerance=request.export.tolerance, store=run.store, progress=progress)

    def described(exported: Exported) -> dict[str, Any]:
        return {"recipe": exported.recipe, "parameters": parameters, "context": context}

    return Source(
        kind="text-to-text",
        name=name,
        recipes=recipes,
        metric=LIKELIHOOD,
        judged_on=f"its own greedy answers to {len(short)} texts",
        texts=tuple(short[:TIMED_ROWS]),
        command='predict "your text"',
        threads=device.cores,
        notes=(
            "It always writes its likeliest word: beams, and what else a checkpoint's settings ask for, are left out.",
        ),
        tokenizer=lambda exported: exported.path.parent / TOKENIZER,
        write=write,
        model=described,
        size_up=lambda size, recipe: fit.of_encoder(size, recipe, device),
        check=lambda *_: (NotMeasured(name="answers_equal", reason="writing is not run under emulation"),),
    )
