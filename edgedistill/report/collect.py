"""Everything that a build found out, brought together as one `Report`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from edgedistill import __version__
from edgedistill.config import Request
from edgedistill.types import (
    Arm,
    Contrast,
    Estimate,
    Exported,
    Goal,
    Kind,
    Measurement,
    NotMeasured,
    Plan,
    Report,
    Rows,
    Subject,
    Teacher,
)

_WHOSE = {"teacher": "teacher", "exported": "exported file"}


def collect(
    request: Request,
    *,
    rows: Rows,
    teacher: Teacher,
    plan: Plan,
    arms: tuple[Arm, ...],
    contrasts: tuple[Contrast, ...],
    subjects: tuple[Subject, ...],
    ratios: Mapping[str, Estimate],
    on_target: tuple[Measurement | NotMeasured, ...],
    exported: Exported,
    curves: Mapping[str, tuple[Mapping[str, float], ...]],
    seconds: Mapping[str, float],
    threads: int,
    environment: Mapping[str, str],
) -> Report:
    """The report of a build. Its goals are the request's and the board's budget.

    Args:
        environment: where `subjects` were measured, which need not be where this runs.
    """
    contrast = {found.name: found for found in contrasts}
    return Report(
        name=request.name,
        device=plan.device,
        version=__version__,
        created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        environment={**environment, "seed": str(request.seed), "threads": str(threads)},
        data={**rows.facts, "teacher": teacher.name},
        plan=plan,
        arms=arms,
        contrasts=contrasts,
        goals=goals(request, plan, contrast["retained"].estimate, ratios, exported, on_target),
        subjects=subjects,
        ratios=ratios,
        on_target=on_target,
        export={
            "recipe": exported.recipe,
            "file": exported.path.name,
            "ladder": [{key: value for key, value in step.items() if key != "parity"} for step in exported.ladder],
            "parity": exported.parity,
            "lint": list(exported.lint),
            "sensitivity": list(exported.sensitivity),
        },
        curves=curves,
        seconds=seconds,
        remarks=remarks(contrast, exported, subjects, threads),
    )


def goals(
    request: Request,
    plan: Plan,
    retained: Estimate,
    ratios: Mapping[str, Estimate],
    exported: Exported,
    on_target: Sequence[Measurement | NotMeasured] = (),
) -> tuple[Goal, ...]:
    """What was asked for and what came out: the request's goals are measured here.

    Args:
        on_target: what was measured on the board itself goes before what is predicted of it.
    """
    timed = (one for one in on_target if isinstance(one, Measurement) and one.kind == "measured")
    known: dict[str, Measurement] = {one.name: one for one in (*plan.predictions, *timed)}
    board = plan.device.place
    budget = plan.device.budget
    size = float(exported.size_bytes)

    def at_least(title: str, asked: float, found: Estimate | None, unit: Any) -> Goal:
        value = None if found is None else found.value
        held = None if value is None else value >= asked
        kind: Kind | None = None if value is None else "measured"
        return Goal(title=title, asked=asked, value=value, unit=unit, direction="at least", kind=kind, held=held)

    def of_board(title: str, limit: str, unit: Any) -> Goal:
        found = known[title]
        return at_most(f"{title} on {board}", budget[limit], found.median, unit, found.kind)

    def at_most(title: str, asked: float, value: float, unit: Any, kind: Any) -> Goal:
        return Goal(
            title=title, asked=asked, value=value, unit=unit, direction="at most", kind=kind, held=value <= asked
        )

    return (
        at_least("accuracy kept of the teacher's", request.goals.retained, retained, "share"),
        at_least("faster than the teacher", request.goals.latency_ratio, ratios.get("latency"), "times"),
        at_least("smaller than the teacher", request.goals.size_ratio, ratios.get("size"), "times"),
        at_most("model file", budget["model_bytes"], size, "bytes", "measured"),
        of_board("latency", "latency_ms", "ms"),
        of_board("memory", "memory_bytes", "bytes"),
    )


def remarks(
    contrasts: Mapping[str, Contrast], exported: Exported, subjects: Sequence[Subject], threads: int
) -> tuple[str, ...]:
    """What a reader should know before believing the figures."""
    found = [
        f"Speed was measured on the build machine with {threads} thread{'s' if threads > 1 else ''} for both, "
        "from text to answer, tokenizer included."
    ]
    gain = contrasts["distillation"].estimate
    if gain.low <= 0 <= gain.high:
        found.append("The distilled student does not beat the control arm beyond chance on these test rows.")
    elif gain.high < 0:
        found.append("The control arm, trained on the labels alone, beats the distilled student on these test rows.")
    if len(exported.ladder) > 1:
        first = exported.ladder[0]
        found.append(f"{first['recipe']} did not hold ({first['reason']}), so {exported.recipe} ships instead.")
    for subject in subjects:
        if any(isinstance(m, Measurement) and not m.stable for m in subject.measurements):
            found.append(f"The times of the {_WHOSE[subject.name]} varied between rounds: the machine was busy.")
    return tuple(found)
