"""The report as one page for people and as JSON for programs. Pure: a Report in, text out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from edgedistill.report import charts, measurements, panels, sections
from edgedistill.report.blocks import MISSING, Section, within
from edgedistill.report.figures import interval, is_exact, shown
from edgedistill.report.panels import Panel
from edgedistill.types import Contrast, Estimate, Report

SCHEMA = 1
"""The version of the JSON: it grows when a key changes its meaning or goes away."""

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


def render(report: Report) -> str:
    """The whole report of a build as one page."""
    held = [goal.held for goal in report.goals]
    counts = (("good", "held", True), ("bad", "missed", False), ("missing", MISSING, None))
    return page(
        name=report.name,
        about=f"on {report.device.title}",
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


def page(
    *,
    name: str,
    about: str,
    verdict: str,
    standing: Sequence[tuple[str, str]],
    clock: str,
    made: str,
    panels: Sequence[Panel],
    sections: Sequence[Section],
    first: Sequence[Section] = (),
) -> str:
    """One HTML page that loads nothing: styles and charts are inside it, scripts there are none.

    Args:
        name: of what the page is about; `about` goes on from there.
        standing: short remarks under the verdict, each with a tone.
        clock: where the figures of the verdict come from.
        made: what made the page.
        first: sections that stand before the charts.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        about=about,
        verdict=verdict,
        standing=standing,
        clock=clock,
        made=made,
        colors=charts.THEME,
        first=first,
        panels=panels,
        sections=sections,
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
    board = report.device.title
    timed = "latency" in report.ratios and measurements.ratio_kind(report, "latency") == "measured"
    speed = f" Speed was measured on {measurements.HOST}." if timed else ""
    return f"Size and accuracy are those of the exported file.{speed} What is known of the {board} itself stands below."


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
