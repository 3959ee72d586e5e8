"""A decoder, on rows with answers, or on questions of our own when there are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgedistill import predictor, tasks
from edgedistill.bench import decoded
from edgedistill.config import DEMO
from edgedistill.data import prompts, smarthome
from edgedistill.distill import generative
from edgedistill.distill.generative import PLAIN
from edgedistill.errors import InputError, MissingExtra, StageError
from edgedistill.export import chat, fit
from edgedistill.export.checkpoint import read_config
from edgedistill.export.decoder import ladder
from edgedistill.export.decoder.ladder import Engine, Judged, Original
from edgedistill.export.decoder.parity import NEW_TOKENS
from edgedistill.pipeline.exporting.source import OnTarget, Source, weights_in
from edgedistill.predictor import Decoder, Prediction
from edgedistill.runtime.turns import PIECES
from edgedistill.stages import Run
from edgedistill.store import Output, canonical
from edgedistill.tasks.task import Task
from edgedistill.teachers import causal
from edgedistill.teachers.chat import folded, text_of
from edgedistill.teachers.local import TOKENIZER
from edgedistill.types import Device, Exported, Message, NotMeasured, Progress, Recipe

ROWS = 50
"""On which files are judged: along the answers that is a thousand tokens and more."""
CALIBRATION_ROWS = 100
TIMED_ROWS = 8
CONTEXT = 2048
"""Tokens that a bundle keeps unless it is told, where the model reads so many."""
CONVERSATION = "conversation"
GENAI = "onnxruntime-genai"

Asked = tuple[Sequence[Message], str | None]
"""The turns before an answer, and the answer where it is known."""


class _Prompt(NamedTuple):
    """A conversation as the bundle's runtime writes it for the model."""

    turns: list[dict[str, str]]
    text: str
    ids: list[int]
    answer: str | None


def decoder(
    run: Run,
    folder: Path,
    name: str,
    recipes: tuple[Recipe, ...],
    besides: tuple[Recipe, ...],
    device: Device,
    context: int | None,
) -> Source:
    """Reads the rows. Nothing is asked yet: that needs the files.

    Args:
        recipes: of one engine; `besides` are of the board's other ones.

    Raises:
        InputError: the checkpoint or the rows cannot be used, or the engine is not installed.
        StageError: the engine does not compute the family.
    """
    request = run.request
    _engine(recipes[0]).refuse(folder)
    config = read_config(folder)
    found = generative.find(str(folder), what="checkpoint")
    tokenizer = causal.tokenizer_of(folder)
    kept = min(context or CONTEXT, config["max_position_embeddings"])
    with run.stage("rows") as stage:
        judged, others, left_out = _rows(run, tokenizer, kept - NEW_TOKENS)
        own = judged[0].answer is None
        whose = "questions that come with edgedistill" if own else "validation rows"
        stage.note = f"{len(judged)} {whose}" + (f", {left_out} left out" if left_out else "")
    on = Judged(
        prompts=tuple(one.text for one in judged),
        answers=None if own else tuple(str(one.answer) for one in judged),
        calibration=tuple(tuple(_ids(tokenizer, one.text + (one.answer or ""))) for one in others),
    )
    original = Original(folder, found.sha256, on)
    parameters = weights_in(causal.check(folder))

    def write(some: Sequence[Recipe], progress: Progress) -> tuple[Exported, Output]:
        return ladder.export(
            _engine(some[0]), original, some, tolerance=request.export.tolerance, store=run.store, progress=progress
        )

    def check(_: Path, exported: Exported) -> OnTarget:
        if exported.path.is_dir():
            return (NotMeasured(name="answers_equal", reason=f"{recipes[0].engine} is not run under emulation"),)
        prompts = [one.ids for one in judged]
        return decoded.kept_equal(exported.path, exported.sha256, device, prompts, weights=parameters, store=run.store)

    def described(exported: Exported) -> dict[str, Any]:
        return {"recipe": exported.recipe, "parameters": parameters, "context": kept}

    def size_up(size: int, recipe: Recipe) -> fit.Fit:
        if recipe.engine == GENAI:
            return fit.of_genai(size, recipe.bits, config, kept, device)
        return fit.of_decoder(size, config, kept, device)

    def predicted(size: int, recipe: Recipe) -> Prediction:
        if recipe.engine == GENAI:
            return Prediction(why=(f"no published row of {GENAI}: its speed is not predicted",))
        table, tied = config["vocab_size"] * config["hidden_size"], bool(config.get("tie_word_embeddings"))
        body = parameters - table * (1 if tied else 2)
        return predictor.decoder(
            device,
            Decoder(body=body, active=body, table=table, tied=tied, width=config["hidden_size"]),
            recipe.name,
            file_bytes=size,
            context=kept,
            kept_bytes=fit.kept_bytes(config),
            memory=size_up(size, recipe).memory,
        )

    return Source(
        kind="decoder",
        name=name,
        recipes=recipes,
        metric=ladder.metric_of(on),
        judged_on=f"its own greedy answers to {len(judged)} questions" if own else f"the answers of {len(judged)} rows",
        texts=tuple(one.turns for one in judged[:TIMED_ROWS]),
        command='chat "your question"',
        threads=device.cores,
        tokenizer=_tokenizer,
        write=write,
        model=described,
        size_up=size_up,
        check=check,
        beside=_template(tokenizer),
        others=besides,
        writing=predicted,
    )


