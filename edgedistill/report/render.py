"""The report of a build: a page and Markdown for people, JSON for programs. Pure: a Report in, text out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill.report import markdown, measurements, page, panels, sections
from edgedistill.report.blocks import MISSING, Page, within
from edgedistill.report.figures import interval, is_exact, shown
from edgedistill.types import Contrast, Estimate, Report

SCHEMA = 1
"""The version of the JSON: it grows when a key changes its meaning or goes away."""


def render(report: Report) -> str:
    """The whole report of a build as one page."""
    return page.html(of_build(report))


def render_markdown(report: Report) -> str:
    """The same in plain Markdown."""
    return markdown.text(of_build(report))


def of_build(report: Report) -> Page:
    """What stands on the page of a build."""
    held = [goal.held for goal in report.goals]
    counts = (("good", "held", True), ("bad", "missed", False), ("missing", MISSING, None))
    return Page(
        name=report.name,
        about=f"on {report.device.place}",
        verdict=verdict(report),
        standing=(
            *(
                (tone, f"{held.count(which)} of {len(held)} goals {word}")
                for tone, word, which in counts
                if which in held
            ),
            *standing(report.contrasts),
        ),
        clock=clock(report),
        made=f"edgedistill {report.version}, {report.created}",
        first=(sections.goals(report),),
        panels=panels.panels(report),
        sections=(
            sections.arms(report.arms, report.contrasts),
            measurements.section(report),
            sections.on_target(report),
            sections.export(report),
            sections.learned(report.curves, report.arms),
            sections.data(report.data),
            sections.built(report),
        ),
    )


def render_json(report: Report) -> str:
    """The same content for programs, with sorted keys and the number of its schema.

    Raises:
        ValueError: a figure is not finite; JSON cannot say it, and a missing figure is a NotMeasured.
        TypeError: a mapping of the report holds something that is neither text, number, list nor mapping.
    """
    content = {"schema": SCHEMA, **_plain(report)}
    return json.dumps(content, allow_nan=False, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def verdict(report: Report) -> str:
    """The one sentence under the title: smaller, faster, and how much of the accuracy is kept."""
    parts = [
        part
        for part in (_times(report, "size", "smaller", "larger"), _times(report, "latency", "faster", "slower"))
        if part
    ]
    speed = f"{' and '.join(parts)} than the teacher" if parts else f"Size and speed against the teacher {MISSING}"
    speed = speed[0].upper() + speed[1:]
    metric = within(sections.main_metric(report.arms) or "accuracy")
    kept = next((contrast.estimate for contrast in report.contrasts if contrast.unit == "ratio"), None)
    if kept is None:
        return f"{speed}; {metric} kept {MISSING}: no arm was compared with the teacher."
    range_ = "" if is_exact(kept) else f" ({interval(kept, 'share')})"
    return f"{speed}, keeping {shown(kept, 'share')} of its {metric}{range_}."


def clock(report: Report) -> str:
    """Where the figures of the verdict were taken, so that nobody reads them as the board's own."""
    board = report.device.place
    timed = "latency" in report.ratios and measurements.ratio_kind(report, "latency") == "measured"
    speed = f" Speed was measured on {measurements.HOST}." if timed else ""
    return f"Size and accuracy are those of the exported file.{speed} What is known of {board} itself stands below."


def standing(contrasts: Sequence[Contrast]) -> tuple[tuple[str, str], ...]:
    """Whether distilling paid, in a few words with their tone."""
    return tuple(
        ("good", "Beats the control") if contrast.estimate.low > 0 else ("missing", "Control not beaten")
        for contrast in contrasts
        if sections.control_line(contrast)
    )


def _times(report: Report, key: str, better: str, worse: str) -> str:
    """How the file compares with the teacher in words: "21x faster", or that no difference was shown."""
    found = report.ratios.get(key)
    kind = measurements.ratio_kind(report, key)
    if found is None or kind is None:
        return ""
    if found.low <= 1 <= found.high:
        return f"no {better} and no {worse}"
    turned = Estimate(value=1 / found.value, low=1 / found.high, high=1 / found.low) if found.value < 1 else found
    said = f"{shown(turned, 'times')} {worse if found.value < 1 else better}"
    return said if kind == "measured" else f"{said} ({kind})"


def _plain(value: Any) -> Any:
    """The value as JSON types: dataclasses and mappings become objects, sequences lists, paths text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value
