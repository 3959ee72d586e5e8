"""A decoder on onnxruntime-genai: a conversation in, the answer out piece by piece, as it is written."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from . import turns


class Chat:
    """A model that answers one conversation at a time, always with its likeliest words.

    Args:
        folder: the bundle: manifest.json, tokenizer.json, chat.json and the folder that the manifest names as the
            model's file, with genai_config.json and the graph in it.
        threads: of the engine; None takes the number in the manifest.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        model = folder / manifest["model"]["file"]
        told = json.loads((model / "genai_config.json").read_text(encoding="utf-8"))["model"]
        ends = told["eos_token_id"]
        self._ends = frozenset(ends if isinstance(ends, list) else [ends])
        self.context: int = min(manifest["model"]["context"], told["context_length"])
        pieces = turns.read(folder)
        if pieces is None:
            raise FileNotFoundError(folder / turns.PIECES)
        self._pieces = pieces
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        config = onnxruntime_genai.Config(str(model))
        session = {"intra_op_num_threads": threads or manifest["engine"]["threads"], "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._engine = onnxruntime_genai.Model(config)

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
        most = min(max_tokens, room)
        search = onnxruntime_genai.GeneratorParams(self._engine)
        # The engine sets the memory for so many tokens aside at once.
        search.set_search_options(max_length=len(prompt) + most, do_sample=False)
        generator = onnxruntime_genai.Generator(self._engine, search)
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        for _ in range(most):
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            if token in self._ends:
                return
            yield token

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
