"""A static student on numpy: text in, one score a label out. Tables of vectors, looked up, added and pooled."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Text = str | tuple[str, str]
_TYPES = {"I8": np.int8, "F32": np.float32}
_ITS_OWN = 1
"""Of the three vectors of a piece, the one for its own position; before it stands the one for the next position."""


class Classifier:
    """A model file, its tokenizer and its labels.

    Args:
        folder: the bundle: manifest.json, tokenizer.json and the model file that the manifest names.
        threads: taken so that all engines are called alike; there is nothing here that more threads would speed up.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        model = manifest["model"]
        self.labels: list[str] = model["labels"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(model["max_tokens"])
        weights = tensors(folder / model["file"])
        self._tables, self._scales = weights["tables"], weights["table_scales"][..., None]
        self._bias = weights["bias"]
        self._head = np.ascontiguousarray((weights["head"] * weights["head_scales"][:, None]).T)
        self._head_bias = weights["head_bias"]
        self.pairs = len(self._head) > 2 * len(self._bias)

    def __call__(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Logits of each text or pair. Shape: [texts, labels]."""
        parts = [part for text in texts for part in ((text,) if isinstance(text, str) else text)]
        vectors = self._vectors([encoding.ids for encoding in self._tokenizer.encode_batch_fast(parts)])
        if len(parts) > len(texts):
            u, v = vectors[::2], vectors[1::2]
            vectors = np.concatenate((u, v, np.abs(u - v), u * v), axis=1)
        return vectors @ self._head + self._head_bias  # type: ignore[no-any-return]

    def _vectors(self, ids: list[list[int]]) -> NDArray[np.float32]:
        """The maximum and the mean of each text's features. Shape: [texts, 2 × features]."""
        between = len(self._tables) - 1  # a piece of zeros ends each text, so texts lie in one row and none is padded
        pieces = np.array([piece for text in ids for piece in (*text, between)])
        ends = np.cumsum([len(text) + 1 for text in ids])
        starts = np.concatenate(([0], ends[:-1]))
        given = self._tables[pieces] * self._scales[pieces]
        features = given[:, _ITS_OWN] + self._bias
        features[1:] += given[:-1, _ITS_OWN - 1]
        features[:-1] += given[1:, _ITS_OWN + 1]
        np.maximum(features, 0, out=features)
        features[ends - 1] = 0
        lengths = np.maximum(ends - starts - 1, 1).astype(np.float32)
        mean = np.add.reduceat(features, starts) / lengths[:, None]
        return np.concatenate((np.maximum.reduceat(features, starts), mean), axis=1)


def tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file: 8 bytes with the length of a JSON header, the header, then the numbers."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8:start])
    header.pop("__metadata__", None)
    found: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        values = np.frombuffer(content[start + first : start + last], dtype=_TYPES[entry["dtype"]])
        found[name] = values.reshape(entry["shape"])
    return found


def probabilities(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over labels."""
    exponents = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]
