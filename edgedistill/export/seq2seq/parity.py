"""Whether the two graphs answer like the checkpoint that they were written from answers in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import InputError
from edgedistill.export.parity import compare as compare_logits
from edgedistill.export.seq2seq.checkpoint import context_of, ends_of, load
from edgedistill.export.seq2seq.write import MODEL
from edgedistill.runtime.engine_seq2seq import Model, tokenizer
from edgedistill.teachers.causal import tokenizer_of
from edgedistill.teachers.local import quiet
from edgedistill.types import Progress, silent

NEW_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How the graphs compare with the checkpoint. `edgedistill.export.parity.verdict` takes it as a mapping.

    Attributes:
        texts: how many were answered.
        same_pieces: share of the texts that both tokenizers cut alike.
        same_answers: share of the texts with the same greedy answer.
        diverges_at: for each text the first token of the answers that differs, counted from 0; None where none does.
        positions: how many distributions the rest is taken over: those along the checkpoint's greedy answers.
        top1_agreement: share of the positions with the same most likely token.
        kl: checkpoint ‖ graphs in nats, mean over the positions.
        max_error, mean_error: absolute, of logits. `cosine`: mean over the positions.
    """

    texts: int
    same_pieces: float
    same_answers: float
    diverges_at: tuple[int | None, ...]
    positions: int
    top1_agreement: float
    kl: float
    max_error: float
    mean_error: float
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the checkpoint answers to some texts, to hold any number of graphs against.

    Attributes:
        texts: what was asked; `ids`: their pieces.
        answers: its greedy tokens, the one that ends an answer among them.
        logits: that each of them follows from. Shape of each: [tokens, vocabulary], float32.
        ends: the tokens that end an answer.
        new_tokens: of an answer, at most.
    """

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    logits: tuple[NDArray[np.float32], ...]
    ends: frozenset[int]
    new_tokens: int


def reference(
    student: Path, texts: Sequence[str], *, new_tokens: int = NEW_TOKENS, progress: Progress = silent
) -> Reference:
    """Has transformers answer texts greedily, in float32.

    Args:
        student: the checkpoint.
        new_tokens: of an answer, at most; less where the checkpoint was trained on less.

    Raises:
        InputError: no texts, or the checkpoint is not complete.
        StageError: the checkpoint is of another family.
    """
    if not texts:
        raise InputError("parity needs texts", hint="give some of the test rows")
    model, cut = load(student), tokenizer_of(student)
    new_tokens = min(new_tokens, context_of(model.config) - 1)
    ids, answers, logits = [], [], []
    for done, text in enumerate(texts, 1):
        ids.append(tuple(cut(text)["input_ids"]))
        answer, scores = _greedy(model, ids[-1], new_tokens)
        answers.append(tuple(answer))
        logits.append(scores)
        progress(done, len(texts), "asking the checkpoint")
    return Reference(
        texts=tuple(texts),
        ids=tuple(ids),
        answers=tuple(answers),
        logits=tuple(logits),
        ends=frozenset(ends_of(model.generation_config)),
        new_tokens=new_tokens,
    )


def compare(expected: Reference, folder: Path, *, threads: int = 1, progress: Progress = silent) -> Parity:
    """Has the engine answer the same texts, and holds the logits along the checkpoint's answers together.

    Args:
        folder: from `to_seq2seq`.

    Raises:
        ValueError: a text is longer than the graphs take.
    """
    texts = expected.texts
    file, own = Model(folder / MODEL, threads=threads), tokenizer(folder)
    same_pieces, diverges_at, figures, steps = 0, [], [], []
    for number, text in enumerate(texts):
        ids, answer = own.encode(text).ids, expected.answers[number]
        same_pieces += tuple(ids) == expected.ids[number]
        figures.append(compare_logits(file.scores(ids, answer), expected.logits[number]))
        steps.append(len(answer))
        said = list(file.tokens(ids, max_tokens=expected.new_tokens))
        diverges_at.append(_first_difference(answer[:-1] if answer[-1] in expected.ends else answer, said))
        progress(number + 1, len(texts))
    mean = {
        name: float(np.average([figure[name] for figure in figures], weights=steps))
        for name in ("top1_agreement", "kl", "mean_error", "cosine")
    }
    return Parity(
        texts=len(texts),
        same_pieces=same_pieces / len(texts),
        same_answers=diverges_at.count(None) / len(texts),
        diverges_at=tuple(diverges_at),
        positions=sum(steps),
        # not max(), which passes over NaN
        max_error=float(np.max([figure["max_error"] for figure in figures])),
        **mean,
    )


def _greedy(model: Any, ids: Sequence[int], count: int) -> tuple[list[int], NDArray[np.float32]]:
    """The checkpoint's likeliest tokens, the end among them, and the logits they follow from: [tokens, vocabulary].

    What else its config asks of a search (beams, phrases not to be repeated, a least length) is left out, as the
    engine leaves it out.
    """
    import torch
    from transformers import GenerationConfig as Untyped

    settings: Any = Untyped
    told = model.generation_config
    kept = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "forced_bos_token_id", "pad_token_id")
    given = torch.tensor([list(ids)])
    try:
        model.generation_config = settings(**{name: getattr(told, name) for name in kept})
        with torch.inference_mode(), quiet():
            out = model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=count,
                do_sample=False,
                num_beams=1,
                use_cache=False,  # transformers makes one for as many layers as the encoder has
                return_dict_in_generate=True,
                output_logits=True,
            )
    finally:
        model.generation_config = told
    logits: NDArray[np.float32] = torch.cat(out.logits).numpy()
    return out.sequences[0, 1:].tolist(), logits


def _first_difference(expected: Sequence[int], found: Sequence[int]) -> int | None:
    pairs = enumerate(zip_longest(expected, found))
    return next((at for at, (a, b) in pairs if a != b), None)
