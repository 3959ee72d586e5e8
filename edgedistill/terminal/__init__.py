"""What the command line shows: one line a stage while a build runs (`Lines`), tables afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgedistill.report import figures
from edgedistill.report.blocks import label
from edgedistill.terminal.lines import Lines as Lines  # for whoever shows tables, too
from edgedistill.terminal.tables import table_of as _table
from edgedistill.terminal.tables import value_of as _value
from edgedistill.types import Device, NotMeasured, Plan, PredictedMeasurement, TrainingPlan

if TYPE_CHECKING:
    from edgedistill.checkup import Finding
    from edgedistill.evaluate.judge import Judged
    from edgedistill.labeling.estimate import Forecast
    from edgedistill.pipeline import Made

MANY_LABELS = 12


def verdict(report: Mapping[str, Any]) -> list[RenderableType]:
    """The goals of a report and what came out, after a table of the arms."""
    (arms,) = _arms(report["arms"])
    goals = _table(f"{report['name']} on {report['device']['title']}", "goal", "asked", "found", "kind", "held")
    for goal in report["goals"]:
        sign = "≥" if goal["direction"] == "at least" else "≤"
        held = {True: Text("yes", "green"), False: Text("no", "bold red"), None: Text("not measured", "yellow")}
        # Each with the digits that set it apart from the other: a goal that is missed never looks as if it was met.
        asked, value, unit = goal["asked"], goal["value"], goal["unit"]
        goals.add_row(
            goal["title"],
            f"{sign} {figures.number(asked, unit) if value is None else figures.apart(asked, value, unit)}",
            "" if value is None else figures.apart(value, asked, unit),
            goal["kind"] or "",
            held[goal["held"]],
        )
    return [arms, goals, *(Text(f"note: {remark}") for remark in report["remarks"])]


def training_tables(training: Mapping[str, Any]) -> list[RenderableType]:
    """How the arms of a training do on the test rows, and what the student is made of."""
    student, teacher = (training["parameters"].get(who, 0) / 1e6 for who in ("student", "teacher"))
    share = f" of the teacher's {teacher:.1f} M ({student / teacher:.0%})" if teacher else ""
    return [
        *(Text(line) for line in training["explanation"]),
        Text(f"parameters: {student:.1f} M{share}"),
        *arms_tables(training["arms"], training["contrasts"]),
    ]


def arms_tables(arms: Sequence[Mapping[str, Any]], contrasts: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """The metrics of every arm, and how they compare row by row."""
    compared = _table("compared row by row", "comparison", "found", "95 % interval")
    for contrast in contrasts:
        found = contrast["estimate"]
        value, low, high = (_contrast(found[key], contrast["unit"]) for key in ("value", "low", "high"))
        compared.add_row(contrast["title"], value, f"{low} to {high}")
    return [*_arms(arms), *([compared] if contrasts else [])]


def judge_table(judged: Judged) -> list[RenderableType]:
    """What a blind judge makes of the answers, and how far its word goes."""
    table = _table("blind judge, both orders", "the student's answer", "share of rows", "95 % interval")
    for title, found in (("wins", judged.wins), ("ties", judged.ties), ("loses", judged.losses)):
        table.add_row(title, f"{found.value:.1%}", f"{found.low:.1%} to {found.high:.1%}")
    lead = judged.lead
    table.add_row("wins − losses", f"{lead.value:+.1%}", f"{lead.low:+.1%} to {lead.high:+.1%}")
    rows = sum(outcome is not None for outcome in judged.outcomes)
    notes = [f"{rows} rows judged; {judged.swapped} verdicts changed with the position, and count as ties"]
    if judged.position_bias is not None:
        notes.append(f"{judged.position_bias:.0%} of the verdicts that name a winner name the first answer")
    if judged.unparsable or judged.failed:
        notes.append(f"{judged.unparsable} replies hold no verdict, {judged.failed} requests failed")
    return [table, *(Text(note) for note in notes)]


def _arms(arms: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    names = list(dict.fromkeys(name for arm in arms for name in arm["metrics"]))
    if names[:1] == ["accuracy"]:  # the one that is asked for; the report has the others
        names = names[:1]
    tables: list[RenderableType] = []
    for name in names:
        table = _table(f"{label(name)} on the test rows", "arm", label(name), "95 % interval")
        for arm in arms:
            if (found := arm["metrics"].get(name)) is not None:
                value, low, high = (_metric(name, found[key]) for key in ("value", "low", "high"))
                table.add_row(arm["title"], value, f"{low} to {high}")
        tables.append(table)
    return tables


def _metric(name: str, value: float) -> str:
    return f"{value:.3f} nats" if name in figures.NATS else f"{value:.2%}"


def _contrast(value: float, unit: str) -> str:
    return f"{value:.1%}" if unit == "ratio" else f"{value:+.2f}"


def plan_tables(made: Plan | TrainingPlan) -> list[RenderableType]:
    """What a plan chose, what it should cost, and why."""
    return _training_plan(made) if isinstance(made, TrainingPlan) else _build_plan(made)


def _training_plan(made: TrainingPlan) -> list[RenderableType]:
    table = _table(f"a student for {made.task}, route {made.route}", "what", "how much")
    student, teacher = made.parameters["student"], made.parameters.get("teacher")
    share = f", {student / teacher:.0%} of the teacher's {teacher / 1e6:.1f} M" if teacher else ""
    table.add_row("parameters", f"{student / 1e6:.1f} M{share}")
    available = _value(made.available_bytes, "bytes")
    table.add_row("memory for training", f"{_value(made.memory_bytes, 'bytes')} of {available}")
    table.add_row("training rows", f"{made.rows:,}")
    table.add_row("steps, about", f"{made.steps:,}")
    if made.signal_bytes:
        table.add_row("teacher's signals on disk, about", _value(made.signal_bytes, "bytes"))
    board = [_predictions("predicted on the board", made.predictions)] if made.predictions else []
    return [Text(f"teacher: {made.teacher}"), *(Text(line) for line in made.explanation), table, *board]


def _build_plan(made: Plan) -> list[RenderableType]:
    return [
        Text(f"target: {made.device.title} ({made.device.name})"),
        *(Text(line) for line in made.explanation),
        _predictions(f"predicted on {made.device.title}", made.predictions),
    ]


def _predictions(title: str, predictions: Sequence[PredictedMeasurement]) -> Table:
    """Figures with their ranges; where some are intervals and some rough, each says which it is."""
    kinds = list(dict.fromkeys(found.called for found in predictions))
    mixed = len(kinds) > 1
    numbers = _table(title, "figure", "value", *(("range", "which is a") if mixed else kinds))
    for found in predictions:
        low, high = found.interval or (found.median, found.median)
        low_shown = f"{low:.3g}" if found.unit != "bytes" and low < 1000 else _value(low, found.unit)
        cells = (_figure(found.name), _value(found.median, found.unit), f"{low_shown} to {_value(high, found.unit)}")
        numbers.add_row(*cells, *((found.called,) if mixed else ()))
    return numbers


def _figure(name: str) -> str:
    """A prediction's name for people: decode@256 is writing behind a prompt of 256 tokens."""
    what, _, tokens = name.partition("@")
    titles = {"decode": "writing", "prefill": "reading", "first_token": "first token"}
    return f"{titles.get(what, what)}, prompt of {tokens}" if tokens else name.replace("_", " ")


