"""A decoder on onnxruntime-genai: a conversation in, the answer out piece by piece, as it is written."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from . import turns


class Model:
    """A graph with a cache of keys and values.

    Args:
        folder: with genai_config.json and the graph.
        threads: of the engine.
    """

    def __init__(self, folder: Path, *, threads: int) -> None:
        told = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        ends = told["eos_token_id"]
        self._ends = frozenset(ends if isinstance(ends, list) else [ends])
        self.context: int = told["context_length"]
        config = onnxruntime_genai.Config(str(folder))
        session = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._engine = onnxruntime_genai.Model(config)

    def tokens(self, prompt: Sequence[int], *, max_tokens: int) -> Iterator[int]:
        """The likeliest tokens after a prompt, one by one, without the one that ends the answer.

        Args:
            max_tokens: that the answer may have; the prompt and these must not be more than `context`.
        """
        for token in self._written(self._read(prompt, max_tokens), max_tokens):
            if token in self._ends:
                return
            yield token

    def work(self, prompt: Sequence[int], new_tokens: int) -> Iterator[int]:
        """Reads a prompt before it returns; writes so many tokens, whatever would end the answer."""
        return self._written(self._read(prompt, new_tokens, least=new_tokens), new_tokens)

    def _written(self, generator: Any, most: int) -> Iterator[int]:
        for _ in range(most):
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])

    def scores(self, prompt: Sequence[int], answer: Sequence[int]) -> NDArray[np.float32]:
        """What each token of an answer is chosen by, computed token by token as it would be written.

        Returns:
            [tokens of the answer, vocabulary].
        """
        generator = self._read(prompt, len(answer))
        found = [np.array(generator.get_logits()[0, -1], dtype=np.float32)]
        for token in answer[:-1]:
            generator.append_tokens(np.array([[token]], dtype=np.int32))
            found.append(np.array(generator.get_logits()[0, -1], dtype=np.float32))
        return np.stack(found)

    def _read(self, prompt: Sequence[int], most: int, *, least: int = 0) -> Any:
        """The engine after a prompt. It sets the memory for all tokens that may follow aside at once.

        Args:
            least: tokens that are written before an answer may end.
        """
        search = onnxruntime_genai.GeneratorParams(self._engine)
        search.set_search_options(max_length=len(prompt) + most, min_length=len(prompt) + least, do_sample=False)
        generator = onnxruntime_genai.Generator(self._engine, search)
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        return generator


class Chat:
    """A model that answers one conversation at a time, always with its likeliest words.

    Args:
        folder: the bundle: manifest.json, tokenizer.json, chat.json and the folder that the manifest names as the
            model's file, with genai_config.json and the graph in it.
        threads: of the engine; None takes the number in the manifest.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        pieces = turns.read(folder)
        if pieces is None:
            raise FileNotFoundError(folder / turns.PIECES)
        self._pieces = pieces
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._model = Model(folder / manifest["model"]["file"], threads=threads or manifest["engine"]["threads"])
        self.context: int = min(manifest["model"]["context"], self._model.context)

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The tokens of a conversation, with the assistant's turn opened.

        Raises:
            ValueError: the chat template takes no such order of roles.
        """
        text = turns.text(self._pieces, messages)
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def tokens(self, prompt: Sequence[int], *, max_tokens: int) -> Iterator[int]:
        """The answer's tokens, one by one, without the one that ends it.

        Raises:
            ValueError: the prompt leaves no room for an answer.
        """
        room = turns.room(len(prompt), self.context)
        yield from self._model.tokens(prompt, max_tokens=min(max_tokens, room))

    def holds(self, prompt_tokens: int, new_tokens: int) -> bool:
        """Whether a prompt and its answer fit into the context."""
        return prompt_tokens + new_tokens <= self.context

    def work(self, prompt: Sequence[int], new_tokens: int) -> Iterator[int]:
        """The same work every time, to be timed: reads a prompt before it returns, then writes so many tokens.

        Each token is a step of the engine and its choice, whatever would end an answer.

        Raises:
            ValueError: the prompt leaves no room for the answer.
        """
        turns.room(len(prompt), self.context, needed=new_tokens)
        return self._model.work(prompt, new_tokens)

    def stream(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int = 256) -> Iterator[str]:
        """The answer to a conversation in pieces of text; a piece never ends inside a character.

        Raises:
            ValueError: the conversation is too long, or the chat template takes no such order of roles.
        """
        decoder = DecodeStream(skip_special_tokens=True)
        written, shown = [], ""
        for token in self.tokens(self.prompt(messages), max_tokens=max_tokens):
            written.append(token)
            if piece := decoder.step(self._tokenizer, token):
                shown += piece
                yield piece
        # What the decoder holds back for a character that never came to its end.
        if rest := self._tokenizer.decode(written, skip_special_tokens=True).removeprefix(shown):
            yield rest
