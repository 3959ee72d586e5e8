"""A student without layers, for the smallest devices: tables of vectors, looked up, added and pooled.

Every piece of the vocabulary has one vector for its own position and one for each of its two neighbours'. A feature of
a position is the sum of what its three pieces give to it, cut at zero; a text is the maximum and the mean of these:

    "play some jazz" ─► tokenizer ─► tables[piece] ─► sum over the window, ReLU ─► max, mean ─► head ─► logits

That is a convolution of width 3 over piece vectors (Kim, 2014), and trained as one: `pieces @ filters`. A bag of words
knows no word order; this one knows phrases, and because the filters are shared, also such that were in no training
text. At the end the product is multiplied out into the tables, so the device looks up and adds, and has no matrix
product but the head. `edgedistill.runtime.engine_static` is that device; it reads the file that `save` writes.

The piece vectors start as the teacher's own view of each piece, as in model2vec (Tulkens and van Dongen, 2024). Beyond
that the student learns from the teacher's answers to the rows of the task, through the same `fit` as every other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.distill.batches import Text, encode
from edgedistill.distill.losses import Divergence, cross_entropy, forward_kl
from edgedistill.distill.panel import Panel, alone
from edgedistill.distill.trainer import Curve, Schedule, fit
from edgedistill.distill.vocab import trim
from edgedistill.store import canonical
from edgedistill.types import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgedistill.data.splits import Row
    from edgedistill.distill.logits import Signal

MODEL = "model.safetensors"
TOKENIZER = "tokenizer.json"
WINDOW = 3
WIDTH = 256
VOCABULARY = 8000
"""Pieces that are kept unless the user says otherwise."""
SPREAD = 0.4
"""Standard deviation of the piece vectors at the start. Adam moves all weights alike: it says how fast they turn."""
PIECES_AT_ONCE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticShape:
    """The sizes of a static student.

    Attributes:
        width: of the piece vectors while training; at most the teacher's.
        features: per position; the file has 3 bytes for each of them and each piece.
        labels: number of classes.
        pairs: rows are pairs of texts.
        word_dropout: share of pieces that is hidden from a text while training.
        dropout: share of features that is hidden from the head while training.
    """

    width: int = WIDTH
    features: int = 192
    labels: int
    pairs: bool = False
    word_dropout: float = 0.1
    dropout: float = 0.3


class StaticStudent(nn.Module):
    """The student as it is trained. Its weights start at random; see `piece_vectors` for a better start."""

    def __init__(self, vectors: Tensor, shape: StaticShape) -> None:
        """Takes the pieces' first vectors, [pieces, width]."""
        super().__init__()
        self.shape = shape
        self.pieces = nn.Embedding(vectors.shape[0], vectors.shape[1], _weight=vectors.clone())
        self.filters = nn.Linear(shape.width, WINDOW * shape.features, bias=False)
        # Keeps the features at the size of 1 whatever the spread of the vectors.
        nn.init.normal_(self.filters.weight, std=1 / (SPREAD * (WINDOW * shape.width) ** 0.5))
        self.bias = nn.Parameter(torch.zeros(shape.features))
        self.head = nn.Linear(2 * shape.features * (4 if shape.pairs else 1), shape.labels)

    def tables(self, pieces: Tensor) -> Tensor:
        """What pieces give to the position after them, to their own and to the one before. [pieces, 3, features]."""
        given: Tensor = self.filters(self.pieces(pieces))
        return given.view(-1, WINDOW, self.shape.features)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits of a batch.

        Args:
            ids: [rows, texts, positions]; one text a row, or two.
            mask: the same shape, True for real positions.

        Returns:
            [rows, labels].
        """
        rows, texts, length = ids.shape
        ids, mask = ids.flatten(0, 1), mask.flatten(0, 1)
        unique, places = torch.unique(ids, return_inverse=True)  # each piece goes through the filters once a batch
        nothing = len(unique)
        seen = mask & (torch.rand(mask.shape, device=mask.device) >= self.shape.word_dropout) if self.training else mask
        places = functional.pad(places.masked_fill(~seen, nothing), (1, 1), value=nothing)
        tables = functional.pad(self.tables(unique), (0, 0, 0, 0, 0, 1))
        windows = (functional.embedding(places[:, i : i + length], tables[:, i]) for i in range(WINDOW))
        features = functional.relu(sum(windows, self.bias)) * mask[:, :, None]
        mean = features.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        vectors = torch.cat((features.amax(dim=1), mean), dim=1).view(rows, texts, -1)
        vectors = functional.dropout(vectors, self.shape.dropout, self.training)
        logits: Tensor = self.head(paired(vectors) if self.shape.pairs else vectors[:, 0])
        return logits


def paired(vectors: Tensor) -> Tensor:
    """(u, v, |u − v|, u · v) of the two texts of each row (Conneau et al., 2017, section 3.1).

    Args:
        vectors: [rows, 2, width].

    Returns:
        [rows, 4 × width].
    """
    u, v = vectors.unbind(dim=1)
    return torch.cat((u, v, (u - v).abs(), u * v), dim=1)


@torch.no_grad()
def piece_vectors(teacher: PreTrainedModel, tokenizer: Tokenizer, kept: Sequence[int], width: int) -> Tensor:
    """How an encoder sees each piece alone: the mean of its last layer's output, cut to its principal components.

    Args:
        teacher: of the BERT family. The pretrained encoder is the better start, the fine-tuned one will do.
        tokenizer: the teacher's own.
        kept: the teacher's ids of the student's pieces.
        width: of the vectors; at most the teacher's.

    Returns:
        [pieces, width] with mean 0 and standard deviation `SPREAD`.
    """
    encoder: Any = teacher.base_model
    around = tokenizer.encode("").ids  # what the tokenizer puts before and after a text
    before, after = around[:1], around[1:]
    outputs = []
    for start in range(0, len(kept), PIECES_AT_ONCE):
        ids = torch.tensor([[*before, piece, *after] for piece in kept[start : start + PIECES_AT_ONCE]])
        out = encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
        outputs.append(out.last_hidden_state.float().mean(dim=1))
    states = torch.cat(outputs)
    states = states - states.mean(dim=0)
    components = torch.linalg.svd(states, full_matrices=False).Vh[:width]
    vectors = states @ components.T
    scaled: Tensor = vectors * (SPREAD / vectors.std())
    return scaled


def distil(
    encoder: PreTrainedModel,
    tokenizer: Tokenizer,
    train: Sequence[Row],
    labels: Sequence[str],
    signal: Signal | None,
    schedule: Schedule,
    *,
    vocabulary: int,
    max_tokens: int,
    work: Path,
    shape: StaticShape | None = None,
    temperature: tuple[float, float] = (2.0, 2.0),
    kd_weight: float = 0.9,
    panel: Panel | None = None,
    divergence: Divergence = forward_kl,
    validation: Sequence[Row] = (),
    progress: Progress = silent,
) -> tuple[StaticStudent, Tokenizer, Curve]:
    """Makes a static student from an encoder and trains it.

    Args:
        encoder: what the piece vectors come from, see `piece_vectors`.
        tokenizer: the encoder's own.
        signal: the teacher's answers to the training rows; None makes the control arm.
        vocabulary: number of pieces to keep: those of the training rows, then the encoder's most common ones.
        max_tokens: of each text.
        work: where checkpoints go.
        temperature: of the KL to the teacher, at the first step and at the last.
        kd_weight: share of that KL; the cross-entropy on the labels has the rest.
        panel: where there are several teachers, what all of them said to the training rows.
        divergence: of the student's distribution from a teacher's.
        validation: rows whose accuracy the schedule's patience looks at.

    Returns:
        The student, its tokenizer and the curve of its training.
    """
    texts = [row.content for row in train]
    trimmed = trim(tokenizer, [text for row in train for text in row.texts], size=vocabulary)
    if shape is None:
        width = min(WIDTH, int(encoder.config.hidden_size))
        shape = StaticShape(width=width, labels=len(labels), pairs=not isinstance(texts[0], str))
    torch.manual_seed(schedule.seed)
    student = StaticStudent(piece_vectors(encoder, tokenizer, trimmed.kept, shape.width), shape)
    examples = StaticExamples(
        ids=encode_apart(trimmed.tokenizer, texts, max_tokens), classes=[labels.index(row.label) for row in train]
    )
    trained: Any = student  # the trainer asks nothing of a model that only transformers' own would have
    lesson = StaticLesson(
        examples, signal, temperature=temperature, kd_weight=kd_weight, panel=panel, divergence=divergence
    )
    held_out = StaticExamples(
        ids=encode_apart(trimmed.tokenizer, [row.content for row in validation], max_tokens),
        classes=[labels.index(row.label) for row in validation],
    )
    score = None if schedule.patience is None or not validation else partial(accuracy, held_out)
    curve = fit(trained, lesson, schedule, work=work, score=score, progress=progress)
    return student, trimmed.tokenizer, curve


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticExamples:
    """Rows in the student's pieces, each text of a pair on its own, and their classes. Lists run over rows."""

    ids: Sequence[Sequence[Sequence[int]]]
    classes: Sequence[int]