def export_tables(made: Made) -> list[RenderableType]:
    """The files that were made of a checkpoint, what came of the chosen one, and whether it fits the board."""
    speed = "tokens/s here" if made.kind in ("decoder", "text-to-text") else "ms a text here"
    timed = any(one.speed is not None for one in made.candidates)
    columns = ("recipe", "file", made.metric, *((speed,) if timed else ()), "holds")
    table = _table(None, *columns)
    for one in made.candidates:
        cells: list[RenderableType] = [
            Text(one.recipe, "bold" if one.best or one.recipe == made.recipe else ""),
            "" if one.size_bytes is None else _value(one.size_bytes, "bytes"),
            "" if one.quality is None else f"{one.quality:.2%}",
        ]
        if timed:
            cells.append("" if one.speed is None else figures.number(one.speed, ""))
        holds = Text("yes", "green") if one.passed else Text("no", "red")
        table.add_row(*cells, Text("best", "bold green") if one.best else holds)
    fit = made.fit
    said = [f"The checkpoint has {made.reference:.2%}. {made.recipe} is chosen: the first that holds."]
    said += [f"{one.recipe} does not hold: {one.reason}." for one in made.candidates if not one.passed]
    if timed:
        said.append(
            "best: no other file that holds is as small, as good and as fast. Timed here, with one thread; speeds "
            "whose 95 % intervals overlap count as equal."
        )
    here = "" if fit.measured is None else f", {_value(fit.measured, 'bytes')} measured here"
    parts = ", ".join(f"{name} {_value(value, 'bytes')}" for name, value in fit.parts.items())
    said.append(f"Memory: {_value(fit.memory, 'bytes')} predicted ({parts}){here}.")
    if made.latency is not None and made.latency.interval is not None:
        low, high = made.latency.interval
        said.append(f"Latency predicted for the board: {low:.2g} to {high:.2g} ms a text, one thread.")
    if made.writing.measurements:
        shown: dict[str, list[str]] = {}
        for cost in made.writing.measurements:
            low, high = cost.interval or (cost.median, cost.median)
            if cost.name != "memory":  # said above
                spread = f"{_figure(cost.name)} {_value(low, cost.unit)} to {_value(high, cost.unit)}"
                shown.setdefault(cost.called, []).append(spread)
        said += [f"Predicted for the board, as {called}s: {'; '.join(costs)}." for called, costs in shown.items()]
    said += [f"{line[:1].upper()}{line[1:]}." for line in made.writing.why]
    if made.app is not None:
        said.append(
            f"{made.app.file}, {_value(made.app.size_bytes, 'bytes')}: text in, label out. The same label for each of "
            f"{made.app.rows} rows and {made.app.traps} texts of many scripts; no probability differs by more than "
            f"{made.app.max_difference:.1g}."
        )
    said += made.notes
    for found in made.on_target:
        if isinstance(found, NotMeasured):
            said.append(f"Not emulated: {found.reason}" + (f"; {found.remedy}" if found.remedy else "") + ".")
        elif found.name == "answers_equal":
            said.append(f"Under the board's instruction set {found.median:.1%} of its answers are the same.")
        elif found.name == "tokens_equal":
            said.append(f"Of their tokens {found.median:.1%} are, up to where two answers part.")
        elif found.name == "parts_at_token":
            said.append(f"The first that differs does so at token {min(found.values):.0f}, counted from 0.")
        elif found.name == "logits_apart_where_parted":
            said.append(f"Where two part, this machine preferred its token by {max(found.values):.2g} logits at most.")
    said += [f"{found['where']}: {found['cost']}" for found in made.lint if found["severity"] in ("warning", "cost")]
    title = Text(f"{made.bundle.name}: {made.metric} on {made.judged_on}", "bold")  # may be wider than the table
    return [Text(), title, table, *map(Text, said)]


