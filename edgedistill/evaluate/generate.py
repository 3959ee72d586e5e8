"""Greedy answers of a local decoder to many prompts at once; each row gets the answer that it would get alone.

prompts, by length ─► batches by tokens ─► read a few at a time ─► one token a step for all rows of the batch
                                                                      └─ rows that have ended leave it

With LongRoPE a text that grows beyond the original context is read again, as `generate` of transformers does it for a
text alone: the prompts up to that border come first, and those that reach it go on among the longer ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import DynamicCache, DynamicLayer

from edgedistill.distill import longrope
from edgedistill.distill.batches import ByTokens
from edgedistill.distill.examples import Example
from edgedistill.errors import InputError
from edgedistill.types import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 8192
LEAVE = 0.25
"""Share of a batch that must have ended before it is cut down: that copies what the others have in the cache."""
PROMPT_TOKENS = 512
"""Tokens of prompts that are read at once on a CPU, where reading more at once is slower a token."""
PROMPT_TOKENS_ON_GPU = 16384
GROWTH = 64
"""Positions by which the cache grows when it is full."""


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> list[str]:
    """What the model answers to the prompts of rows; see `generate`.

    An answer ends where those of the rows end, or with any token that the checkpoint says ends a text.
    """
    ends = {example.ids[-1] for example in examples} | ends_of(model, tokenizer)
    prompts = [example.ids[: example.answer_start] for example in examples]
    written = generate(
        model, prompts, ends=ends, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens, progress=progress
    )
    untyped: Any = tokenizer
    return [str(untyped.decode(ids, skip_special_tokens=True)).strip() for ids in written]


def ends_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end an answer, by the checkpoint's generation settings and by its tokenizer."""
    settings: Any = model.generation_config
    named = None if settings is None else settings.eos_token_id
    untyped: Any = tokenizer
    found = [*(named if isinstance(named, list) else [named]), untyped.eos_token_id]
    return {token for token in found if token is not None}


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    ends: Collection[int],
    max_new_tokens: int,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> list[list[int]]:
    """The likeliest next token, again and again, for each prompt.

    Args:
        prompts: token ids, at least one a prompt; the answers come in the same order.
        ends: tokens that end an answer; they are not part of it.
        max_new_tokens: longest answer. One that reaches the model's last position ends there.
        batch_tokens: rows of a batch times prompt and longest answer, at most; the memory of the cache follows from it.
        progress: called with the number of answers that are complete.

    Raises:
        InputError: a prompt is empty, or leaves no position for an answer.
    """
    config: Any = model.config
    limit = getattr(config, "max_position_embeddings", None) or max(map(len, prompts), default=0) + max_new_tokens
    rooms = [min(max_new_tokens, limit - len(prompt)) for prompt in prompts]
    if wrong := [row for row, prompt in enumerate(prompts) if not prompt or rooms[row] < 1]:
        raise InputError(
            f"prompt {wrong[0]} has {len(prompts[wrong[0]])} tokens, which leaves no room for an answer in {limit}",
            hint="cut the prompts to fewer tokens",
        )
    if not prompts:
        return []
    texts = [list(prompt) for prompt in prompts]
    left = dict(enumerate(rooms))
    border = longrope.border(model)
    for longest in (limit,) if border is None or border >= limit else (border, limit):
        # The longest text that is read here gets one token more.
        most = {row: min(left[row], longest + 1 - len(texts[row])) for row in left if len(texts[row]) <= longest}
        if not most:
            continue
        numbers = list(most)
        batches = ByTokens([len(texts[row]) + most[row] for row in numbers], batch_tokens)
        # Longest first: if memory is short, it is short at once.
        for places in reversed([batches[step] for step in range(len(batches))]):
            rows = [numbers[place] for place in places]
            batch = _Batch(model, [texts[row] for row in rows])
            for place, token in batch.tokens([most[row] for row in rows], frozenset(ends)):
                row = rows[place]
                if token is not None:
                    texts[row].append(token)
                    left[row] -= 1
                elif not left[row] or len(texts[row]) <= longest:
                    del left[row]
                    progress(len(prompts) - len(left), len(prompts))
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


