"""Whether a file answers like the student it was made from, on real rows, in the engine that the bundle pins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgedistill.runtime.engine_onnx import logits, session
from edgedistill.store import Output, Store
from edgedistill.types import Exported, Progress, silent

ANSWERS = "logits.npy"
MAX_FP32_ERROR = 1e-3
"""Of a logit. A float32 file that differs by more was converted wrongly, whatever its accuracy."""
MIN_COSINE = 0.98
MIN_AGREEMENT = 0.9
"""Share of rows with the same label. Far below what a quantized file reaches, far above what a wrong one does: the task
metric judges what quantizing costs, and this whether it is the same model at all."""


def feed(row: Sequence[int], *, separator: int | None = None) -> dict[str, NDArray[np.int64]]:
    """One row as the engine takes it.

    Args:
        separator: the piece between the texts of a pair; what follows the first one belongs to the second text. None
            for rows of one text.
    """
    ids = np.array([row], dtype=np.int64)
    made = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if separator is not None:
        ends = (ids == separator).astype(np.int64)
        made["token_type_ids"] = np.minimum(ends.cumsum(axis=1) - ends, 1)
    return made


def answers(
    model: Path, ids: Sequence[Sequence[int]], *, separator: int | None = None, progress: Progress = silent
) -> NDArray[np.float32]:
    """Logits of an ONNX encoder, one row at a time as on the device.

    Args:
        separator: as for `feed`.

    Returns:
        [rows, labels]; of a head for spans, the scores of all pieces of all rows one after the other: [pieces, 2].
    """
    engine = session(model, threads=1)
    found = []
    for done, row in enumerate(ids, 1):
        given = feed(row, separator=separator)
        found.append(logits(engine, given["input_ids"], given["attention_mask"], given.get("token_type_ids")))
        if done % 100 == 0 or done == len(ids):
            progress(done, len(ids))
    return np.concatenate([found_in.reshape(-1, found_in.shape[-1]) for found_in in found])


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
        rows), kl_error (its standard error), top1_agreement (share of rows with the same label), rows.
    """
    a, b = file.astype(np.float64), student.astype(np.float64)
    error = np.abs(a - b)
    cosine = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    log_a, log_b = _log_softmax(a), _log_softmax(b)
    kl = (np.exp(log_b) * (log_b - log_a)).sum(axis=1)
    return {
        "max_error": float(error.max()),
        "mean_error": float(error.mean()),
        "cosine": float(cosine.mean()),
        "kl": float(kl.mean()),
        "kl_error": float(kl.std(ddof=1) / math.sqrt(len(kl))) if len(kl) > 1 else 0.0,
        "top1_agreement": float((a.argmax(axis=1) == b.argmax(axis=1)).mean()),
        "rows": float(len(a)),
    }


def verdict(parity: Mapping[str, float], *, exact: bool) -> dict[str, Any]:
    """Whether two sets of logits are of the same model, and why.

    Args:
        parity: from `compare`, or as much of it as is known.
        exact: whether the file is float32, and must give the same logits up to rounding.

    Returns:
        passed, and the reason in words.
    """
    # "not … <=", so that NaN does not pass
    if exact and not parity["max_error"] <= MAX_FP32_ERROR:
        reason = f"a float32 logit differs by {parity['max_error']:.2g}; {MAX_FP32_ERROR} is allowed"
        return {"passed": False, "reason": reason}
    for name, least, words in (
        ("top1_agreement", MIN_AGREEMENT, "rows with the same answer"),
        ("cosine", MIN_COSINE, "cosine of the logits"),
    ):
        if name in parity and not parity[name] >= least:
            return {"passed": False, "reason": f"{words}: {parity[name]:.3f}, at least {least} is asked"}
    return {"passed": True, "reason": f"the largest difference of a logit is {parity['max_error']:.2g}"}


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = scores - scores.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
