"""A decoder, on rows with answers, or on questions of our own when there are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill import tasks
from edgedistill.config import DEMO
from edgedistill.data import prompts, smarthome
from edgedistill.distill import generative
from edgedistill.distill.generative import PLAIN
from edgedistill.export import fit
from edgedistill.export.gguf import ladder
from edgedistill.export.gguf.ladder import Judged
from edgedistill.export.gguf.parity import NEW_TOKENS
from edgedistill.export.gguf.writer import read_config
from edgedistill.pipeline.exporting.source import Source
from edgedistill.pipeline.prepare import counted
from edgedistill.stages import Run
from edgedistill.tasks.task import Task
from edgedistill.teachers.causal import tokenizer_of
from edgedistill.teachers.chat import folded, text_of
from edgedistill.types import Device, Exported, Message, NotMeasured, Recipe

ROWS = 50
"""On which files are judged: along the answers that is a thousand tokens and more."""
CALIBRATION_ROWS = 100
TIMED_ROWS = 8
CONVERSATION = "conversation"

Asked = tuple[Sequence[Message], str | None]
"""The turns before an answer, and the answer where it is known."""


def decoder(run: Run, folder: Path, recipes: tuple[Recipe, ...], device: Device, context: int | None) -> Source:
    """Reads the rows. Nothing is asked yet: that needs the files.

    Raises:
        InputError: the checkpoint or the rows cannot be used.
    """
    request = run.request
    found = generative.find(str(folder))
    tokenizer = tokenizer_of(folder)
    judged: list[Asked]
    others: list[Asked]
    with run.stage("rows") as stage:
        if request.data.folder == DEMO:
            judged = [(_question(row["text"]), None) for row in smarthome.generate()["test"][:ROWS]]
            others = [(_question(row["text"]), None) for row in smarthome.generate()["train"][:CALIBRATION_ROWS]]
            stage.note = f"{len(judged)} questions that come with edgedistill"
        else:
            task = tasks.find(CONVERSATION if tasks.find(request.task).has_labels else request.task)
            rows, output = prompts.prepare(request.data, task, seed=request.seed, store=run.store)
            stage.took(output)
            stage.note = counted(rows)
            judged, others = (
                list(_asked(task, prompts.read(rows, split), count))
                for split, count in (("validation", ROWS), ("train", CALIBRATION_ROWS))
            )
    own = any(answer is None for _, answer in judged)
    limit = request.data.max_tokens
    begin = _first_piece(tokenizer)

    def prompt(turns: Sequence[Message]) -> str:
        return text_of(tokenizer, folded(tokenizer, turns)).removeprefix(begin)

    def short(some: Sequence[Asked]) -> list[tuple[str, str | None]]:
        texts = [(prompt(turns), answer) for turns, answer in some]
        kept = [one for one in texts if len(_ids(tokenizer, one[0])) <= limit]
        return kept or [min(texts, key=lambda one: len(one[0]))]

    asked = short(judged)
    on = Judged(
        prompts=tuple(text for text, _ in asked),
        answers=None if own else tuple(str(answer) for _, answer in asked),
        calibration=tuple(tuple(_ids(tokenizer, text + (answer or ""))) for text, answer in short(others)),
    )
    config = read_config(folder)
    kept = min(context or limit + 2 * NEW_TOKENS, config["max_position_embeddings"])
    parameters = generative.parameters_of(found)

    def write(some: Sequence[Recipe]) -> Exported:
        exported, _ = ladder.export(folder, found.sha256, some, on, tolerance=request.export.tolerance, store=run.store)
        return exported

    def described(exported: Exported) -> dict[str, Any]:
        return {"recipe": exported.recipe, "parameters": parameters, "context": kept}

    return Source(
        kind="decoder",
        name=folder.resolve().name,
        recipes=recipes,
        metric="token accuracy",
        judged_on=f"its own greedy answers to {len(asked)} questions" if own else f"the answers of {len(asked)} rows",
        texts=tuple([dict(turn) for turn in turns] for turns, _ in judged[:TIMED_ROWS]),
        tokenizer=lambda _: None,
        write=write,
        model=described,
        size_up=lambda size, _: fit.of_decoder(size, config, kept, device),
        check=lambda *_: (NotMeasured(name="answers_equal", reason="llama.cpp is not run under emulation"),),
    )


def _asked(task: Task, rows: Sequence[Mapping[str, Any]], count: int) -> Iterator[Asked]:
    step = -(-len(rows) // count)  # spread over the file
    for row in rows[::step]:
        yield task.messages(row, PLAIN), str(task.gold(row))


def _question(text: str) -> Sequence[Message]:
    return ({"role": "user", "content": text},)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text).input_ids)


def _first_piece(tokenizer: Any) -> str:
    """What the tokenizer puts before every text by itself: a template that writes it too would have it there twice."""
    first = tokenizer("").input_ids[:1]
    return str(tokenizer.decode(first)) if first == [tokenizer.bos_token_id] else ""
