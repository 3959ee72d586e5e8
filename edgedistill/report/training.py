"""What a training came to, as the same kind of page as a build's report. Pure: `training.json` in, text out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedistill import tasks
from edgedistill.report import page, panels, sections
from edgedistill.report.blocks import Cell, Page, Section, label, table, within
from edgedistill.report.figures import interval, is_exact, number, shown, unit_of
from edgedistill.report.render import standing
from edgedistill.types import Arm, Contrast, Estimate

SHOWN_CHARACTERS = 900
"""Of a text in an example; a longer one is cut, and says so."""
WHO = {"teacher": "The teacher", "control": "The control", "student": "The student"}


def render(training: Mapping[str, Any]) -> str:
    """The page of a training. Equal trainings have equal pages: no clock is in it.

    Args:
        training: the content of `training.json`.
    """
    arms = tuple(_arm(found) for found in training["arms"])
    contrasts = tuple(
        Contrast(**{**found, "estimate": Estimate(**found["estimate"])}) for found in training["contrasts"]
    )
    headline = tasks.find(training["task"]).headline
    metrics = [headline, *(name for name in ("kl", "cross_entropy") if any(name in arm.metrics for arm in arms))]
    remarks = standing(contrasts)
    if not any(arm.name == "control" for arm in arms):
        remarks = (*remarks, ("missing", "No control arm"))
    found = Page(
        name=training["name"],
        about=f"a student for {training['task']}",
        verdict=verdict(arms, contrasts, headline, training["parameters"]),
        standing=remarks,
        clock=_clock(training, arms),
        made=f"edgedistill {training['version']}",
        panels=(*(panels.accuracy(arms, metric) for metric in metrics), panels.training(training["curves"], arms)),
        sections=(
            sections.arms(arms, contrasts, title="Results"),
            _student(training),
            sections.learned(training["curves"], arms),
            *_examples(training.get("examples", ())),
            sections.data(training["data"]),
            _settings(training),
        ),
    )
    return page.html(found)


def verdict(
    arms: tuple[Arm, ...], contrasts: tuple[Contrast, ...], headline: str, parameters: Mapping[str, int]
) -> str:
    """The one sentence under the title: what is kept of the teacher, and with how many of its parameters."""
    share = f"{parameters['student'] / 1e6:.3g} M parameters"
    if parameters.get("teacher"):
        share = f"{number(parameters['student'] / parameters['teacher'], 'share')} of the teacher's parameters"
    kept = next((contrast.estimate for contrast in contrasts if contrast.name == "retained"), None)
    if kept is not None:
        sure = "" if is_exact(kept) else f" ({interval(kept, 'share')})"
        share = share.replace("the teacher's", "its")
        return f"Keeps {shown(kept, 'share')} of the teacher's {within(headline)}{sure} with {share}."
    found = next(arm.metrics[headline] for arm in arms if arm.name == "student")
    unit = unit_of(headline, [found])
    teacher = (
        "the teacher scores nothing that could be kept" if len(arms) > 1 else "no teacher was here to compare with"
    )
    return f"{label(headline)} of {shown(found, unit)} ({interval(found, unit)}) with {share}; {teacher}."


def _arm(found: Mapping[str, Any]) -> Arm:
    metrics = {name: Estimate(**values) for name, values in found["metrics"].items()}
    return Arm(name=found["name"], title=found["title"], metrics=metrics)


def _clock(training: Mapping[str, Any], arms: tuple[Arm, ...]) -> str:
    """Where the figures of the verdict come from."""
    rows = training["data"]["counts"]["test"] - training["data"].get("left_out", 0)
    said = f"Every arm answered the same {rows:,} test rows; intervals come from drawing rows again."
    if any(arm.name == "control" for arm in arms):
        return f"{said} The control is the same student from the rows' answers alone, in as many steps."
    return f"{said} The student learned the rows' answers and nothing else, so its control would be the same model."


def _student(training: Mapping[str, Any]) -> Section:
    """What the student is made of, and why it was trained in this way."""
    teacher = training["parameters"].get("teacher")
    rows: list[tuple[str | Cell, ...]] = []
    for who in ("teacher", "student"):
        if (count := training["parameters"].get(who)) is not None:
            share = number(count / teacher, "share") if teacher else Cell(text="no teacher here", tone="missing")
            rows.append((label(who), f"{count:,}", share))
    return Section(
        id="student",
        title="The student",
        lines=(f"Route: {training['route']}. Teacher: {training['data']['teacher']}.",),
        tables=(table("Parameters, counted", "Who | Parameters# | Share of the teacher's#", *rows),),
        items=tuple(training["explanation"]),
    )


def _examples(found: Any) -> tuple[Section, ...]:
    """Some test rows with what every arm wrote; none for tasks whose answers are labels."""
    tables = []
    for place, example in enumerate(found, 1):
        rows = [("Asked", _cut(example["asked"])), ("Wanted", _cut(example["wanted"]))]
        said = example["answers"]
        rows += [(who, _cut(said[name]) or "nothing") for name, who in WHO.items() if name in said]
        tables.append(table(f"Test row {place}", "Who | What", *rows))
    line = "The first test rows, not chosen: what was asked, the row's own answer, and what each arm wrote."
    return (Section(id="examples", title="Examples", lines=(line,), tables=tuple(tables)),) if tables else ()


def _settings(training: Mapping[str, Any]) -> Section:
    """What would be needed to train the same student again."""
    set_ = [
        (label(name), ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in training["settings"].items()
        if value not in (None, [])
    ]
    around = [("edgedistill", training["version"])]
    around += [(label(name), str(value)) for name, value in training["environment"].items()]
    return Section(
        id="settings",
        title="How it was trained",
        tables=(
            table("Settings of [distill]", "Key | Value", *set_),
            table("Environment", "What | Value", *around),
        ),
    )


def _cut(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]} … (cut here: {len(text):,} characters)"