def targets_table(devices: Iterable[Device]) -> Table:
    """Every board in one line."""
    table = _table("targets", "name", "board", "usable RAM", "int8 a core", "engine")
    for device in devices:
        table.add_row(
            device.name,
            f"{device.title.split(' (')[0]}{also(device.aliases)}",
            _value(device.ram_usable_bytes, "bytes"),
            f"{device.gops['int8'].value:g} GOP/s",
            ", ".join(device.engines) or "none",
        )
    return table


def also(aliases: Sequence[str]) -> str:
    """The other names of a board, for behind its title."""
    return f" (also {', '.join(aliases)})" if aliases else ""


def device_tables(device: Device) -> list[RenderableType]:
    """One board with the sources of its facts."""
    table = _table(f"{device.title} ({device.name})", "fact", "value", "where it was read")
    facts = {
        "isa": " ".join(device.isa),
        "cores": str(device.cores),
        "ram_bytes": _value(device.ram_bytes, "bytes"),
        "ram_usable_bytes": _value(device.ram_usable_bytes, "bytes"),
        "storage_bytes": _value(device.storage_bytes, "bytes"),
        "bandwidth_bytes_s": f"{device.bandwidth_bytes_s / 1e9:g} GB/s",
        "engines": ", ".join(device.engines) or "none",
    }
    if device.storage_bandwidth_bytes_s is not None:
        facts["storage_bandwidth_bytes_s"] = f"{device.storage_bandwidth_bytes_s / 1e9:g} GB/s"
    for name, value in facts.items():
        table.add_row(name, value, device.sources.get(name, "our choice"))
    for name, fact in device.gops.items():
        table.add_row(f"gops.{name}", f"{fact.value:g} GOP/s a core", f"{fact.source} ({fact.trust})")
    for name, limit in device.budget.items():
        name_of, _, unit = name.rpartition("_")
        table.add_row(f"budget.{name_of}", _value(limit, unit), device.sources.get("budget", "our choice"))
    return [table, *(Text(f"note: {note}") for note in device.notes)]


