"""An encoder–decoder on ONNX Runtime: a text in, another out piece by piece, as it is written."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from .engine_onnx import session

ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
TOLD = "seq2seq.json"
"""What the graphs do not say: the tokens that start and end an answer, and the shape of the cache."""
State = dict[str, OrtValue]
"""What the decoder takes besides new tokens. It stays in the engine's memory: nothing is copied from step to step."""


class Model:
    """The two graphs.

    Args:
        folder: with encoder.onnx, decoder.onnx and seq2seq.json.
        context: tokens that a text, and an answer, may have, where that is less than the graphs take.
    """

    def __init__(self, folder: Path, *, threads: int, context: int | None = None) -> None:
        told: dict[str, Any] = json.loads((folder / TOLD).read_text(encoding="utf-8"))
        self.context: int = min(context or told["context"], told["context"])
        self._start: int = told["decoder_start"]
        self._first: int | None = told["first"]
        self._ends = frozenset(told["ends"])
        self._layers = range(told["layers"])
        self._empty = np.zeros((1, told["heads"], 0, told["head_size"]), dtype=np.float32)
        self._encoder = session(folder / ENCODER, threads)
        self._decoder = session(folder / DECODER, threads)
        self._read = [output.name for output in self._encoder.get_outputs()]
        self._wrote = [output.name for output in self._decoder.get_outputs()]

    def read(self, ids: Sequence[int]) -> State:
        """What the decoder writes an answer to a text from.

        Raises:
            ValueError: the text is empty or too long.
        """
        if not 0 < len(ids) <= self.context:
            raise ValueError(f"a text of {len(ids)} tokens, where 1 to {self.context} are taken")
        tokens = np.array([ids], dtype=np.int64)
        mask = OrtValue.ortvalue_from_numpy(np.ones_like(tokens))
        given = {"input_ids": OrtValue.ortvalue_from_numpy(tokens), "attention_mask": mask}
        found = self._encoder.run_with_ort_values(self._read, given)
        past = {
            f"past_{part}_{layer}": OrtValue.ortvalue_from_numpy(self._empty)
            for layer in self._layers
            for part in ("key", "value")
        }
        return {**dict(zip(self._read, found, strict=True)), **past, "attention_mask": mask}

    def step(self, state: State, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Writes tokens into the state, and gives the logits of the next one. Shape: [vocabulary]."""
        given = {"input_ids": OrtValue.ortvalue_from_numpy(np.array([tokens], dtype=np.int64)), **state}
        found = dict(zip(self._wrote, self._decoder.run_with_ort_values(self._wrote, given), strict=True))
        logits: NDArray[np.float32] = found.pop("logits").numpy()[0]
        state.update({name.replace("present", "past"): value for name, value in found.items()})
        return logits

    def tokens(self, ids: Sequence[int], *, max_tokens: int) -> Iterator[int]:
        """The answer to a text: always its likeliest tokens, one by one, without the one that ends it.

        Raises:
            ValueError: the text is empty or too long.
        """
        for token in self._written(self.read(ids), min(max_tokens, self.context)):
            if token in self._ends:
                return
            yield token

    def work(self, ids: Sequence[int], new_tokens: int) -> Iterator[int]:
        """Reads a text before it returns; writes so many tokens, whatever would end the answer.

        Raises:
            ValueError: the text is empty or too long.
        """
        return self._written(self.read(ids), new_tokens)

    def _written(self, state: State, most: int) -> Iterator[int]:
        token = self._start
        for place in range(most):
            logits = self.step(state, [token])
            token = self._first if place == 0 and self._first is not None else int(logits.argmax())
            yield token

    def scores(self, ids: Sequence[int], answer: Sequence[int]) -> NDArray[np.float32]:
        """The logits that each token of a given answer follows from, step by step. Shape: [tokens, vocabulary].

        Raises:
            ValueError: the text is empty or too long.
        """
        state = self.read(ids)
        return np.stack([self.step(state, [token]) for token in (self._start, *answer[:-1])])


class TextToText:
    """A model that turns one text at a time into another, always with its likeliest words.

    Args:
        folder: the bundle: manifest.json, tokenizer.json and the folder that the manifest names as the model's file,
            with the two graphs in it.
        threads: of the engine; None takes the number in the manifest.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        model = manifest["model"]
        threads = threads or manifest["engine"]["threads"]
        self._model = Model(folder / model["file"], threads=threads, context=model["context"])
        self.context = self._model.context
        self._tokenizer = tokenizer(folder)

    def prompt(self, text: str) -> list[int]:
        """The tokens of a text, with what the tokenizer puts around it."""
        found: list[int] = self._tokenizer.encode(text).ids
        return found

    def tokens(self, text: str, *, max_tokens: int) -> Iterator[int]:
        """The answer's tokens, one by one, without the one that ends it.

        Raises:
            ValueError: the text is too long.
        """
        return self._model.tokens(self.prompt(text), max_tokens=max_tokens)

    def holds(self, prompt_tokens: int, new_tokens: int) -> bool:
        """Whether a text and its answer are not too long: the encoder reads one, the decoder writes the other."""
        return 0 < prompt_tokens <= self.context and new_tokens <= self.context

    def work(self, prompt: Sequence[int], new_tokens: int) -> Iterator[int]:
        """The same work every time, to be timed: reads a text before it returns, then writes so many tokens.

        The encoder reads; each token is a step of the decoder and its choice, whatever would end an answer.

        Raises:
            ValueError: the text is empty or too long.
        """
        return self._model.work(prompt, new_tokens)

    def stream(self, text: str, *, max_tokens: int = 256) -> Iterator[str]:
        """The answer to a text in pieces of text; a piece never ends inside a character.

        Raises:
            ValueError: the text is too long.
        """
        decoder = DecodeStream(skip_special_tokens=True)
        written, shown = [], ""
        for token in self.tokens(text, max_tokens=max_tokens):
            written.append(token)
            if piece := decoder.step(self._tokenizer, token):
                shown += piece
                yield piece
        # What the decoder holds back for a character that never came to its end.
        if rest := self._tokenizer.decode(written, skip_special_tokens=True).removeprefix(shown):
            yield rest

    def answer(self, text: str, *, max_tokens: int = 256) -> str:
        """The whole answer to a text.

        Raises:
            ValueError: the text is too long.
        """
        return "".join(self.stream(text, max_tokens=max_tokens))


def tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a bundle; it cuts no text short and fills none up."""
    found = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found.no_padding()
    found.no_truncation()
    return found
