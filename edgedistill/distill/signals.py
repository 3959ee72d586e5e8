"""A generative teacher's log-probabilities at every answer token, asked once and kept sparse on disk.

    examples ─► shards of 256 rows, each written whole or not at all ─► manifest with the fingerprints
                                                                            │
    rows of a batch, by key, in any order ─► ids and log-probabilities ◄─ read, which refuses what does not match

"top-k" keeps the k likeliest tokens. Learning from them alone is biased, because the rest is missing; the rest's mass
is what they leave of 1. "sampled" keeps k draws from the whole distribution: count / k is each token's probability in
expectation, and nothing is missing (Anshumann et al., 2025, "Sparse Logit Sampling", arXiv 2503.16870, section 3).

Entries that a trimmed student lacks are taken out and the others divided by what those leave of 1, as `onpolicy` and
the evaluation do: their mass must not count as the rest's, or it would be spread over pieces that are unlikely.

Log-probabilities are float16: they are off by 2⁻¹¹ of their size at most, a probability by 2·10⁻⁴.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from edgedistill.distill.examples import Example
from edgedistill.distill.sparse import Sparsity, ask, probe
from edgedistill.errors import IntegrityError
from edgedistill.store import canonical, digest, write_atomically
from edgedistill.types import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MANIFEST = "manifest.json"
SHARD_ROWS = 256
ABSENT = -1e4
"""Log-probability of an entry that is not there: its exp is 0, and 0 times it is 0, where 0 times −inf is not."""
LEAST = 2e-3
"""Mass that a trimmed student's pieces need to be learned: ten times what rounding can change a probability."""
WIDE = 2**16
"""Ids from here on need a third byte."""
AGAIN = "build with --fresh to ask the teacher again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Who was asked. Signals of one source are never read for another.

    Attributes:
        teacher: sha256 of the teacher's weights.
        tokenizer: sha256 of all that turns a text into its ids.
        template: sha256 of its chat template.
        pieces: ids that the tokenizer can write are below this. A model may have more: padding that never occurs.
    """

    teacher: str
    tokenizer: str
    template: str
    pieces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse:
    """What the teacher said at the answer tokens of a batch, in the student's ids.

    Attributes:
        ids: [items, k].
        logprobs: [items, k] float32; ABSENT where there is no entry, and the id is 0 there. What exp leaves of 1 is the
            mass of all other tokens. Some of the teacher's tail may be pieces that a trimmed student lacks; how much is
            not known, and all of it is counted.
        usable: [items]; False where the student writes the row in other tokens than the teacher, and has labels only.
            A usable item has no entries, so no divergence, where the student lacks all of them or all but LEAST.
    """

    ids: Tensor
    logprobs: Tensor
    usable: Tensor

    @property
    def present(self) -> Tensor:
        """[items, k]: which entries are there."""
        return self.logprobs > ABSENT


def source_of(tokenizer: PreTrainedTokenizerBase, teacher: str) -> Source:
    """The source that a teacher with this hash of its weights and this tokenizer is."""
    untyped: Any = tokenizer
    plain = type(untyped.backend_tokenizer).from_str(untyped.backend_tokenizer.to_str())
    plain.no_padding()  # which loading and calling a tokenizer sets, and which changes no id of a text
    plain.no_truncation()
    return Source(
        teacher=teacher,
        tokenizer=hashlib.sha256(plain.to_str().encode()).hexdigest(),
        template=digest(untyped.chat_template),
        pieces=max(plain.get_vocab(with_added_tokens=True).values()) + 1,
    )


def capture(
    model: PreTrainedModel,
    examples: Sequence[Example],
    source: Source,
    sparsity: Sparsity,
    *,
    folder: Path,
    work: Path,
    batch_tokens: int = 2048,
    progress: Progress = silent,
) -> None:
    """Asks a teacher for its log-probabilities at the answer tokens of every example.

    Args:
        model: a decoder in evaluation mode.
        examples: in the teacher's tokens; those with the same key are asked once.
        folder: empty; the finished cache.
        work: outlives a kill; a second call with the same arguments goes on after the last shard in it.
        batch_tokens: rows times longest row of what the teacher reads at a time.

    Raises:
        InputError: the model computes its logits in a way that is not known, or has fewer pieces than its tokenizer.
        StageError: the teacher's answer is not a number.
    """
    rows = list({example.key: example for example in examples}.values())
    shards = [rows[start : start + SHARD_ROWS] for start in range(0, len(rows), SHARD_ROWS)]
    asked = {**asdict(source), **asdict(sparsity)}
    probed = False
    for number, shard in enumerate(shards):
        plan = digest({**asked, "shard": number, "rows": [[row.key, row.fingerprint.hex()] for row in shard]})
        path = work / _name(number)
        if not _holds(path, plan):
            if not probed:
                probe(model, shard[0], source.pieces)
                probed = True
            seed = int(digest([sparsity.seed, number])[:15], 16)
            answers = ask(model, shard, source.pieces, sparsity, seed=seed, batch_tokens=batch_tokens)
            # One entry of metadata only: safetensors writes several in an order of chance.
            content = save(_tensors(shard, answers, sparsity, source.pieces), metadata={"plan": plan})
            write_atomically(path, content)
        progress(min((number + 1) * SHARD_ROWS, len(rows)), len(rows))
    for number in range(len(shards)):
        shutil.copyfile(work / _name(number), folder / _name(number))
    tokens = sum(len(row.answer) for row in rows)
    write_atomically(
        folder / MANIFEST, canonical({**asked, "shards": len(shards), "rows": len(rows), "tokens": tokens})
    )


def read(
    folder: Path,
    source: Source,
    examples: Sequence[Example],
    *,
    vocabulary: int,
    kept: Sequence[int] | None = None,
) -> Signals:
    """Opens a cache for a student's examples, after making sure that it belongs to them.

    Args:
        source: who must have been asked.
        examples: in the student's tokens; their order does not matter.
        vocabulary: number of the student's logits; padding beyond the tokenizer's pieces does not matter.
        kept: the teacher's ids of a trimmed student's pieces, over which it gets the teacher's distribution. Its tokens
            of an answer, mapped back, must be those that the teacher was asked for; rows where they are not become
            unusable and are counted.

    Raises:
        IntegrityError: other teacher, tokenizer, template or rows, other tokens of a row, or a damaged file.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        known = dict(_rows(folder, int(manifest["shards"])))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise IntegrityError(f"{folder} holds no readable signals: {error}", hint=AGAIN) from error
    if wrong := [name for name, value in asdict(source).items() if manifest.get(name) != value]:
        raise IntegrityError(f"{folder} holds the answers of another {' and '.join(wrong)}", hint=AGAIN)
    if vocabulary < (pieces := source.pieces if kept is None else len(kept)):
        raise IntegrityError(
            f"the student has {vocabulary} logits, fewer than its tokenizer's {pieces} pieces",
            hint="give the student the vocabulary of its tokenizer",
        )
    if missing := sum(example.key not in known for example in examples):
        raise IntegrityError(
            f"{folder} lacks {missing} of the {len(examples)} rows: it was made for other ones", hint=AGAIN
        )
    places, lengths, unusable = {}, {}, set()
    for example in examples:
        place, fingerprint, answer = known[example.key]
        if kept is None and fingerprint != example.fingerprint:
            raise IntegrityError(f"{folder} holds the row {example.key[:12]} in other tokens", hint=AGAIN)
        if kept is not None and (
            max(example.answer) >= len(kept) or [kept[number] for number in example.answer] != answer.tolist()
        ):
            unusable.add(example.key)
        places[example.key], lengths[example.key] = place, len(example.answer)
    draws = int(manifest["k"]) if manifest["mode"] == "sampled" else None
    return Signals(folder, places, lengths, frozenset(unusable), draws, _renumbering(source.pieces, kept))


