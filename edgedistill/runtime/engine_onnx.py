"""Encoders on ONNX Runtime: a text or a pair in, one score a label out, or the words of the answer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from .spans import Span, best, windows

Text = str | tuple[str, str]


class Classifier:
    """A model file, its tokenizer and its labels.

    Args:
        folder: the bundle: manifest.json, tokenizer.json and the model file that the manifest names. The manifest says
            whether rows are pairs, and whether the model reads the two texts of one apart.
        threads: of the engine; None takes the number in the manifest.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        model = manifest["model"]
        self.labels: list[str] = model["labels"]
        self.pairs: bool = model.get("pairs", False)
        self._apart: bool = model.get("apart", False)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(model["max_tokens"])
        self._tokenizer.enable_padding(pad_id=model["pad_id"])
        self._session = session(folder / model["file"], threads or manifest["engine"]["threads"])

    def __call__(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Logits of each text or pair. Shape: [texts, labels]."""
        parts = [part for pair in texts for part in pair] if self._apart else list(texts)
        encodings = self._tokenizer.encode_batch_fast(parts)
        ids, mask, types = (
            np.array([getattr(encoding, name) for encoding in encodings], dtype=np.int64)
            for name in ("ids", "attention_mask", "type_ids")
        )
        return logits(self._session, ids, mask, types)


class Reader:
    """A model that points at the answer to a question in a text. Its folder is like a classifier's, without labels."""

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        model = manifest["model"]
        self._max_tokens: int = model["max_tokens"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._session = session(folder / model["file"], threads or manifest["engine"]["threads"])

    def __call__(self, question: str, context: str) -> Span:
        """The piece of the context that answers the question. A long context is read in windows that overlap.

        Raises:
            ValueError: question or context is empty, or the question leaves no room for the context.
        """
        read = windows(self._tokenizer, question, context, self._max_tokens)
        return best(read, [self._scores(window) for window in read], context)

    def _scores(self, window: Encoding) -> NDArray[np.float32]:
        """For an answer that starts and that ends at each piece. Shape: [pieces, 2]."""
        ids, mask, types = (
            np.array([getattr(window, name)], dtype=np.int64) for name in ("ids", "attention_mask", "type_ids")
        )
        found: NDArray[np.float32] = logits(self._session, ids, mask, types)[0]
        return found


def session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU, as the device runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def logits(
    engine: onnxruntime.InferenceSession,
    ids: NDArray[np.int64],
    mask: NDArray[np.int64],
    types: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Runs one batch. Shapes: ids, mask and types [texts, longest]; result [texts, labels] or [texts, longest, 2].

    Args:
        types: which text of a pair each piece belongs to; a model of single texts does not look at it.
    """
    inputs = {"input_ids": ids, "attention_mask": mask}
    if len(engine.get_inputs()) > len(inputs):
        inputs["token_type_ids"] = np.zeros_like(ids) if types is None else types
    result: NDArray[np.float32] = engine.run(["logits"], inputs)[0]
    return result


def probabilities(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over labels."""
    exponents = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]
