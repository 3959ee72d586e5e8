"""The parts of the page that are tables and lines, in the order in which they stand there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgedistill.report import measurements
from edgedistill.report.blocks import KINDS, MISSING, Cell, Section, Table, label, missing, table
from edgedistill.report.figures import SCORE, SPACE, apart, ends, interval, is_exact, number, shown, terms, unit_of
from edgedistill.types import SPLITS, Arm, Contrast, Estimate, Goal, NotMeasured, Report

DISTILLATION = "distillation"
"""The contrast of the student with its control."""

LEFT_OUT = (
    ("left_out", "Test rows left out: not every arm can read them"),
    ("scored_rows", "Test rows whose tokens are compared: every arm writes them in the same pieces"),
    ("unusable", "Training rows without teacher's signals: the student writes them in other tokens"),
)
"""What only students that write have to tell."""

NONE = Cell(text="not part of it", tone="missing")

SENSITIVE = 8
"""Products whose sensitivity is shown."""
_BUDGET = {"latency": ("latency_ms", "ms"), "model_size": ("model_bytes", "bytes"), "memory": ("memory_bytes", "bytes")}


def main_metric(arms: Sequence[Arm]) -> str | None:
    """The metric that the page speaks of: accuracy where there is one, else the first."""
    names = [name for arm in arms for name in arm.metrics]
    return "accuracy" if "accuracy" in names else next(iter(names), None)


def goals(report: Report) -> Section:
    """What was asked for and what came out, one table a kind."""
    tables = []
    for kind in (*KINDS, None):
        rows = [_goal(goal) for goal in report.goals if goal.kind == kind]
        if rows:
            title = f"Predicted for {report.device.place}" if kind == "predicted" else label(kind or MISSING)
            tables.append(table(title, "Goal | Asked# | Found# | Kind! | Held", *rows))
    lines = () if tables else ("No goals were set.",)
    return Section(id="goals", title="Goals", lines=lines, tables=tuple(tables), items=report.remarks)


def arms(arms: Sequence[Arm], contrasts: Sequence[Contrast], *, title: str = "Accuracy") -> Section:
    """Every arm with its intervals, and what the comparisons between arms show."""
    names = list(dict.fromkeys(name for arm in arms for name in arm.metrics))
    units = {name: unit_of(name, (arm.metrics[name] for arm in arms if name in arm.metrics)) for name in names}
    rows = [
        (Cell(text=label(arm.name), note=arm.title), *(_metric(arm.metrics.get(name), units[name]) for name in names))
        for arm in arms
    ]
    heads = tuple(Cell(text=label(name), tone="figure") for name in names)
    caption = f"On the test rows, with 95{SPACE}% intervals, measured"
    tables = [table(caption, "Arm", *rows, heads=heads)] if rows else []
    if contrasts:
        compared = [_contrast(contrast) for contrast in contrasts]
        note = "Paired: both arms answered the same rows, and rows were resampled together."
        caption = f"Compared row by row, with 95{SPACE}% intervals, measured"
        tables.append(table(caption, "Comparison | Estimate# | Reading", *compared, note=note))
    lines = [] if rows else [f"{title} {MISSING}: no arm was evaluated."]
    lines += [plain for contrast in contrasts if (plain := control_line(contrast))]
    return Section(id="accuracy", title=title, lines=tuple(lines), tables=tuple(tables))


def control_line(contrast: Contrast) -> str:
    """The plain sentence about the control, or nothing when the contrast is about something else."""
    found = contrast.estimate
    if contrast.name != DISTILLATION:
        return ""
    if found.low > 0:
        return f"Distillation beat the control by {shown(found, 'points')} ({interval(found, 'points')})."
    shown_range = f"({interval(found, 'points')} points)"
    if found.high < 0:
        return f"The control is better than the distilled student {shown_range}: distillation did not pay here."
    return f"Distillation did not beat the control: no difference shown {shown_range}."


def on_target(report: Report) -> Section:
    """What is known about the board itself: measured there, emulated, or predicted, each in its own table."""
    device = report.device
    tables: list[Table] = []
    for kind in KINDS:
        found = [*report.on_target, *(report.plan.predictions if kind == "predicted" else ())]
        bounds = _bounds(report) if kind != "emulated" else {}
        if made := measurements.kind_table(found, kind, device.place, bounds):
            tables.append(made)
    tables.append(_facts(report))
    lines = []
    if not any(getattr(item, "kind", None) == "measured" for item in report.on_target):
        lines.append(
            f"Nothing here was timed on {device.place} itself: predictions stand in for that, as rough ranges."
        )
    lines += [f"{label(item.name)} {missing(item)}." for item in report.on_target if isinstance(item, NotMeasured)]
    return Section(id="target", title=f"On {device.place}", lines=tuple(lines), tables=tuple(tables))


def export(report: Report) -> Section:
    """The file that ships: its recipe, the steps of the ladder, and whether it answers like the student."""
    found = report.export
    exported = "recipe" in found and "file" in found
    lines = [
        f"Recipe {found['recipe']}, file {found['file']}." if exported else f"{label(MISSING)}: nothing was exported."
    ]
    steps = [
        (
            Cell(text=str(step.get("recipe", "")), note=_in_float(step.get("kept_in_float") or ())),
            number(step["size_bytes"], "bytes") if step.get("size_bytes") else Cell(text=MISSING, tone="missing"),
            label(str(step.get("metric", ""))),
            _drop(step.get("drop")),
            Cell(text="passed", tone="good") if step.get("passed") else Cell(text="failed", tone="bad"),
            str(step.get("reason") or "no reason given"),
        )
        for step in found.get("ladder", ())
    ]
    parity = [(label(str(name)), _value(value)) for name, value in found.get("parity", {}).items()]
    tables = []
    if steps:
        title = "Ladder: recipes tried, smallest first, measured"
        tables.append(table(title, "Recipe | Size# | Metric | Drop# | Gate | Why", *steps))
    if errors := found.get("sensitivity"):
        title = f"Sensitivity: a logit's change when this product alone is quantized, the {SENSITIVE} largest, measured"
        worst = sorted(errors, key=lambda one: -float(one["error"]))[:SENSITIVE]
        tables.append(table(title, "Product | Layer# | Change#", *(_sensitive(one) for one in worst)))
    if faults := found.get("lint"):
        rows = ((str(one["where"]), label(str(one["rule"])), str(one["cost"])) for one in faults)
        tables.append(table("Linter: what the file pays for", "Where | What | Cost", *rows))
    if parity:
        tables.append(table("Parity: the file against the PyTorch student, measured", "What | Found#", *parity))
    else:
        lines.append(f"Parity {MISSING}: the export left no comparison.")
    if app := found.get("app"):
        lines.append(
            f"{app['file']}, {app['size_bytes'] / 1e6:.1f} MB: text in, label out; the same label for each of "
            f"{app['rows']} rows and {app['traps']} texts of many scripts, no probability differs by more than "
            f"{app['max_difference']:.1g}."
        )
    return Section(id="export", title="Export", lines=tuple(lines), tables=tuple(tables))


def _in_float(products: Sequence[str]) -> str:
    """The products that a step of the ladder left in float32."""
    return f"in float32: {', '.join(products)}" if products else ""


def _sensitive(one: Mapping[str, Any]) -> tuple[str | Cell, ...]:
    layer = one.get("layer")
    return str(one["node"]), "" if layer is None else str(layer + 1), _value(one["error"])


def learned(curves: Mapping[str, Sequence[Mapping[str, float]]], arms: Sequence[Arm]) -> Section:
    """What each arm's training came to: its steps, and where every term of its loss began and ended."""
    titles: dict[str, str] = {arm.name: arm.title for arm in arms}
    there = {name: points for name, points in curves.items() if points}
    names = terms(there)
    rows: list[tuple[str | Cell, ...]] = []
    for name, points in sorted(there.items()):
        cells = [ends([point for point in points if term in point], term) for term in names]
        steps = number(points[-1]["step"], "") if points[-1]["step"] < 1000 else f"{points[-1]['step']:,.0f}"
        rows.append((Cell(text=label(name), note=titles.get(name, "")), steps, *(cell or NONE for cell in cells)))
    if not rows:
        return Section(id="training", title="Training", lines=(f"{label(MISSING)}: no curve was logged.",))
    heads = (Cell(text="Steps", tone="figure"), *(Cell(text=label(term), tone="figure") for term in names))
    caption = "Each term of the loss at the first logged step and at the last, measured"
    note = f"The {label(SCORE).lower()} is taken once an epoch; the best epoch's weights win." if SCORE in names else ""
    return Section(id="training", title="Training", tables=(table(caption, "Arm", *rows, heads=heads, note=note),))


