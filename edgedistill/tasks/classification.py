"""Text classification: one text, one label out of a closed set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgedistill.tasks.task import Task


class Classification(Task):
    """A text in, one label of a closed set out. Judged by accuracy, macro F1 and out-of-scope recall."""

    name = "classification"
    inputs = ("text",)
    target = "label"
    max_tokens = 96
    has_labels = True
    instruction = "You sort texts into classes. Choose the one label that fits the text best."


def correct(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """1.0 where the label is right; its mean is the accuracy. Shapes: [rows]."""
    right: NDArray[np.float64] = (predicted == truth).astype(np.float64)
    return right


def macro_f1(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """F1 of each class that occurs in the truth, averaged over the classes."""
    classes = np.unique(truth)
    size = int(max(predicted.max(), truth.max())) + 1
    hits = np.bincount(truth[predicted == truth], minlength=size)
    either = np.bincount(truth, minlength=size) + np.bincount(predicted, minlength=size)
    return float(np.mean(2 * hits[classes] / either[classes]))


def recall_of(
    label: str, labels: Sequence[str], predicted: NDArray[np.int64], truth: NDArray[np.int64]
) -> float | None:
    """Share of the rows of one class that are found; None when the class has no rows."""
    if label not in labels:
        return None
    of_class = truth == labels.index(label)
    return float(np.mean(predicted[of_class] == truth[of_class])) if of_class.any() else None
