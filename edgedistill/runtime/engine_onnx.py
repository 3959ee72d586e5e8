"""Encoders on ONNX Runtime: a text or a pair in, one score a label out, or the words of the answer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

Text = str | tuple[str, str]
LONGEST_ANSWER = 30
"""Pieces that a span has at most."""


class Classifier:
    """A model file, its tokenizer and its labels.

    Args:
        folder: the bundle: manifest.json, tokenizer.json and the model file that the manifest names.
        threads: of the engine; None takes the number in the manifest.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        model = manifest["model"]
        self.labels: list[str] = model["labels"]
        self.pairs: bool = model.get("pairs", False)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(model["max_tokens"])
        self._tokenizer.enable_padding(pad_id=model["pad_id"])
        self._session = session(folder / model["file"], threads or manifest["engine"]["threads"])

    def __call__(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Logits of each text or pair. Shape: [texts, labels]."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
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
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(model["max_tokens"], strategy="only_second")
        self._session = session(folder / model["file"], threads or manifest["engine"]["threads"])

    def __call__(self, question: str, context: str) -> str:
        """The words of the context that answer the question."""
        encoding = self._tokenizer.encode(question, context)
        ids, mask, types = (
            np.array([getattr(encoding, name)], dtype=np.int64) for name in ("ids", "attention_mask", "type_ids")
        )
        ends = logits(self._session, ids, mask, types)[0]
        within = np.array([sequence == 1 for sequence in encoding.sequence_ids])
        first, last = span(ends, within)
        return context[encoding.offsets[first][0] : encoding.offsets[last][1]]


def span(scores: NDArray[np.float32], within: NDArray[np.bool_]) -> tuple[int, int]:
    """The first and last piece of the likeliest answer: the largest sum of both scores, in order and not too long.

    Args:
        scores: [tokens, 2], for starting and for ending there.
        within: [tokens], whether a piece is of the context.
    """
    starts, ends = (np.where(within, scores[:, side], -np.inf) for side in (0, 1))
    sums = starts[:, None] + ends[None, :]
    allowed = np.tri(len(sums), k=LONGEST_ANSWER - 1, dtype=bool) & np.tri(len(sums), dtype=bool).T
    first, last = np.unravel_index(np.where(allowed, sums, -np.inf).argmax(), sums.shape)
    return int(first), int(last)


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
