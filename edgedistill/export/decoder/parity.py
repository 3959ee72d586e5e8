"""Whether a decoder's file answers in its engine as the checkpoint that it was written from does in transformers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedistill.errors import InputError
from edgedistill.export.checkpoint import load, read_config
from edgedistill.teachers.local import TOKENIZER
from edgedistill.types import Progress, silent

NEW_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How a generating file compares with its checkpoint.

    Attributes:
        prompts: how many were answered.
        same_pieces: share of the prompts that both tokenizers cut alike.
        same_answers: share of the prompts with the same most likely tokens all along the answer.
        diverges_at: for each prompt the first token that differs, counted from 0; None where none does.
        token_accuracy: share of the answers' tokens that the file finds most likely where they stand.
        positions: how many distributions the rest is taken over: those along the answers.
        top1_agreement: share of the positions with the same most likely token.
        kl: checkpoint ‖ file in nats, mean over the positions; `kl_error` is the standard error of that mean, with the
            positions taken as independent.
        max_error, mean_error: absolute, of logits. `cosine`: mean over the positions.
    """

    prompts: int
    same_pieces: float
    same_answers: float
    diverges_at: tuple[int | None, ...]
    token_accuracy: float
    positions: int
    top1_agreement: float
    kl: float
    kl_error: float
    max_error: float
    mean_error: float
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the checkpoint says along some answers, to hold any number of files against.

    Attributes:
        prompts: the texts; `ids`: their pieces.
        answers: the tokens after each prompt: given ones, or those that it says itself.
        logits: that each of them follows from. Shape of each: [tokens, vocabulary], float32.
        special: whether the tokenizer put its own first piece before a prompt.
    """

    prompts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    logits: tuple[NDArray[np.float32], ...]
    special: bool = True

    @property
    def best(self) -> tuple[tuple[int, ...], ...]:
        """The most likely token at each place."""
        return tuple(tuple(map(int, scores.argmax(axis=1))) for scores in self.logits)

    @property
    def token_accuracy(self) -> float:
        """Share of the answers' tokens that the checkpoint finds most likely; 1 for its own greedy ones."""
        return _accuracy(self.answers, self.best)


def reference(
    checkpoint: Path,
    prompts: Sequence[str],
    answers: Sequence[str] | None = None,
    *,
    new_tokens: int = NEW_TOKENS,
    special: bool = True,
    progress: Progress = silent,
) -> Reference:
    """Asks the checkpoint in transformers, in float32.

    Args:
        prompts: whole texts, chat template applied.
        answers: to follow each prompt along; None has the checkpoint answer greedily.
        new_tokens: of an answer, at most; one of its own ends with the checkpoint's end of text.
        special: whether the tokenizer puts its own first piece before each prompt. A conversation has what the template
            writes, and nothing else.

    Raises:
        InputError: no prompts, an empty one, an empty answer, or no checkpoint.
    """
    ids = ids_of(checkpoint / TOKENIZER, prompts, special=special)
    given = None if answers is None else ids_of(checkpoint / TOKENIZER, answers, special=False)
    model = load(checkpoint, read_config(checkpoint))
    ends = _ends(model)
    said, logits = [], []
    for number, prompt in enumerate(ids):
        if given is None:
            answer, scores = _greedy(model, prompt, new_tokens, ends)
        else:
            answer = given[number][:new_tokens]
            scores = _along(model, prompt, answer)
        said.append(tuple(answer))
        logits.append(scores)
        progress(number + 1, len(ids))
    return Reference(
        prompts=tuple(prompts),
        ids=tuple(tuple(one) for one in ids),
        answers=tuple(said),
        logits=tuple(logits),
        special=special,
    )