@torch.inference_mode()
def accuracy(examples: StaticExamples, student: Any) -> float:
    """Share of the rows whose class the student finds."""
    ids, mask = padded(examples.ids, texts=len(examples.ids[0]))
    device = student.head.weight.device
    said = student(ids.to(device), mask.to(device)).argmax(dim=1).cpu()
    return float((said == torch.tensor(examples.classes)).float().mean())


def encode_apart(tokenizer: Tokenizer, texts: Sequence[Text], max_tokens: int) -> list[list[list[int]]]:
    """Ids of each row's text or of both its texts, each with special tokens and cut to max_tokens."""
    parts = [(text,) if isinstance(text, str) else text for text in texts]
    ids = iter(encode(tokenizer, [part for row in parts for part in row], max_tokens))
    return [[next(ids) for _ in row] for row in parts]


class StaticLesson:
    """What a static student learns from: the classes, and the teacher's answers to the same rows in the same order.

    Args:
        signal: None learns from the labels alone.
        temperature: of both distributions in the KL term, at the first step and at the last.
        kd_weight: share of the KL term; the cross-entropy on the labels has the rest.
        panel: where there are several teachers, what all of them said to these rows.
        divergence: of the student's distribution from a teacher's.
    """

    projection: nn.Module | None = None

    def __init__(
        self,
        examples: StaticExamples,
        signal: Signal | None = None,
        *,
        temperature: tuple[float, float] = (2.0, 2.0),
        kd_weight: float = 0.9,
        panel: Panel | None = None,
        divergence: Divergence = forward_kl,
    ) -> None:
        self._ids = examples.ids
        self._classes = torch.tensor(examples.classes)
        self._panel = None if signal is None else panel or alone(signal.logits)
        self._temperature = temperature
        self._divergence = divergence
        self.lengths: Sequence[int] = [max(len(text) for text in row) for row in examples.ids]
        self.weights: Mapping[str, float] = {"ce": 1.0} if signal is None else {"ce": 1 - kd_weight, "kd": kd_weight}

    def items(self, rows: Sequence[int]) -> int:
        """Number of rows."""
        return len(rows)

    def batch(self, rows: Sequence[int]) -> Mapping[str, Tensor]:
        """The rows' pieces, padded to the longest text."""
        ids, mask = padded([self._ids[row] for row in rows], texts=len(self._ids[0]))
        return {"rows": torch.tensor(rows, dtype=torch.long), "ids": ids, "mask": mask}

    def terms(self, model: nn.Module, batch: Mapping[str, Tensor], done: float) -> Mapping[str, Tensor]:
        """Cross-entropy and KL to the teacher's answers, each summed over rows."""
        logits, rows = model(batch["ids"], batch["mask"]), batch["rows"].cpu()
        terms = {"ce": cross_entropy(logits, self._classes[rows].to(logits.device)).sum()}
        if self._panel is not None:
            first, last = self._temperature
            temperature = first + (last - first) * done
            apart = self._panel.divergence(
                lambda said: self._divergence(logits, said, temperature), rows, logits.device
            )
            terms["kd"] = apart.sum()
        return terms


