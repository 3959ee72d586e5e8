"""How fast a model writes: what a prompt takes to be read, and how the tokens come after it.

What is timed, of a prompt of N tokens that the engine holds nothing of:

    prefill    N tokens read in one go, until their last logits are there; no token is chosen
    first      the same, and the choice of the first token: what a user waits for, without the splitting of text
    decode     each further token: one step of the engine and the choice of its likeliest token
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise
from typing import Any, Protocol

from . import energy
from .conditions import LEAST_S, Part
from .measure import LIMIT_S, WINDOW, narrow, process_age_s, warm_up

ANCHOR_TOKENS = 16
"""Of the prompt that is answered before and after, at most; its answer is as long as a window."""


class Writer(Protocol):
    """A model that writes, as its engine has it."""

    def prompt(self, said: Any) -> list[int]:
        """The tokens of what is asked."""

    def holds(self, prompt_tokens: int, new_tokens: int) -> bool:
        """Whether a prompt and its answer fit into the context."""

    def work(self, prompt: Sequence[int], new_tokens: int) -> Iterator[int]:
        """Reads a prompt from nothing before it returns; writes so many tokens, whatever would end the answer."""


@dataclass(slots=True)
class Prompts:
    """What was measured with prompts of one length."""

    prompt_tokens: int
    first_token_ms: list[float] = field(default_factory=list)
    prefill_tokens_s: list[float] = field(default_factory=list)
    decode_tokens_s: list[float] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)

    def time(self, model: Writer, prompt: Sequence[int], new_tokens: int) -> None:
        """Writes one answer and keeps its times."""
        started = time.perf_counter()
        tokens = model.work(prompt, new_tokens)
        read = time.perf_counter()
        times = [time.perf_counter() for _ in tokens]
        self.first_token_ms.append((times[0] - started) * 1e3)
        self.prefill_tokens_s.append(len(prompt) / (read - started))
        self.decode_tokens_s.append((len(times) - 1) / (times[-1] - times[0]))
        self.token_ms += gaps_ms(times)

    def narrow(self, within: float) -> bool:
        """Whether the medians are known well enough."""
        return narrow(self.first_token_ms, within) and narrow(self.decode_tokens_s, within)


def writing(
    load: Callable[[], Writer],
    said: Sequence[Any],
    *,
    prompt_tokens: Sequence[int] = (),
    new_tokens: int = 32,
    within: float | None = None,
    limit_s: float = LIMIT_S,
) -> dict[str, Any]:
    """Times loading and the answers of a model that writes, after answers that warm it up.

    Args:
        load: makes the model ready.
        said: conversations, or texts.
        prompt_tokens: lengths of the prompts, made of the tokens of what is said, cut or repeated. Empty: prompts are
            as long as they are.
        new_tokens: of each answer, whatever would end it: at least 2.
        within: rounds over all lengths, or all that is said, go on until the 95 % intervals of the medians of the first
            token's time and of decoding are this narrow, as a share of the median to either side. None: once.
        limit_s: ends the rounds as well.

    Returns:
        load_ms, cold_start_ms (from the start of the process to the first token; None where the system does not tell),
        warm_up_tokens, steady, prompts: for each length prompt_tokens (the median one where prompts are as long as they
        are), first_token_ms, prefill_tokens_s and decode_tokens_s, one an answer, and token_ms, every time between two
        tokens; skipped: lengths that leave no room, with the reason; anchors_ms (of the tokens of an answer, before and
        after), ended_by ("once", "interval" or "time"), and what `Part` tells of all answers.
    """
    started = time.perf_counter()
    model = load()
    loaded = time.perf_counter()
    asked = [model.prompt(turns) for turns in said]
    anchor = asked[0][:ANCHOR_TOKENS]
    next(model.work(anchor, 1))
    cold = process_age_s()
    tokens, steady, before = warm_up(partial(_anchors, model, anchor), limit_s)
    lengths = [length for length in prompt_tokens if model.holds(length, new_tokens)]
    groups = [Prompts(length) for length in lengths]
    if not prompt_tokens:
        groups = [Prompts(round(statistics.median(map(len, asked))))]
    with Part(energy.find()) as part:
        ended_by = _rounds(model, groups, asked, bool(prompt_tokens), new_tokens, within, limit_s) if groups else "once"
    after = _anchors(model, anchor)
    if within is not None:
        part.again(
            lambda: list(model.work(cut(asked, groups[0].prompt_tokens, 0) if lengths else asked[0], new_tokens))
        )
    reason = f"with {new_tokens} new tokens it does not fit into the context"
    return {
        "load_ms": (loaded - started) * 1e3,
        "cold_start_ms": None if cold is None else cold * 1e3,
        "warm_up_tokens": tokens,
        "steady": steady,
        "prompts": [
            {
                "prompt_tokens": group.prompt_tokens,
                "first_token_ms": group.first_token_ms,
                "prefill_tokens_s": group.prefill_tokens_s,
                "decode_tokens_s": group.decode_tokens_s,
                "token_ms": group.token_ms,
            }
            for group in groups
        ],
        "skipped": [{"prompt_tokens": n, "reason": reason} for n in prompt_tokens if n not in lengths],
        "anchors_ms": [before, after],
        "ended_by": ended_by,
        **part.told,
    }


def _rounds(
    model: Writer,
    groups: Sequence[Prompts],
    asked: Sequence[Sequence[int]],
    exact: bool,
    new_tokens: int,
    within: float | None,
    limit_s: float,
) -> str:
    """Lengths take turns, so that a drift of the clock is shared by all; returns what ended it."""
    started = time.perf_counter()
    for number in count(1):
        for group in groups:
            prompts = [cut(asked, group.prompt_tokens, number - 1)] if exact else asked
            for prompt in prompts:
                group.time(model, prompt, new_tokens)
                if within is not None and time.perf_counter() - started >= limit_s and all(g.token_ms for g in groups):
                    return "time"
        if within is None and (not exact or number == len(asked)):
            break
        # A small model is done before it can be told what other programs did meanwhile.
        told = time.perf_counter() - started >= LEAST_S
        if within is not None and told and all(group.narrow(within) for group in groups):
            return "interval"
    return "once"


def cut(asked: Sequence[Sequence[int]], length: int, number: int) -> list[int]:
    """The prompt of a round: exactly so many tokens of what is asked, from another place in each round."""
    whole = [token for prompt in asked for token in prompt]
    start = number * length % len(whole)
    return [whole[(start + place) % len(whole)] for place in range(length)]


def gaps_ms(times: Sequence[float]) -> list[float]:
    """Milliseconds between one time and the next."""
    return [(later - earlier) * 1e3 for earlier, later in pairwise(times)]


def _anchors(model: Writer, prompt: Sequence[int]) -> list[float]:
    return gaps_ms([time.perf_counter() for _ in model.work(prompt, WINDOW + 1)])