def expected_bytes(examples: Sequence[Example], pieces: int, sparsity: Sparsity) -> int:
    """How large a cache of these examples will be; of draws, at most."""
    entry = 4 if pieces <= WIDE else 5
    tokens = sum(len(example.answer) for example in examples)
    return tokens * (8 + entry * min(sparsity.k, pieces)) + len(examples) * (2 * hashlib.sha256().digest_size + 4)


class Signals:
    """An open cache; made by `read`. Only what a batch needs is read from disk.

    Attributes:
        unusable: keys of the rows that the student writes in other tokens than the teacher.
    """

    def __init__(
        self,
        folder: Path,
        places: Mapping[str, _Place],
        lengths: Mapping[str, int],
        unusable: frozenset[str],
        draws: int | None,
        renumbering: Tensor | None,
    ) -> None:
        self.unusable = unusable
        self._folder = folder
        self._places = places
        self._lengths = lengths
        self._draws = draws
        self._renumbering = renumbering
        self._files: dict[int, Any] = {}

    def lookup(self, keys: Sequence[str]) -> Sparse:
        """What the teacher said to these rows: row by row, the answer's tokens in order, as `examples.targets` does."""
        sizes = [torch.zeros(0, dtype=torch.int32)]
        usable = [torch.zeros(0, dtype=torch.bool)]
        ids, logprobs = [], []
        for key in keys:
            length = self._lengths[key]
            usable.append(torch.full((length,), key not in self.unusable))
            if key in self.unusable:
                sizes.append(torch.zeros(length, dtype=torch.int32))
                continue
            place = self._places[key]
            sizes.append(torch.from_numpy(place.sizes))
            found = self._entries(place)
            ids.append(found[0])
            logprobs.append(found[1])
        widths = torch.cat(sizes)
        widest = int(widths.max()) if len(widths) else 0
        there = torch.arange(max(widest, 1)) < widths[:, None]
        sparse = Sparse(
            ids=torch.zeros(there.shape, dtype=torch.long),
            logprobs=torch.full(there.shape, ABSENT),
            usable=torch.cat(usable),
        )
        if ids:
            sparse.ids[there] = torch.cat(ids)
            sparse.logprobs[there] = torch.cat(logprobs)
        _take_out_lacking(sparse)
        # Rounding can lift a sum of nearly 1 above it, and the rest's mass must not be below 0.
        sparse.logprobs.sub_(sparse.logprobs.logsumexp(dim=1, keepdim=True).clamp(min=0) * sparse.present)
        return sparse

    def _entries(self, place: _Place) -> tuple[Tensor, Tensor]:
        """Ids and log-probabilities of one row, [entries]; the id is −1 where the student lacks the piece."""
        if place.shard not in self._files:
            self._files[place.shard] = safe_open(self._folder / _name(place.shard), "numpy")
        file = self._files[place.shard]
        found = {
            name: file.get_slice(name)[place.start : place.stop]
            for name in ("low", "high", "values")
            if name in file.keys()  # noqa: SIM118
        }
        numbers = found["low"].astype(np.int64)
        if "high" in found:
            numbers |= found["high"].astype(np.int64) << 16
        ids = torch.from_numpy(numbers)
        values = torch.from_numpy(found["values"].astype(np.float32))
        logprobs = (values if self._draws is None else (values / self._draws).log()).clamp(min=ABSENT)
        return ids if self._renumbering is None else self._renumbering[ids], logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the entries of a row lie: from start to stop in a shard, `sizes` of them at each answer token."""

    shard: int
    start: int
    stop: int
    sizes: NDArray[np.int32]


def _name(shard: int) -> str:
    return f"{shard:06d}.safetensors"


def _holds(path: Path, plan: str) -> bool:
    """Whether a shard was written for this plan. It was written whole: the opening compares its sizes with the file."""
    try:
        with safe_open(path, "numpy") as file:
            return bool(file.metadata()["plan"] == plan)
    except (OSError, KeyError, TypeError, SafetensorError):
        return False


def _rows(folder: Path, shards: int) -> Iterator[tuple[str, tuple[_Place, bytes, NDArray[np.int32]]]]:
    """Every row of a cache by its key: where its entries lie, its fingerprint, and the tokens of its answer."""
    for shard in range(shards):
        with safe_open(folder / _name(shard), "numpy") as file:
            keys, fingerprints, lengths, tokens, sizes = (
                file.get_tensor(name) for name in ("keys", "fingerprints", "lengths", "tokens", "sizes")
            )
        ends = lengths.cumsum()
        entries = np.concatenate(([0], sizes.cumsum(dtype=np.int64)))
        for row, (start, stop) in enumerate(zip(ends - lengths, ends, strict=True)):
            place = _Place(shard=shard, start=int(entries[start]), stop=int(entries[stop]), sizes=sizes[start:stop])
            yield keys[row].tobytes().hex(), (place, fingerprints[row].tobytes(), tokens[start:stop])


def _renumbering(pieces: int, kept: Sequence[int] | None) -> Tensor | None:
    """The student's id of each of the teacher's, [pieces]; −1 for those that it does not have."""
    if kept is None:
        return None
    new = torch.full((max(pieces, *(number + 1 for number in kept)),), -1)
    new[torch.tensor(kept)] = torch.arange(len(kept))
    return new


def _take_out_lacking(sparse: Sparse) -> None:
    """Conditions each item on pieces that the student has: p / (1 − mass of the entries with id −1), in place.

    Of n draws those that stay are draws from the conditional distribution, so their weights' expectation is still it.
    """
    lacking = sparse.ids < 0
    left = 1 - (sparse.logprobs.exp() * lacking).sum(dim=1, keepdim=True)
    gone = lacking | (left < LEAST)
    sparse.logprobs.sub_(left.clamp(min=LEAST).log() * sparse.present).masked_fill_(gone, ABSENT)
    sparse.ids.masked_fill_(gone, 0)


def _tensors(
    rows: Sequence[Example], asked: tuple[Tensor, Tensor, Tensor], sparsity: Sparsity, pieces: int
) -> dict[str, NDArray[Any]]:
    """What a shard holds: of each row its key, fingerprint and length, of each token its entries."""
    sizes, ids, values = asked
    tensors: dict[str, NDArray[Any]] = {
        "keys": np.frombuffer(b"".join(bytes.fromhex(row.key) for row in rows), np.uint8).reshape(len(rows), -1),
        "fingerprints": np.frombuffer(b"".join(row.fingerprint for row in rows), np.uint8).reshape(len(rows), -1),
        "lengths": np.array([len(row.answer) for row in rows], np.int32),
        "tokens": np.array([token for row in rows for token in row.answer], np.int32),
        "sizes": sizes.numpy().astype(np.int32),
        "low": (ids % WIDE).numpy().astype(np.uint16),
        "values": values.numpy().astype(np.float16 if sparsity.mode == "top-k" else np.uint16),
    }
    if pieces > WIDE:
        tensors["high"] = (ids // WIDE).numpy().astype(np.uint8)
    return tensors
