"""What the memory of a process is made of: its engine, and the model's anonymous, file-backed and swapped pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from edgedistill.report import plots
from edgedistill.report.blocks import Panel
from edgedistill.report.figures import number

PARTS = {
    "teacher": "engine and tokenizer",
    "fifth": "model",
    "student": "model, anonymous",
    "exported": "model, file-backed",
    "control": "model, swapped out",
}
"""What each color stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Bytes of a process by color; `peak` is the most that it ever held, where that is known."""

    parts: Mapping[str, float]
    peak: float | None = None

    @property
    def total(self) -> float:
        """All parts."""
        return sum(self.parts.values())


def split(found: Mapping[str, float]) -> Split | None:
    """The parts of a process from medians in bytes, by measurement name; None where the two sums are missing.

    The model is what the process holds beyond its engine, so a part that the engine gave back is below zero: it is
    drawn as nothing, and the tables have it.
    """
    if "memory_process" not in found or "memory_model" not in found:
        return None
    model, anonymous = found["memory_model"], found.get("memory_model_anonymous")
    parts = {"teacher": found["memory_process"] - model}
    if anonymous is None:
        parts["fifth"] = model
    else:
        parts |= {"student": anonymous, "exported": found.get("memory_model_file", model - anonymous)}
    if found.get("memory_model_swap"):
        parts["control"] = found["memory_model_swap"]
    return Split(parts={name: max(value, 0.0) for name, value in parts.items()}, peak=found.get("memory_peak"))


def stack(groups: Mapping[str, Sequence[tuple[str, Split]]], note: str = "") -> Panel | None:
    """One bar a process with its parts one after the other, and a tick at its peak; None where there is no process.

    Args:
        groups: processes with their titles, one drawing a group, by the kind of its figures.
    """
    drawn = {title: processes for title, processes in groups.items() if processes}
    every = [one for processes in drawn.values() for one in processes]
    if not every:
        return None
    most = max(max(one.total, one.peak or 0.0) for _, one in every)
    used = dict.fromkeys(name for _, one in every for name in one.parts)
    drawings = [
        partial(
            plots.bars,
            [
                plots.Bar(title=title, parts=list(one.parts.items()), text=_text(one), tick=one.peak)
                for title, one in processes
            ],
            most=most,
            title=kind if len(drawn) > 1 else None,
        )
        for kind, processes in drawn.items()
    ]
    return Panel(
        title="Memory of the process",
        drawings=tuple(drawings),
        words=tuple(f"{title}: {_words(one)}" for title, one in every),
        note=" ".join(
            [
                *([f"{next(iter(drawn))}."] if len(drawn) == 1 else []),
                "1 MB is a million bytes.",
                *([note] * bool(note)),
            ]
        ),
        legend=tuple((name, said) for name, said in PARTS.items() if name in used),
    )


def _text(one: Split) -> str:
    total = number(one.total, "bytes")
    return total if one.peak is None else f"{total}, peak {number(one.peak, 'bytes')}"


def _words(one: Split) -> str:
    parts = ", ".join(f"{PARTS[name]} {number(value, 'bytes')}" for name, value in one.parts.items())
    return f"{parts}, together {number(one.total, 'bytes')}" + (
        "" if one.peak is None else f", peak {number(one.peak, 'bytes')}"
    )