def _engine(recipe: Recipe) -> Engine:
    """What makes and asks the files of a recipe. Only its own packages are imported: the others' may not be there.

    Raises:
        MissingExtra: a package of its own is not there.
    """
    if recipe.engine == GENAI:
        from edgedistill.export.decoder import genai

        return genai
    try:
        from edgedistill.export.decoder import llama
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise MissingExtra("gguf", extra="gguf") from error
    return llama


def _tokenizer(exported: Exported) -> Path | None:
    """What lies beside the file; a GGUF file holds it."""
    found = exported.path.parent / TOKENIZER
    return found if found.is_file() else None


def _rows(run: Run, tokenizer: Any, most: int) -> tuple[list[_Prompt], list[_Prompt], int]:
    """What files are judged on, what their weights are weighed by, and how many rows are of no use.

    Args:
        most: tokens of a prompt.
    """
    request = run.request
    splits: dict[str, list[Asked]]
    if request.data.folder == DEMO:
        splits = {
            split: [(({"role": "user", "content": row["text"]},), None) for row in rows]
            for split, rows in smarthome.generate().items()
        }
        judged, others = splits["test"][:ROWS], splits["train"][:CALIBRATION_ROWS]
    else:
        task = tasks.find(CONVERSATION if tasks.find(request.task).has_labels else request.task)
        rows, _ = prompts.prepare(request.data, task, seed=request.seed, store=run.store)
        judged, others = (
            list(_asked(task, prompts.read(rows, split), count))
            for split, count in (("validation", ROWS), ("train", CALIBRATION_ROWS))
        )
    usable, calibration = (list(_prompts(tokenizer, some, most)) for some in (judged, others))
    if not usable:
        raise InputError(
            f"none of {len(judged)} rows can be asked: the template refuses them, or they have more than {most} tokens",
            hint="give shorter rows with --data, or a longer --context",
        )
    return usable, calibration, len(judged) - len(usable)


def _asked(task: Task, rows: Sequence[Mapping[str, Any]], count: int) -> Iterator[Asked]:
    step = -(-len(rows) // count)  # spread over the file
    for row in rows[::step]:
        yield task.messages(row, PLAIN), str(task.gold(row))


def _prompts(tokenizer: Any, some: Sequence[Asked], most: int) -> Iterator[_Prompt]:
    from jinja2 import TemplateError

    for messages, answer in some:
        turns = folded(tokenizer, messages)
        try:
            text = text_of(tokenizer, turns)
        except TemplateError:
            continue
        ids = _ids(tokenizer, text)
        if 0 < len(ids) <= most:
            yield _Prompt(turns, text, ids, answer)


def _ids(tokenizer: Any, text: str) -> list[int]:
    """As the runtime does: the template has written every special token."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _template(tokenizer: Any) -> dict[str, bytes]:
    """The chat template in pieces, which take a system's turn wherever training does; else the engine runs it whole."""
    try:
        return {PIECES: canonical(chat.cut(tokenizer))}
    except StageError:
        return {}