def doctor_table(findings: Sequence[Finding]) -> Table:
    """What is installed and what is not."""
    table = _table("doctor", "what", "found", "state", "remedy")
    for finding in findings:
        state = Text("ok", "green") if finding.ok else Text("missing", "red" if finding.needed else "yellow")
        table.add_row(finding.what, finding.found, state, "" if finding.ok else finding.remedy)
    return table


def ledger_tables(ledger: Mapping[str, Any]) -> list[RenderableType]:
    """What became of the rows of a labelling run, why rows were refused, and what the teachers cost."""
    rows = _table(f"rows labelled for {ledger['task']}", "split", "asked", "accepted", "share", "own answers", "agrees")
    for split, found in ledger["splits"].items():
        share = f"{found['accepted'] / found['decided']:.1%}" if found["decided"] else ""
        agrees = "" if found["agreement"] is None else f"{found['agreement']:.1%} of {found['compared']}"
        rows.add_row(split, str(found["decided"]), str(found["accepted"]), share, str(found["kept"]), agrees)
    reasons = _table("not accepted", "why", "rows", "for example")
    for found in ledger["splits"].values():
        for reason, count in found["reasons"].items():
            reasons.add_row(reason, str(count), found["examples"][reason])
    for reason in ("duplicates", "leaks", "unusable"):
        if ledger[reason]:
            reasons.add_row(reason, str(ledger[reason]), "never asked about; see rejected.jsonl")
    teachers = _table("teachers", "teacher", "answered", "new now", "tokens in", "tokens out", "cost", "form enforced")
    for name, found in ledger["teachers"].items():
        cost = "price unknown" if found["usd"] is None else f"${found['usd']:.4g}"
        lost = f" + up to ${found['lost_usd']:.4g} lost" if found["lost_usd"] else ""
        teachers.add_row(
            name,
            str(found["answered"]),
            str(found["asked_now"]),
            f"{found['prompt_tokens']:,}",
            f"{found['completion_tokens']:,}",
            cost + lost,
            "yes" if found["enforces_form"] else "no",
        )
    signals = [Text(f"note: {found['signal']}") for found in ledger["teachers"].values()]
    signals += _label_notes(ledger)
    return [rows, *([reasons] if reasons.row_count else []), teachers, *signals]


def _label_notes(ledger: Mapping[str, Any]) -> list[Text]:
    """What looks like a mistake in the rows or the settings."""
    notes = [
        Text(f"note: the rows of {split} got the labels " + ", ".join(f"{k} {n}" for k, n in found["labels"].items()))
        for split, found in ledger["splits"].items()
        if found["labels"] and len(found["labels"]) <= MANY_LABELS
    ]
    given = {label for found in ledger["splits"].values() for label in found["labels"]}
    if given and ledger["labels"] > len(given):
        notes.append(
            Text(f"note: {ledger['labels'] - len(given)} of {ledger['labels']} labels were never given", "yellow")
        )
    if ledger["other_fields"]:
        names = ", ".join(ledger["other_fields"])
        notes.append(
            Text(
                f"note: no row has an answer, but they have the fields {names}: if one is it, say so under [data]",
                "yellow",
            )
        )
    return notes


def forecast_table(forecasts: Sequence[Forecast], budget: float | None) -> list[RenderableType]:
    """What a labelling run would ask and cost."""
    table = _table("estimate: nothing was asked", "teacher", "requests", "known", "tokens in", "tokens out", "cost")
    notes = []
    for found in forecasts:
        cost = "price unknown" if found.usd is None else f"${found.usd[0]:.4g} to ${found.usd[1]:.4g}"
        table.add_row(
            found.teacher,
            f"{found.requests:,}",
            f"{found.known:,}",
            "{:,} to {:,}".format(*found.prompt_tokens),
            "{:,} to {:,}".format(*found.answer_tokens),
            cost,
        )
        notes += [Text(f"note: {found.signal}"), Text(f"note: tokens of {found.teacher} are reckoned {found.basis}")]
    most = sum(found.usd[1] for found in forecasts if found.usd is not None)
    if budget is not None and most > budget:
        notes.append(Text(f"note: this may exceed the budget of ${budget:g}; the run stops before it does", "yellow"))
    return [table, *notes]
