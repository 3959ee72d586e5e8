"""An encoder on a board: time for one text, file and memory, from its shape and the profile. Arithmetic alone.

How far the latency may be off rests on little, for almost nobody publishes encoders on boards. The encoders of four
sizes of Whisper on a Raspberry Pi 5 (whisper.cpp, floats, 4 threads) come out 1.0 to 1.3 times too slow; the profile
`cpu` is low on purpose, and a student in 8 bits took an eighth of what it promises (benchmarks/LOG.md). That is no
sample to take an interval from, so the range stays a rough one.
"""

from __future__ import annotations

import math

from edgedistill.types import Device, PredictedMeasurement, Recipe, Shape

ENGINE_BYTES = 55e6
"""Resident memory of Python with numpy, tokenizers and ONNX Runtime before a model is loaded, on 64-bit Linux."""
COPIES_IN_MEMORY = 2.0
"""A model's weights as read from the file, and as packed for the kernels."""
SKINNY_SHARE = 0.5
"""Share of a core's dense throughput that one short text reaches: its matrices have a dozen rows."""
MORE_THREADS = 0.7
"""Speed grows with this power of the threads."""
OPERATOR_S = 4e-6
"""What each operator costs whatever it computes, on a core of 40 GOP/s or more; slower cores take longer."""
OPERATORS_PER_LAYER = 22
# How far a prediction may be off in either direction: rough, see above.
LATENCY_FACTOR = 2.5
MEMORY_FACTOR = 1.4
SIZE_FACTOR = 1.03


def encoder(
    shape: Shape, recipe: Recipe, device: Device, tokens: int, *, threads: int, spans: bool = False
) -> tuple[PredictedMeasurement, ...]:
    """Latency (ms), size of the file and memory (bytes) of an encoder on a board, each with a rough range.

    Args:
        tokens: of the text.
        threads: that the runtime uses.
        spans: it points at answers, which takes every position of its last layer.
    """
    table = shape.vocabulary * shape.hidden
    size, held = (
        ((shape.parameters - table) * bits + table * recipe.table_bits) / 8 * SIZE_FACTOR
        for bits in (recipe.file_bits, recipe.bits)
    )
    latency = latency_s(shape.macs(tokens, spans=spans), len(shape.layers), recipe, device, threads=threads)
    return (
        _rough("latency", "ms", latency * 1e3, LATENCY_FACTOR),
        _rough("model_size", "bytes", size, SIZE_FACTOR),
        _rough("memory", "bytes", ENGINE_BYTES + sum(in_memory(held, recipe).values()), MEMORY_FACTOR),
    )


def latency_s(macs: float, layers: int, recipe: Recipe, device: Device, *, threads: int) -> float:
    """Seconds for a text: its multiply-adds at the profile's throughput, and what each operator costs."""
    gops = device.gops["int8" if recipe.bits == 8 else "f32"].value
    arithmetic = 2 * macs / (gops * 1e9 * SKINNY_SHARE * math.pow(min(threads, device.cores), MORE_THREADS))
    return arithmetic + OPERATOR_S * OPERATORS_PER_LAYER * layers * max(1.0, 40 / gops)


def in_memory(held: float, recipe: Recipe) -> dict[str, float]:
    """Memory for weights of so many bytes, by what it is for.

    Weights in 16 bits are widened to float32 when the file is loaded. Those of 8 bits lie beside the graph, where the
    engine maps them: 16.3 MB for a file of 17.0, against 37 where they are packed once more (benchmarks/LOG.md).
    """
    held *= 2 if recipe.bits == 16 else 1
    return {"weights": held, "packed copy": 0.0 if is_mapped(recipe) else (COPIES_IN_MEMORY - 1) * held}


def is_mapped(recipe: Recipe) -> bool:
    """Whether a recipe's file is used as it lies on disk: all of it in 8 bits, beside its graph."""
    return recipe.scheme == "dynamic" and recipe.file_bits == recipe.bits == recipe.table_bits == 8


def _rough(name: str, unit: str, value: float, factor: float) -> PredictedMeasurement:
    return PredictedMeasurement(name=name, unit=unit, values=(value,), interval=(value / factor, value * factor))