class _Batch:
    """Prompts on their way through the model together."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        self._model: Any = model
        most = PROMPT_TOKENS if model.device.type == "cpu" else PROMPT_TOKENS_ON_GPU
        groups = [sorted(rows) for rows in ByTokens([len(prompt) for prompt in prompts], most)]
        read = [self._read([prompts[row] for row in rows]) for rows in groups]
        self.rows = [row for rows in groups for row in rows]
        """The row of each line of the tensors."""
        self.following = torch.cat([following for following, _, _ in read])
        """The next token of each line."""
        longest = max(map(len, prompts))
        self._mask = torch.cat([functional.pad(mask, (longest - mask.shape[1], 0)) for _, mask, _ in read])
        self._places = self._mask.sum(dim=1, keepdim=True)
        self._cache = _cache(model)
        layers: Any = self._cache.layers
        for number, layer in enumerate(layers):
            layer.gather([cache.layers[number] for _, _, cache in read])

    def _read(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, DynamicCache]:
        """The next token of some prompts, their mask, and what the model keeps of them."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        cache = _cache(self._model)
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return self._run(ids, mask, places, cache), mask, cache

    def _run(self, ids: Tensor, mask: Tensor, places: Tensor, cache: DynamicCache) -> Tensor:
        """The likeliest next token of each line; its logits alone are worked out."""
        out = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        following: Tensor = out.logits[:, -1].argmax(dim=-1)
        return following

    def tokens(self, rooms: Sequence[int], ends: frozenset[int]) -> Iterator[tuple[int, int | None]]:
        """Yields each row with its next token, and with None once when it has ended.

        Args:
            rooms: most tokens of each row.
        """
        left = list(rooms)
        open_rows = set(self.rows)
        # A row that has ended is read on until it leaves; its place must not change how the others are read.
        last = int((self._places[:, 0].cpu() + torch.tensor([rooms[row] for row in self.rows])).max()) - 2
        while True:
            for row, token in zip(self.rows, self.following.tolist(), strict=True):
                if row not in open_rows:
                    continue
                left[row] -= 1
                if token not in ends:
                    yield row, token
                if token in ends or not left[row]:
                    open_rows.remove(row)
                    yield row, None
            if not open_rows:
                return
            if len(open_rows) <= (1 - LEAVE) * len(self.rows):
                self._leave(open_rows)
            self._mask = functional.pad(self._mask, (0, 1), value=1)
            places = self._places.clamp(max=last)
            self.following = self._run(self.following[:, None], self._mask, places, self._cache)
            self._places = self._places + 1

    def _leave(self, open_rows: Collection[int]) -> None:
        """Takes the rows that have ended out of the batch."""
        lines = [line for line, row in enumerate(self.rows) if row in open_rows]
        self.rows = [self.rows[line] for line in lines]
        stay = torch.tensor(lines, device=self._mask.device)
        self._cache.batch_select_indices(stay)
        self.following, self._mask, self._places = self.following[stay], self._mask[stay], self._places[stay]


def _cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache. Layers with a sliding window keep all positions, and their mask hides the old ones."""
    cache = DynamicCache(config=model.config)
    layer: Any = _Growing
    cache.layers = [layer() for _ in cache.layers]
    return cache


class _Growing(DynamicLayer):  # type: ignore[no-untyped-call]
    """A cache layer with spare positions at its end: a step writes one, where DynamicLayer copies all of them."""

    keys: Tensor
    values: Tensor
    _stores: tuple[Tensor, Tensor]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends keys and values and returns all of them. Shapes: [rows, heads, positions, width]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._stores = (key_states, value_states)
            self.keys, self.values = self._stores
            return self._stores
        before, after = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if after > self._stores[0].shape[-2]:
            grown = [functional.pad(old, (0, 0, 0, after - before + GROWTH)) for old in (self.keys, self.values)]
            self._stores = (grown[0], grown[1])
        self._stores[0][..., before:after, :] = key_states
        self._stores[1][..., before:after, :] = value_states
        self.keys, self.values = (store[..., :after, :] for store in self._stores)
        return self.keys, self.values

    def gather(self, parts: Sequence[_Growing]) -> None:
        """Takes over the rows of other layers, with their last positions below each other."""
        longest = max(part.keys.shape[-2] for part in parts)
        stores = [
            torch.cat([functional.pad(t, (0, 0, longest - t.shape[-2], GROWTH)) for t in tensors])
            for tensors in ([part.keys for part in parts], [part.values for part in parts])
        ]
        self.lazy_initialization(stores[0], stores[1])
        self._stores = (stores[0], stores[1])
        self.keys, self.values = (store[..., :longest, :] for store in stores)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps some of the rows."""
        length = self.keys.shape[-2]
        self._stores = (self._stores[0][indices], self._stores[1][indices])
        self.keys, self.values = (store[..., :length, :] for store in self._stores)