def data(found: Mapping[str, Any]) -> Section:
    """Where the rows came from and what happened to them."""
    counts: Mapping[str, Any] = found.get("counts", {})
    names = (*SPLITS, *(name for name in counts if name not in SPLITS))
    splits = [(label(name), _value(counts.get(name))) for name in names]
    facts = [
        (title, _value(found.get(key)))
        for key, title in (
            ("labels", "Labels"),
            ("rejected", "Rows rejected"),
            ("duplicates", "Training duplicates removed"),
            ("leaks", "Training and validation rows removed: a later split has their text"),
        )
    ]
    facts += [(title, _value(found[key])) for key, title in LEFT_OUT if key in found]
    source = (f"Rows from {found['source']}.",) if "source" in found else ()
    tables = [table("Rows by split", "Split | Rows#", *splits), table("Checks", "What | Count#", *facts)]
    if "labelling" in found:
        tables += _labelling(found["labelling"])
    return Section(id="data", title="Data", lines=source, tables=tuple(tables))


def _labelling(ledger: Mapping[str, Any]) -> tuple[Table, Table]:
    """What teachers were asked about the rows, and what they cost."""
    rows = [
        (label(split), *(_value(part[key]) for key in ("decided", "accepted", "rejected", "failed", "kept")))
        for split, part in ledger["splits"].items()
    ]
    teachers = [
        (
            name,
            _value(part["answered"]),
            _value(part["prompt_tokens"]),
            _value(part["completion_tokens"]),
            "price unknown" if part["usd"] is None else f"${part['usd'] + part['lost_usd']:.4g}",
        )
        for name, part in ledger["teachers"].items()
    ]
    return (
        table("Rows labelled by teachers", "Split | Asked# | Accepted# | Rejected# | Failed# | Own answers#", *rows),
        table("What the teachers cost", "Teacher | Answers# | Tokens read# | Tokens written# | Cost#", *teachers),
    )