def compare(expected: Reference, pieces: Sequence[Sequence[int]], logits: Iterable[NDArray[np.float32]]) -> Parity:
    """Holds what a file says against what the checkpoint says.

    Args:
        pieces: of each prompt, as the file's own tokenizer cuts it.
        logits: of the file, for each prompt those that the tokens of the answer follow from, asked for one after the
            other. Shape of each: [tokens, vocabulary].
    """
    said: list[list[int]] = []

    def noted() -> Iterator[NDArray[np.float32]]:
        for scores in logits:
            said.append(scores.argmax(axis=1).tolist())
            yield scores

    figures = _figures(expected.logits, noted())
    count = len(expected.ids)
    first = [_first_difference(a, b) for a, b in zip(expected.best, said, strict=True)]
    return Parity(
        prompts=count,
        same_pieces=sum(list(a) == list(b) for a, b in zip(expected.ids, pieces, strict=True)) / count,
        same_answers=first.count(None) / count,
        diverges_at=tuple(first),
        token_accuracy=_accuracy(expected.answers, said),
        **figures,
    )


def ids_of(tokenizer: Path, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
    """Texts as the pieces of a tokenizer.json.

    Args:
        special: whether the tokenizer puts its own first piece before each text.

    Raises:
        InputError: no texts, or an empty one.
    """
    cut = Tokenizer.from_file(str(tokenizer))
    cut.no_padding()
    cut.no_truncation()
    ids = [encoding.ids for encoding in cut.encode_batch(list(texts), add_special_tokens=special)]
    if not ids or not all(ids):
        raise InputError("parity needs texts, and each of them needs a token", hint="give some of the test rows")
    return ids


def _ends(model: Any) -> set[int]:
    found = model.generation_config.eos_token_id
    return set() if found is None else {found} if isinstance(found, int) else set(found)


def _greedy(model: Any, prompt: list[int], count: int, ends: set[int]) -> tuple[list[int], NDArray[np.float32]]:
    """The checkpoint's most likely tokens and the logits that they were chosen by: [tokens, vocabulary]."""
    tokens: list[int] = []
    logits = []
    cache = None
    step = torch.tensor([prompt])
    with torch.inference_mode():
        while len(tokens) < count and not (tokens and tokens[-1] in ends):
            found = model(input_ids=step, past_key_values=cache, use_cache=True)
            cache = found.past_key_values
            logits.append(found.logits[0, -1].numpy())
            tokens.append(int(logits[-1].argmax()))
            step = torch.tensor([[tokens[-1]]])
    return tokens, np.stack(logits)


def _along(model: Any, prompt: list[int], answer: list[int]) -> NDArray[np.float32]:
    """The logits that each token of a given answer follows from: [tokens, vocabulary]."""
    with torch.inference_mode():
        found = model(input_ids=torch.tensor([[*prompt, *answer[:-1]]]), logits_to_keep=len(answer))
    logits: NDArray[np.float32] = found.logits[0].numpy()
    return logits


def _accuracy(answers: Sequence[Sequence[int]], best: Sequence[Sequence[int]]) -> float:
    pairs = [pair for answer, said in zip(answers, best, strict=True) for pair in zip(answer, said, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def _first_difference(reference: Sequence[int], found: Sequence[int]) -> int | None:
    pairs = enumerate(zip(reference, found, strict=False))
    return next((at for at, (a, b) in pairs if a != b), None)


def _figures(references: Sequence[NDArray[np.float32]], files: Iterator[NDArray[np.float32]]) -> dict[str, Any]:
    """The figures over all positions; one prompt's logits are held at a time."""
    each: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ("kl", "top1", "cosine", "max", "mean")}
    for reference, file in zip(references, files, strict=True):
        a, b = reference.astype(np.float64), file.astype(np.float64)
        log_a, log_b = _log_softmax(a), _log_softmax(b)
        each["kl"].append((np.exp(log_a) * (log_a - log_b)).sum(axis=1))
        each["top1"].append((a.argmax(axis=1) == b.argmax(axis=1)).astype(np.float64))
        each["cosine"].append((a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)))
        error = np.abs(a - b)
        each["max"].append(error.max(axis=1))
        each["mean"].append(error.mean(axis=1))
    whole = {name: np.concatenate(parts) for name, parts in each.items()}
    count = len(whole["kl"])
    return {
        "positions": count,
        "top1_agreement": float(whole["top1"].mean()),
        "kl": float(whole["kl"].mean()),
        "kl_error": float(whole["kl"].std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0,
        "max_error": float(whole["max"].max()),
        "mean_error": float(whole["mean"].mean()),
        "cosine": float(whole["cosine"].mean()),
    }


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = scores - scores.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
