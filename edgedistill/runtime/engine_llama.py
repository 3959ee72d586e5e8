"""A decoder in a GGUF file on llama.cpp: a conversation in, the answer out piece by piece, as it is written."""

import codecs
import ctypes
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from . import turns


class Chat:
    """A model that answers one conversation at a time, always with its likeliest words.

    Where two conversations in a row start alike, the second is read from where they part.

    Args:
        folder: the bundle: manifest.json and the GGUF file that the manifest names, with tokenizer and chat template
            inside; a chat.json beside the manifest takes the template's place.
        threads: of the engine; None takes the number in the manifest.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        model = manifest["model"]
        threads = threads or manifest["engine"]["threads"]
        self._engine = llama_cpp.Llama(
            str(folder / model["file"]),
            n_ctx=model["context"],
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )
        self.context: int = model["context"]
        self._held: list[int] = []
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._engine.model)
        self._tokens: int = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        self._pieces = turns.read(folder)
        told = self._engine.metadata
        self._template = told.get("tokenizer.chat_template")
        # SentencePiece writes a space before the first word too, and takes it off when a whole text is read.
        self._leading_space = (
            told.get("tokenizer.ggml.model") == "llama"
            and told.get("tokenizer.ggml.add_space_prefix", "true") == "true"
        )

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The tokens of a conversation, with the assistant's turn opened.

        Raises:
            ValueError: the chat template takes no such order of roles.
        """
        if self._pieces is not None:
            text = turns.text(self._pieces, messages)
        elif self._template is not None:
            end, start = self._name(self._engine.token_eos()), self._name(self._engine.token_bos())
            said: list[Any] = [dict(turn) for turn in messages]
            text = Jinja2ChatFormatter(self._template, end, start)(messages=said).prompt
        else:
            text = "".join(turn["content"] + "\n\n" for turn in messages)
        found: list[int] = self._engine.tokenize(text.encode(), add_bos=False, special=True)
        return found

    def tokens(self, prompt: Sequence[int], *, max_tokens: int) -> Iterator[int]:
        """The answer's tokens, one by one, without the one that ends it.

        Raises:
            ValueError: the prompt leaves no room for an answer.
        """
        room = turns.room(len(prompt), self.context)
        # A conversation that goes on was read up to here already.
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._held, prompt, strict=False)))
        self._read(prompt, min(same, len(prompt) - 1))
        for token in islice(self._write(), min(max_tokens, room)):
            if llama_cpp.llama_vocab_is_eog(self._vocabulary, token):
                return
            yield token

    def holds(self, prompt_tokens: int, new_tokens: int) -> bool:
        """Whether a prompt and its answer fit into the context."""
        return prompt_tokens + new_tokens <= self.context

    def work(self, prompt: Sequence[int], new_tokens: int) -> Iterator[int]:
        """The same work every time, to be timed: reads a prompt before it returns, then writes so many tokens.

        The prompt is read from nothing, in one batch or as few as the engine takes; each token is a step of one, chosen
        from the logits, whatever would end an answer. llama.cpp's own benchmark takes the same steps with tokens that
        it draws by chance.

        Raises:
            ValueError: the prompt leaves no room for the answer.
        """
        turns.room(len(prompt), self.context, needed=new_tokens)
        self._read(prompt, 0)
        return islice(self._write(), new_tokens)

    def _read(self, prompt: Sequence[int], held: int) -> None:
        """Makes the engine hold a prompt, of which it holds the first tokens already."""
        memory = llama_cpp.llama_get_memory(self._engine.ctx)
        if not held or not llama_cpp.llama_memory_seq_rm(memory, 0, held, -1):  # some models cannot forget an end
            llama_cpp.llama_memory_clear(memory, True)
            held = 0
        self._held = list(prompt[:held])
        for start in range(held, len(prompt), self._engine.n_batch):
            self._decode(prompt[start : start + self._engine.n_batch])
        llama_cpp.llama_synchronize(self._engine.ctx)

    def _write(self) -> Iterator[int]:
        """The likeliest tokens after what the engine holds, without end."""
        while True:
            token = self._likeliest()
            yield token
            self._decode([token])

    def _decode(self, tokens: Sequence[int]) -> None:
        """Computes the logits behind some tokens, which the engine then holds.

        Raises:
            RuntimeError: llama.cpp failed.
        """
        batch = (llama_cpp.llama_token * len(tokens))(*tokens)
        status = llama_cpp.llama_decode(self._engine.ctx, llama_cpp.llama_batch_get_one(batch, len(tokens)))
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        self._held += tokens

    def _likeliest(self) -> int:
        """The token of the greatest of the last logits."""
        # Where they lie: a sampler of llama.cpp copies the vocabulary first, which takes a small model's step longer.
        logits = llama_cpp.llama_get_logits_ith(self._engine.ctx, -1)
        return int(np.ctypeslib.as_array(logits, (self._tokens,)).argmax())

    def stream(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int = 256) -> Iterator[str]:
        """The answer to a conversation in pieces of text; a piece never ends inside a character.

        Raises:
            ValueError: the conversation is too long, or the chat template takes no such order of roles.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        first = self._leading_space
        for token in self.tokens(self.prompt(messages), max_tokens=max_tokens):
            written = self._bytes(token)
            written, first = written.removeprefix(b" ") if first else written, False
            if piece := decoder.decode(written):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest

    def _bytes(self, token: int) -> bytes:
        """What a token writes. The package's own function drops pieces of more than 32 bytes."""
        buffer = ctypes.create_string_buffer(32)
        size = llama_cpp.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, False)
        if size < 0:  # how many it needs
            buffer = ctypes.create_string_buffer(-size)
            size = llama_cpp.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, False)
        return buffer.raw[:size]

    def _name(self, token: int) -> str:
        """How a template writes a token; -1 is none."""
        return "" if token == -1 else llama_cpp.llama_vocab_get_text(self._vocabulary, token).decode()