def built(report: Report) -> Section:
    """Why the plan is what it is, what the build took, and what would be needed to repeat it."""
    stages = [
        (label(name), number(value, "s") if value > 0 else Cell(text="already there", tone="missing"))
        for name, value in report.seconds.items()
    ]
    tables = [table("Time a stage, measured", "Stage | Seconds#", *stages)] if stages else []
    around = [("edgedistill", report.version), ("Created", report.created)]
    around += [(label(name), str(value)) for name, value in report.environment.items()]
    tables.append(table("Environment", "What | Value", *around))
    return Section(id="built", title="How it was built", tables=tuple(tables), items=report.plan.explanation)


def _goal(goal: Goal) -> tuple[str | Cell, ...]:
    sign = "≥" if goal.direction == "at least" else "≤"
    shown = number(goal.asked, goal.unit) if goal.value is None else apart(goal.asked, goal.value, goal.unit)
    asked = f"{sign}{SPACE}{shown}"
    if goal.value is None:
        found = Cell(text=MISSING, tone="missing")
    else:
        found = Cell(text=apart(goal.value, goal.asked, goal.unit))
    held = {True: Cell(text="held", tone="good"), False: Cell(text="missed", tone="bad")}
    unknown = Cell(text="unknown", tone="missing")
    return goal.title, asked, found, goal.kind or MISSING, unknown if goal.held is None else held[goal.held]


def _metric(found: Estimate | None, unit: str) -> Cell:
    if found is None:
        return Cell(text=f"{MISSING}: this arm has no such figure", tone="missing")
    return Cell(text=shown(found, unit), note=interval(found, unit))


def _contrast(contrast: Contrast) -> tuple[str | Cell, ...]:
    found, none = contrast.estimate, 1.0 if contrast.unit == "ratio" else 0.0
    unit = "share" if contrast.unit == "ratio" else "points"
    if found.low <= none <= found.high:
        reading = Cell(text="no difference shown", tone="missing")
    elif found.low > none:
        reading = Cell(text="better", tone="good")
    elif contrast.unit == "ratio":
        reading = Cell(text="below the teacher")
    else:
        reading = Cell(text="lower", tone="bad")
    sure = "exact" if is_exact(found) else interval(found, unit)
    return contrast.title, Cell(text=shown(found, unit), note=sure), reading


def _bounds(report: Report) -> dict[str, str]:
    budget = report.device.budget
    return {name: f"≤{SPACE}{number(budget[key], unit)}" for name, (key, unit) in _BUDGET.items() if key in budget}


def _facts(report: Report) -> Table:
    device = report.device
    read = device.sources.get
    rows: list[tuple[str | Cell, ...]] = [
        ("Cores", str(device.cores), _source(read("cores"))),
        ("Memory for programs", number(device.ram_usable_bytes, "bytes"), _source(read("ram_bytes"))),
        ("Memory bandwidth", number(device.bandwidth_bytes_s, "bytes") + "/s", _source(read("bandwidth_bytes_s"))),
    ]
    for name, fact in device.gops.items():
        value = f"{number(fact.value, '')}{SPACE}GOP/s"
        rows.append((f"{name} arithmetic, one core", value, _source(fact.source, fact.trust)))
    title = "What the predictions rest on: facts of the board"
    return table(title, "Fact | Value# | Where it was read", *rows, note=" ".join(device.notes))


def _source(text: str | None, trust: str = "source") -> Cell:
    if text is None or trust == "assumed":
        return Cell(text="assumed", note=text or "our own choice", tone="missing")
    return Cell(text=text)


def _drop(value: object) -> str | Cell:
    if isinstance(value, int | float):
        return number(value, "share")
    return Cell(text=MISSING, tone="missing")


def _value(value: object) -> str | Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return Cell(text=f"{MISSING}: not recorded", tone="missing") if value is None else str(value)
