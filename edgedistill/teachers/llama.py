"""Teachers in a GGUF file, through llama-cpp-python."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill.config import LabelTeacher
from edgedistill.errors import InputError, MissingExtra
from edgedistill.store import file_sha256
from edgedistill.teachers.answerer import Declined, Failure
from edgedistill.teachers.api import read_completion
from edgedistill.types import Ask, Reply, Signal

MAGIC = b"GGUF"


class Gguf:
    """A GGUF file on this machine. Schemas are enforced by a grammar while it writes.

    Raises:
        InputError: no such file, not a GGUF file, or one that llama.cpp cannot run.
        MissingExtra: llama-cpp-python is not installed.
    """

    batch = 1
    slots = 1
    linger_s = 0.0
    enforces = True

    def __init__(self, settings: LabelTeacher) -> None:
        path = Path(settings.model)
        if not path.is_file():
            raise InputError(f"there is no file {path}", hint="give the path of a .gguf file as model")
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise InputError(f"{path} is not a GGUF file", hint="download it again, or check its format")
        try:
            llama_cpp: Any = importlib.import_module("llama_cpp")
        except ImportError as error:
            raise MissingExtra("llama-cpp-python", extra="gguf") from error
        self.settings = settings
        self.name = settings.title
        self.identity: Mapping[str, Any] = {
            "kind": "gguf",
            "sha256": file_sha256(path),
            "context": settings.context,
        }
        self.gives: tuple[Signal, ...] = (
            ("text", "labels", "top-k log-probabilities") if settings.logprobs else ("text", "labels")
        )
        self._at_work = threading.Lock()
        try:
            self._model = llama_cpp.Llama(
                str(path),
                n_ctx=settings.context,
                n_threads=settings.threads,
                n_threads_batch=settings.threads,  # for prompts; else all cores
                logits_all=bool(settings.logprobs),
                verbose=False,
                seed=0,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(
                f"llama.cpp cannot load {path}: {error}", hint="is it complete, and of a known family?"
            ) from error

    async def answer(self, asks: Sequence[Ask]) -> Sequence[Reply | Failure]:
        """Runs the model in a thread of its own; one request after the other."""
        return [await asyncio.to_thread(self._one, ask) for ask in asks]

    def _one(self, ask: Ask) -> Reply | Failure:
        form: dict[str, Any] = {}
        if ask.schema is not None:
            form["response_format"] = {"type": "json_object", "schema": ask.schema}
        if self.settings.logprobs:
            form |= {"logprobs": True, "top_logprobs": self.settings.logprobs}
        with self._at_work:
            return self._completed(ask, form)

    def _completed(self, ask: Ask, form: dict[str, Any]) -> Reply | Failure:
        try:
            # Without a reset the answer depends on what is in the cache from the request before.
            self._model.reset()
            found = self._model.create_chat_completion(
                messages=[dict(message) for message in ask.messages],
                max_tokens=ask.max_tokens,
                temperature=ask.temperature,
                seed=0,
                **form,
                **self.settings.extra,
            )
        except (ValueError, RuntimeError) as error:  # mostly: the prompt is longer than the context
            return Declined(str(error))
        return read_completion(found | {"id": None})

    async def close(self) -> None:
        """Frees the model, unless a run that was stopped left it at work: then the end of the process does."""
        if self._at_work.acquire(blocking=False):
            self._model.close()
            self._at_work.release()
