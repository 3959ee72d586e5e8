"""Whether a file answers like the student it was made from, on real rows, in the engine that the bundle pins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgedistill.runtime.engine_onnx import logits, session
from edgedistill.store import Output, Store
from edgedistill.types import Exported, Progress, silent

ANSWERS = "logits.npy"


def answers(model: Path, ids: Sequence[Sequence[int]], *, progress: Progress = silent) -> NDArray[np.float32]:
    """Logits of an ONNX classifier, one text at a time as on the device. Shape: [rows, labels]."""
    engine = session(model, threads=1)
    found = []
    for done, row in enumerate(ids, 1):
        tokens = np.array([row], dtype=np.int64)
        found.append(logits(engine, tokens, np.ones_like(tokens))[0])
        if done % 100 == 0 or done == len(ids):
            progress(done, len(ids))
    return np.stack(found)


def kept_answers(
    exported: Exported, ids: Sequence[Sequence[int]], rows: str, *, store: Store, progress: Progress = silent
) -> tuple[NDArray[np.float32], Output]:
    """The exported file's logits for rows whose hash is given, kept in the store. Shape: [rows, labels]."""

    def produce(folder: Path, _: Path) -> None:
        np.save(folder / ANSWERS, answers(exported.path, ids, progress=progress), allow_pickle=False)

    output = store.get("answers", {"file": exported.sha256, "rows": rows, "engine": onnxruntime.__version__}, produce)
    found: NDArray[np.float32] = np.load(output.path / ANSWERS, allow_pickle=False)
    return found, output


def compare(file: NDArray[np.float32], student: NDArray[np.float32]) -> dict[str, float]:
    """How far two sets of logits are apart. Shapes: [rows, labels].

    Returns:
        max_error and mean_error (absolute, of logits), cosine (mean over rows), kl (student ‖ file, nats, mean over
        rows), top1_agreement (share of rows with the same label), rows.
    """
    a, b = file.astype(np.float64), student.astype(np.float64)
    error = np.abs(a - b)
    cosine = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    log_a, log_b = _log_softmax(a), _log_softmax(b)
    return {
        "max_error": float(error.max()),
        "mean_error": float(error.mean()),
        "cosine": float(cosine.mean()),
        "kl": float((np.exp(log_b) * (log_b - log_a)).sum(axis=1).mean()),
        "top1_agreement": float((a.argmax(axis=1) == b.argmax(axis=1)).mean()),
        "rows": float(len(a)),
    }


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = scores - scores.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
