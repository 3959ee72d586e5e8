"""A decoder on a board: tokens a second, time to the first token, and memory.

Writing a token reads every weight once, and the keys and values of the context so far; reading a prompt computes two
operations for each weight of a layer and token. What does not fit into memory is read from storage for every token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgedistill.errors import InputError
from edgedistill.predictor import fitted, names
from edgedistill.predictor.law import LEVEL
from edgedistill.types import Device, PredictedMeasurement

PROMPT_TOKENS = 256
"""Of the prompt that figures are given for, where nobody asks for another: as in most of the published rows."""
BATCH = 512
"""Tokens of a prompt that llama.cpp computes at once."""
LLAMA_BYTES = 75e6
"""Resident memory of Python with llama-cpp-python before a model is loaded, on 64-bit Linux."""
CARD_BYTES_S = 22e6
"""What a board reads from its storage where its profile does not say: an SD card, as on a Raspberry Pi Zero 2 W."""
PAGING_FACTOR = 3.0
"""A judgement: cards differ, and a system guesses which pages it will need."""
INTERVAL = f"{LEVEL:.0%} interval".replace("%", " %")
ROUGH = "rough range"
MEMORY_FACTOR = 1.2
"""Rough: the arithmetic is llama.cpp's own, but what a system counts as resident is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a decoder costs on a board.

    Attributes:
        measurements: decode@N and prefill@N in tokens a second, first_token@N in ms, for a prompt of N tokens, with
            intervals of `LEVEL`, or rough ranges where it does not fit into memory; memory in bytes, rough too.
        why: what the figures rest on, a line each.
    """

    measurements: tuple[PredictedMeasurement, ...] = ()
    why: tuple[str, ...] = ()


def decoder(
    device: Device,
    sizes: names.Decoder,
    quantization: str,
    *,
    file_bytes: float | None = None,
    prompt_tokens: int = PROMPT_TOKENS,
    context: int = 2048,
    threads: int | None = None,
    kept_bytes: float = 0.0,
    memory: float | None = None,
) -> Prediction:
    """Predicts a decoder in llama.cpp on a board's CPU.

    Args:
        sizes: weights of the model, as `names.decoder` gives them for a name.
        quantization: form of the file: "Q4_K_M".
        file_bytes: of the file; None counts weights × bits.
        context: tokens that the runtime keeps at most.
        threads: None for all cores of the profile.
        kept_bytes: keys and values of one token, in all layers.
        memory: bytes that the process takes, where something knows them better than the arithmetic here.

    Raises:
        InputError: no such quantization, or a length below 1.
    """
    form = names.quantization(quantization)
    if form is None:
        raise InputError(f"{quantization!r} is no quantization of llama.cpp", hint="Q4_0, Q4_K_M or Q8_0, say")
    if min(prompt_tokens, context, threads or 1) < 1:
        raise InputError("prompt, context and threads are at least 1", hint="give whole numbers above 0")
    used = min(threads or device.cores, device.cores)
    back = sizes.falls_back(form)
    counted = sizes.file_bytes(form)
    whole = counted if file_bytes is None else file_bytes
    read = sizes.bytes_read(form) * whole / counted
    if memory is None:
        memory = LLAMA_BYTES + whole + kept_bytes * context
    writing = fitted.rate(device, "decode", form, read, threads=used, falls_back=back)
    reading = fitted.rate(device, "prefill", form, 2 * sizes.active, threads=used, falls_back=back)
    token_s = (read + kept_bytes * min(prompt_tokens, context)) / writing.value
    prompt_s = prompt_tokens * 2 * sizes.active / reading.value
    factors = {"decode": writing.factor, "prefill": reading.factor}
    why = [f"writing: {writing.why}", f"reading: {reading.why}"]
    # Of what is looked up a token takes a few rows, so that may stay on disk.
    missing = min(read, max(0.0, memory - sizes.looked_up_bytes(form) - device.ram_usable_bytes))
    if missing:
        storage = device.storage_bandwidth_bytes_s or CARD_BYTES_S
        token_s = max(token_s, missing / storage)
        prompt_s = max(prompt_s, math.ceil(prompt_tokens / BATCH) * missing / storage)
        factors = {name: max(factor, PAGING_FACTOR) for name, factor in factors.items()}
        why.append(
            f"{missing / 1e6:.0f} MB do not fit into memory: they are read from storage for every token, "
            f"at {storage / 1e6:.0f} MB/s, a rough figure with a rough range"
        )
    prefill = prompt_tokens / prompt_s
    kind = ROUGH if missing else INTERVAL  # nobody has published enough timings of paging to know how far it is off
    return Prediction(
        measurements=(
            _within(f"decode@{prompt_tokens}", "tokens/s", 1 / token_s, factors["decode"], kind),
            _within(f"prefill@{prompt_tokens}", "tokens/s", prefill, factors["prefill"], kind),
            _within(f"first_token@{prompt_tokens}", "ms", prompt_s * 1e3, factors["prefill"], kind),
            _within("memory", "bytes", memory, MEMORY_FACTOR, ROUGH),
        ),
        why=tuple(dict.fromkeys(why)),
    )


def _within(name: str, unit: str, value: float, factor: float, called: str) -> PredictedMeasurement:
    return PredictedMeasurement(
        name=name, unit=unit, values=(value,), interval=(value / factor, value * factor), called=called
    )
