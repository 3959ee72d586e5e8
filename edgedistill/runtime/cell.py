"""One cell of a benchmark: what one fresh process is asked to measure, from a file, with the bundle's own engine.

    {"within": 0.02, "limit_s": 60, "batch_rows": 32, "prompt_tokens": [64, 256], "new_tokens": 32}

Every key may be left out: `measure.timing` and `writing.writing` say what they mean and what is taken instead.
"""

import json
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from . import measure, reference, writing
from .engines import READER, TEXT_TO_TEXT, WRITERS, Refused, engine, manifest, rewriter, writer

LEAST_NEW_TOKENS = 2
"""So that there is a time between two of them."""
HELD_TOKENS = 32
"""That are written of each answer while memory is measured."""


def run(bundle: Path, threads: int | None, what: str, texts: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Measures a bundle.

    Args:
        what: "timing", "memory", "answers" or "writing". A model that writes has its writing timed, whatever is asked
            for, and its memory.
        texts: a file with a JSON list of texts, of pairs of them, or of conversations.
        asked: from `read`.

    Returns:
        Raw samples, as `measure` and `writing` name them; of answers, logits or spans.
    """
    told = manifest(bundle)
    converses = told["engine"]["name"] in WRITERS
    writes = converses or told.get("task") == TEXT_TO_TEXT
    module = engine(bundle)  # it is there before the model's memory is counted
    found = _texts(texts, converses=converses, reads=told.get("task") == READER)
    if writes:

        def load_writer() -> Any:
            return (writer if converses else rewriter)(bundle, threads)

        if what == "memory":
            return measure.memory(lambda: _whole(load_writer(), converses), found)
        chosen = {key: value for key, value in asked.items() if key != "batch_rows"}
        return writing.writing(load_writer, found, **chosen) | {"reference_ms": reference.times_ms()}
    if what == "writing":
        raise Refused(f"its engine {told['engine']['name']} writes no text; ask for timing")

    def load() -> Any:
        if told.get("task") != READER:
            return module.Classifier(bundle, threads=threads)
        reader = module.Reader(bundle, threads=threads)
        return lambda questions: [reader(*question) for question in questions]

    if what == "memory":
        return measure.memory(load, found)
    if what == "answers":
        answers, part = measure.answers(load(), found)
        if told.get("task") == READER:
            return {"spans": [[span.start, span.end, span.score] for span in answers], **part}
        return {"logits": [answer.tolist() for answer in answers], **part}
    kept = {key: value for key, value in asked.items() if key not in {"prompt_tokens", "new_tokens"}}
    return measure.timing(load, found, **kept) | {"reference_ms": reference.times_ms()}


def read(file: Path) -> dict[str, Any]:
    """What a file asks for.

    Raises:
        Refused: it is no JSON object of these keys, or a value makes no sense; the message names it.
    """
    found = _json(file)
    if not isinstance(found, dict):
        raise Refused(f"{file} is no JSON object")
    rules: dict[str, Callable[[Any], bool]] = {
        "within": lambda value: value is None or (_number(value) and 0 < value < 1),
        "limit_s": lambda value: _number(value) and value > 0,
        "batch_rows": lambda value: _count(value, 1),
        "prompt_tokens": lambda value: isinstance(value, list) and all(_count(one, 1) for one in value),
        "new_tokens": lambda value: _count(value, LEAST_NEW_TOKENS),
    }
    for key, value in found.items():
        if key not in rules:
            raise Refused(f"{file} says {key!r}; it may say {', '.join(rules)}")
        if not rules[key](value):
            raise Refused(f"{file}: {key} is {value!r}; `python -m runtime measure --help` says what it may be")
    return found


def _texts(file: Path, *, converses: bool, reads: bool) -> list[Any]:
    found = _json(file)
    if not isinstance(found, list) or not found:
        raise Refused(f"{file} is no JSON list of texts, pairs or conversations")
    if converses:
        return [[{"role": "user", "content": text}] if isinstance(text, str) else text for text in found]
    texts = [tuple(text) if isinstance(text, list) else text for text in found]
    if reads and not all(isinstance(text, tuple) and len(text) == 2 for text in texts):
        raise Refused(f"{file} must hold questions with their contexts: [question, context]")
    return texts


def _whole(model: Any, converses: bool) -> Any:
    """What writes the first tokens of each answer, all at once."""
    # Of an answer that may fill the context, so that the memory for all of it is set aside where it is measured.
    most = model.context if converses else HELD_TOKENS
    return lambda turns: [
        token
        for one in turns
        for token in islice(model.tokens(_asked(model, one, converses), max_tokens=most), HELD_TOKENS)
    ]


def _asked(model: Any, said: Any, converses: bool) -> Any:
    return model.prompt(said) if converses else said


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{file} cannot be read: {error}") from error


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
