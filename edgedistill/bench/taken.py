"""From raw samples to figures: the medians, intervals and shares that a benchmark reports."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgedistill.evaluate.stats import quantile_interval
from edgedistill.types import Kind, Measurement, NotMeasured

Samples = Mapping[str, Any]
Figure = Measurement | NotMeasured
Rounds = Sequence[Sequence[float]]

NO_START = "this system does not say when a process starts"
NO_SAMPLES = "the device gave no sample of it"
NO_MEMORY = "only Linux tells a process's memory by kind"
NO_ENERGY = "this device does not tell its energy"
PROMPT_FIGURES = (
    ("first_token", "first_token_ms", "ms"),
    ("prefill", "prefill_tokens_s", "tokens/s"),
    ("decode", "decode_tokens_s", "tokens/s"),
    ("inter_token", "token_ms", "ms"),
)
"""Of a model that writes, for each length of prompt: name, key of the samples, unit."""
REPEATED = ("first_token", "decode")
MEMORY_FIGURES = (
    ("memory_model", "model", "rss"),
    ("memory_model_anonymous", "model", "anonymous"),
    ("memory_model_file", "model", "file"),
    ("memory_model_swap", "model", "swap"),
    ("memory_process", "process", "rss"),
    ("memory_peak", "process", "peak"),
)
TIME_FIGURES = ("latency", "throughput", "cold_start", "load", "first_answer")


def times(rounds: Sequence[Samples], kind: Kind, *, stable: bool) -> Iterator[Figure]:
    """What the timed processes of a model that answers found."""
    yield pooled("latency", "ms", [samples["latency_ms"] for samples in rounds], kind, stable=stable)
    yield pooled("throughput", "rows/s", [samples["throughput_rows_s"] for samples in rounds], kind, stable=stable)
    for name in ("cold_start", "load", "first_answer"):
        values = [samples.get(f"{name}_ms") for samples in rounds]
        yield each(name, "ms", values, kind, stable=stable, reason=NO_START)


def clocks(rounds: Sequence[Samples]) -> list[float] | None:
    """What the reference of the machine took in each timed process, in logarithms; None where one of them has none."""
    if not rounds or not all(samples.get("reference_ms") for samples in rounds):
        return None
    return [math.log(min(samples["reference_ms"])) for samples in rounds]


def writing(rounds: Sequence[Samples], kind: Kind, *, stable: bool) -> Iterator[Figure]:
    """What the timed processes of a model that writes found, for each length of prompt."""
    for name in ("cold_start", "load"):
        values = [samples.get(f"{name}_ms") for samples in rounds]
        yield each(name, "ms", values, kind, stable=stable, reason=NO_START)
    for name, unit, found in by_prompt(rounds):
        yield pooled(name, unit, found, kind, stable=stable)
    for prompt in rounds[0].get("skipped", ()):
        for name, _, _ in PROMPT_FIGURES:
            yield NotMeasured(name=f"{name}@{prompt['prompt_tokens']}", reason=prompt["reason"])


def by_prompt(rounds: Sequence[Samples]) -> Iterator[tuple[str, str, Rounds]]:
    """The samples of every figure of every length of prompt: its name, its unit, and a list a round."""
    for number, prompt in enumerate(rounds[0]["prompts"]):
        for name, key, unit in PROMPT_FIGURES:
            found = [samples["prompts"][number][key] for samples in rounds]
            yield f"{name}@{prompt['prompt_tokens']}", unit, found


def memory(rounds: Sequence[Samples], kind: Kind) -> Iterator[Figure]:
    """What the model adds to its engine, the whole process, and the most that it ever held."""
    reason = next((samples["reason"] for samples in rounds if samples.get("reason")), NO_MEMORY)
    for name, key, part in MEMORY_FIGURES:
        values = [None if samples[key] is None else samples[key].get(part) for samples in rounds]
        yield each(name, "bytes", values, kind, reason=reason)


def energy(rounds: Sequence[Samples], kind: Kind, *, stable: bool) -> Figure:
    """Joules an answer: what the device used in the timed part, whoever in it used it, over its answers."""
    values = [
        None if samples.get("energy_j") is None else samples["energy_j"] / answers
        for samples in rounds
        if (answers := answered(samples))
    ]
    reason = next((samples["energy_reason"] for samples in rounds if samples.get("energy_reason")), NO_ENERGY)
    return each("energy", "J", values, kind, stable=stable, reason=reason)


def answered(samples: Samples) -> int:
    """Answers in the timed part of a process."""
    if "prompts" in samples:
        return sum(len(prompt["first_token_ms"]) for prompt in samples["prompts"])
    return len(samples["latency_ms"])


def centers(rounds: Sequence[Samples], texts: int) -> dict[str, list[float]]:
    """What each process found, by the figure's name: the median latency over whole passes through the texts.

    Where the repeats end in the middle of a pass, the texts of its first part would count more than the others; two
    processes that ended elsewhere would then differ by their texts. Of a model that writes, for each length of prompt,
    the two figures that a process repeats until it knows them: the others are the same times, counted otherwise.
    """
    if rounds and "prompts" in rounds[0]:
        found = {name: samples for name, _, samples in by_prompt(rounds) if name.partition("@")[0] in REPEATED}
    else:
        times = [samples["latency_ms"] for samples in rounds]
        found = {"latency": [one[: len(one) // texts * texts or None] for one in times]}
    medians = {name: [float(statistics.median(one)) for one in samples if one] for name, samples in found.items()}
    return {name: values for name, values in medians.items() if values}


def pooled(name: str, unit: str, rounds: Rounds, kind: Kind, *, stable: bool = True) -> Figure:
    """A figure with samples in every round: all of them, with the interval of their median."""
    some = [samples for samples in rounds if samples]
    if not some:
        return NotMeasured(name=name, reason=NO_SAMPLES)
    interval = quantile_interval(some, 0.5)
    return Measurement(
        name=name,
        unit=unit,
        kind=kind,
        values=tuple(float(value) for samples in some for value in samples),
        interval=(interval.low, interval.high),
        stable=stable,
    )


def each(
    name: str, unit: str, values: Sequence[float | None], kind: Kind, *, stable: bool = True, reason: str
) -> Figure:
    """One value a round: the least and the greatest of a few are no interval of any level, so none is claimed."""
    known = tuple(float(value) for value in values if value is not None)
    if not known:
        return NotMeasured(name=name, reason=reason)
    return Measurement(name=name, unit=unit, kind=kind, values=known, stable=stable)
