"""What to build for a device, before it is built: the student's shape, the recipes, and what they will cost there.

Pure arithmetic on the request, the catalogue and a few facts about teacher and rows; no files, no torch. What it costs
on the device comes from `predictor`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgedistill import predictor
from edgedistill.config import Request
from edgedistill.errors import PlanRefused
from edgedistill.types import Device, Plan, Recipe, Shape, Teacher

ENGINE = "onnxruntime"
TABLES = "tables"
"""The scheme of recipes for static students, which have no layers."""
RUNTIME_FILES_BYTES = 130e6
"""On disk: the runtime's requirements, unpacked."""

SHAPES: tuple[tuple[float, float], ...] = ((2 / 3, 1 / 4), (1 / 2, 1 / 4), (1 / 3, 1 / 4), (1 / 6, 1 / 4))
"""Students to consider, the most accurate first: share of the teacher's layers, share of its inner width.

Depth is worth more than width: on clinc150, four layers with a quarter of the inner units keep more of the teacher
than three with half of them, in a file of the same size (benchmarks/LOG.md).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """What the plan needs to know about the rows.

    Attributes:
        labels: number of classes.
        tokens: length of the typical (median) text in the teacher's pieces, special ones included.
        vocabulary: pieces that the training rows use, with those that everything can fall back to.
        teacher_tokenizer_bytes: size of the teacher's tokenizer file.
        student_tokenizer_bytes: size of the one with only these pieces.
    """

    labels: int
    tokens: int
    vocabulary: int
    teacher_tokenizer_bytes: int
    student_tokenizer_bytes: int


def plan(
    request: Request, device: Device, recipes: Sequence[Recipe], teacher: Teacher, rows: RowFacts, *, threads: int = 1
) -> Plan:
    """Chooses what to build.

    Args:
        recipes: what may be tried, smallest weights first: what the board has kernels for (`export.isa.suited`).
        threads: that the runtime will use.

    Raises:
        PlanRefused: nothing fits, with the arithmetic; or the device cannot run what this version builds.
    """
    ladder = _recipes(request, device, recipes)
    tried: list[str] = []
    for shape in _shapes(request, teacher, rows):
        costs = predictor.encoder(shape, ladder[0], device, rows.tokens, threads=threads)
        problem = _does_not_fit({cost.name: cost.median for cost in costs}, device, teacher, rows, request)
        if problem is None:
            return Plan(
                device=device,
                recipes=ladder,
                student_shape=shape,
                predictions=costs,
                explanation=_explain(shape, ladder, device, teacher, rows, tried),
            )
        tried.append(f"{_describe(shape, teacher)}: {problem}")
    raise PlanRefused(
        f"no student of {teacher.name} fits {device.title}:\n" + "\n".join(f"  {line}" for line in tried),
        hint="choose a bigger board, lower the goals, or set [student] layers and vocabulary yourself",
    )


def _recipes(request: Request, device: Device, recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
    if ENGINE not in device.engines:
        runs = " or ".join(device.engines) or "no engine with a Python package"
        raise PlanRefused(
            f"{device.title} runs {runs}, and this version builds bundles for {ENGINE}",
            hint="edgedistill targets shows the boards with " + ENGINE,
        )
    fitting = [r for r in recipes if r.engine == ENGINE and r.scheme != TABLES and set(r.needs_isa) <= set(device.isa)]
    if request.export.recipe is not None:
        names = [recipe.name for recipe in fitting]
        if request.export.recipe not in names:
            raise PlanRefused(
                f"recipe {request.export.recipe!r} does not run on {device.title}", hint=f"it runs {', '.join(names)}"
            )
        fitting = fitting[names.index(request.export.recipe) :]
    return tuple(r for r in fitting if not r.on_request or r.name == request.export.recipe)


def _shapes(request: Request, teacher: Teacher, rows: RowFacts) -> list[Shape]:
    """The shapes to consider, with what the request fixes already put in."""
    wanted, full = request.student, teacher.shape
    shares = SHAPES if wanted.layers is None else ((wanted.layers / len(full.layers), SHAPES[0][1]),)
    found = []
    for depth, width in shares:
        count = min(len(full.layers), max(1, round(depth * len(full.layers))))
        ffn = wanted.ffn or max(32, round(width * full.ffn / 32) * 32)
        shape = Shape(
            layers=_spread(count, len(full.layers)),
            hidden=full.hidden,
            ffn=min(ffn, full.ffn),
            heads=full.heads,
            vocabulary=min(wanted.vocabulary or rows.vocabulary, full.vocabulary),
            positions=min(request.data.max_tokens, full.positions),
            labels=rows.labels,
        )
        if shape not in found:
            found.append(shape)
    return found


def _spread(count: int, total: int) -> tuple[int, ...]:
    """`count` of `total` layers, evenly, the first and the last among them."""
    if count == 1:
        return (total - 1,)
    return tuple(math.floor(i * (total - 1) / (count - 1) + 0.5) for i in range(count))


def _does_not_fit(
    numbers: Mapping[str, float], device: Device, teacher: Teacher, rows: RowFacts, request: Request
) -> str | None:
    """The first thing that does not fit, with its arithmetic."""
    size, memory = numbers["model_size"], numbers["memory"]
    disk = size + RUNTIME_FILES_BYTES
    # Like the benchmark: what the user has of the teacher against what ships of the student, with both tokenizers.
    before, after = teacher.weight_bytes + rows.teacher_tokenizer_bytes, size + rows.student_tokenizer_bytes
    ratio = before / after
    checks = (
        (
            memory > device.ram_usable_bytes,
            f"needs {_mb(memory)} of memory and {_mb(device.ram_usable_bytes)} are free",
        ),
        (disk > device.storage_bytes, f"needs {_mb(disk)} of storage and there are {_mb(device.storage_bytes)}"),
        (
            memory > device.budget["memory_bytes"],
            f"{_mb(memory)} of memory, budget {_mb(device.budget['memory_bytes'])}",
        ),
        (size > device.budget["model_bytes"], f"a file of {_mb(size)}, budget {_mb(device.budget['model_bytes'])}"),
        (
            numbers["latency"] > device.budget["latency_ms"],
            f"{numbers['latency']:.2f} ms a text, budget {device.budget['latency_ms']:g} ms",
        ),
        (
            ratio < request.goals.size_ratio,
            f"{_mb(before)} / {_mb(after)} = {ratio:.1f} × smaller, goal {request.goals.size_ratio:g} ×",
        ),
    )
    return next((reason for failed, reason in checks if failed), None)


def _explain(
    shape: Shape, ladder: Sequence[Recipe], device: Device, teacher: Teacher, rows: RowFacts, tried: Sequence[str]
) -> tuple[str, ...]:
    share = shape.parameters / teacher.shape.parameters
    lines = [
        f"student: {_describe(shape, teacher)}; {shape.parameters / 1e6:.1f} M of the teacher's "
        f"{teacher.shape.parameters / 1e6:.1f} M parameters ({share:.0%})",
        f"vocabulary: {shape.vocabulary} of {teacher.shape.vocabulary} pieces: what the rows use, and every character",
        f"arithmetic: {shape.macs(rows.tokens) / 1e6:.1f} M multiply-adds for a text of {rows.tokens} pieces; "
        f"one core of {device.title} does {device.gops['int8'].value:g} × 10⁹ int8 operations a second",
        "signals: the teacher's logits and the hidden states of the layers that are copied, the richest that it gives",
        f"recipe: {ladder[0].name}" + (f", then {', '.join(r.name for r in ladder[1:])}" if ladder[1:] else ""),
    ]
    return (*lines, *(f"passed over: {line}" for line in tried))


def _describe(shape: Shape, teacher: Teacher) -> str:
    which = ", ".join(str(layer + 1) for layer in shape.layers)
    depth = f"{len(shape.layers)} of {len(teacher.shape.layers)} layers ({which})"
    return f"{depth}, inner width {shape.ffn} of {teacher.shape.ffn}"


def _mb(value: float) -> str:
    return f"{value / 1e6:.1f} MB"