def padded(ids: Sequence[Sequence[Sequence[int]]], *, texts: int) -> tuple[Tensor, Tensor]:
    """Ids and mask of some rows with so many texts each, both [rows, texts, longest text]."""
    longest = max([1, *(len(text) for row in ids for text in row)])
    pieces = torch.zeros((len(ids), texts, longest), dtype=torch.long)
    mask = torch.zeros_like(pieces, dtype=torch.bool)
    for i, row in enumerate(ids):
        for j, text in enumerate(row):
            pieces[i, j, : len(text)] = torch.tensor(text)
            mask[i, j, : len(text)] = True
    return pieces, mask


def write_manifest(folder: Path, labels: Sequence[str], max_tokens: int) -> None:
    """Writes what the engine has to know beside the tables."""
    model = {"file": MODEL, "labels": list(labels), "max_tokens": max_tokens}
    (folder / "manifest.json").write_bytes(canonical({"engine": {"name": "static"}, "model": model}))


def parameters(pieces: int, shape: StaticShape) -> int:
    """Number of weights in the file of `save`."""
    tables = (pieces + 1) * WINDOW * (shape.features + 1) + shape.features
    return tables + shape.labels * ((8 if shape.pairs else 2) * shape.features + 2)


@torch.inference_mode()
def save(student: StaticStudent, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes what the device needs: the tables in 8 bits, the head, and the tokenizer.

    `model.safetensors` holds
        tables       int8     [pieces + 1, 3, features]; the last row is zeros: it stands between two texts
        table_scales float32  [pieces + 1, 3]; value = scale × int8
        bias         float32  [features]
        head         int8     [labels, 2 × features, or 8 × features for pairs]
        head_scales  float32  [labels]
        head_bias    float32  [labels]
    """
    tables = functional.pad(student.tables(torch.arange(student.pieces.num_embeddings)), (0, 0, 0, 0, 0, 1))
    values, scales = in_8_bits(tables)
    head, head_scales = in_8_bits(student.head.weight)
    weights = {"tables": values, "table_scales": scales, "bias": student.bias}
    weights |= {"head": head, "head_scales": head_scales, "head_bias": student.head.bias}
    save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, folder / MODEL)
    tokenizer.save(str(folder / TOKENIZER), pretty=False)


def in_8_bits(values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows along the last axis as int8 in −127 … 127 with one scale each; a row of zeros has the scale 0."""
    scales = values.abs().amax(dim=-1) / 127
    steps = torch.where(scales[..., None] > 0, values / scales[..., None], 0)
    return steps.round().to(torch.int8), scales
