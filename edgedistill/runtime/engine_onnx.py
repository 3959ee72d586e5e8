"""A text classifier on ONNX Runtime: text in, one score a label out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer


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
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(model["max_tokens"])
        self._tokenizer.enable_padding(pad_id=model["pad_id"])
        self._session = session(folder / model["file"], threads or manifest["engine"]["threads"])

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Logits of each text. Shape: [texts, labels]."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
        return logits(self._session, ids, mask)


def session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU, as the device runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def logits(
    engine: onnxruntime.InferenceSession, ids: NDArray[np.int64], mask: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Runs one batch. Shapes: ids and mask [texts, longest]; result [texts, labels]."""
    inputs = {"input_ids": ids, "attention_mask": mask}
    result: NDArray[np.float32] = engine.run(["logits"], inputs)[0]
    return result


def probabilities(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over labels."""
    exponents = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]
