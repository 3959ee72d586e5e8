"""The commands that make a student or judge one: build, distill, export, evaluate, plan, label, report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from edgedistill.cli.options import (
    AsJson,
    ConfigFile,
    Data,
    Out,
    Seed,
    Target,
    Task,
    Teacher,
    print_json,
    request_of,
    show,
)
from edgedistill.errors import BudgetMissed, InputError

app = typer.Typer()


@app.command()
def build(
    target: Target = None,
    teacher: Teacher = None,
    data: Data = None,
    out: Out = None,
    seed: Seed = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do every stage again.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Distil, export, measure and bundle a model for a board; go on where an earlier build stopped."""
    from edgedistill import pipeline
    from edgedistill.terminal import Lines, verdict

    request = request_of(config, target, teacher, data, out, seed)
    with Lines(quiet=as_json) as lines:
        built = pipeline.build(request, lines, fresh=fresh)
    if as_json:
        print_json(built.report | {"bundle": str(built.bundle), "page": str(built.page), "changed": built.changed})
    else:
        show(verdict(built.report))
        print(
            f"bundle  {built.bundle}{os.sep}" + ("" if built.changed else "   (nothing has changed since it was built)")
        )
        print(f"report  {built.page}")
    if built.missed:
        raise BudgetMissed(
            "missed: " + "; ".join(goal["title"] for goal in built.missed), hint="see the report for why"
        )


@app.command()
def distill(
    task: Task = None,
    target: Target = None,
    teacher: Teacher = None,
    data: Data = None,
    out: Out = None,
    seed: Seed = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do every stage again.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Train a student from a teacher and compare them, without exporting it; go on where an earlier run stopped."""
    from edgedistill import pipeline
    from edgedistill.store import process_rank
    from edgedistill.terminal import Lines, training_tables

    request = request_of(config, target, teacher, data, out, seed, task)
    follows = process_rank() > 0
    if fresh and "WORLD_SIZE" in os.environ:
        raise InputError("--fresh does not work in several processes", hint="remove the folder .edgedistill instead")
    with Lines(quiet=as_json or follows) as lines:
        done = pipeline.distill(request, lines, fresh=fresh)
    if follows:
        return
    if as_json:
        print_json(done.training | {"student": str(done.folder), "changed": done.changed})
    else:
        show(training_tables(done.training))
        print(f"student  {done.folder}{os.sep}" + ("" if done.changed else "   (nothing has changed)"))


@app.command()
def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A student, or any classifier, question answerer, decoder, T5 or BART: a folder, or a name on the hub."
        ),
    ],
    target: Target = None,
    recipe: Annotated[
        str | None, typer.Option(help="Try this recipe first, and only safer ones after it (default: the smallest).")
    ] = None,
    all_recipes: Annotated[
        bool,
        typer.Option("--all", help="Make and time the files of all recipes that suit the board, and compare them."),
    ] = False,
    context: Annotated[int | None, typer.Option(min=64, help="Tokens that a decoder keeps in memory at most.")] = None,
    app_form: Annotated[
        bool, typer.Option("--app", help="Write app.onnx too: text in, label out; for classifiers of single texts.")
    ] = False,
    task: Task = None,
    data: Data = None,
    out: Out = None,
    seed: Seed = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint into the smallest file for a board that still answers like it, in a bundle that runs."""
    from edgedistill import pipeline
    from edgedistill.terminal import Lines, export_tables

    request = request_of(config, target, None, data, out, seed, task)
    asked: dict[str, Any] = {"app": app_form or request.export.app, "recipe": recipe or request.export.recipe}
    request = request.model_copy(update={"export": request.export.model_copy(update=asked)})
    with Lines(quiet=as_json) as lines:
        made = pipeline.export(request, checkpoint, all_recipes=all_recipes, context=context, watch=lines)
    if as_json:
        print_json(pipeline.record(made) | {"bundle": str(made.bundle)})
    else:
        show(export_tables(made))
        print(f"bundle  {made.bundle}{os.sep}")


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="The folder of a student, or of any checkpoint.")],
    against: Annotated[
        Path | None, typer.Option(help="The folder of its teacher, to compare it with; [judge] says who judges both.")
    ] = None,
    task: Task = None,
    data: Data = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Take this many test rows (default: all).")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say how good a checkpoint is on the test rows, with intervals."""
    from dataclasses import asdict

    from edgedistill import pipeline
    from edgedistill.terminal import Lines, arms_tables, judge_table

    request = request_of(config, None, None, data, None, None, task)
    with Lines(quiet=as_json) as lines:
        found = pipeline.evaluate(request, checkpoint, against=against, rows=rows, watch=lines)
    plain = {"arms": [asdict(arm) for arm in found.arms], "contrasts": [asdict(c) for c in found.contrasts]}
    if as_json:
        judged = {} if found.judged is None else {"judged": asdict(found.judged)}
        print_json(plain | {"rows": found.rows, "left_out": list(found.left_out)} | judged)
    else:
        show(arms_tables(plain["arms"], plain["contrasts"]))
        if found.judged is not None:
            show(judge_table(found.judged))
        print(f"{found.rows} test rows" + (f", {len(found.left_out)} left out" if found.left_out else ""))


@app.command()
def plan(
    task: Task = None,
    target: Target = None,
    teacher: Teacher = None,
    data: Data = None,
    out: Out = None,
    seed: Seed = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what would be built or trained, how big and how fast it would be, and why, without doing it."""
    from dataclasses import asdict

    from edgedistill import pipeline
    from edgedistill.terminal import Lines, plan_tables

    request = request_of(config, target, teacher, data, out, seed, task)
    with Lines(quiet=True) as lines:
        made = pipeline.plan(request, lines)
    if as_json:
        print_json(asdict(made))
    else:
        show(plan_tables(made))


@app.command()
def label(
    task: Task = None,
    data: Data = None,
    teacher: Annotated[
        str | None, typer.Option(help="A .gguf file or a checkpoint's folder; endpoints go into edgedistill.toml.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="How many accepted rows are wanted (default: all).")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="USD that the run may spend, over all its parts.")] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what it would cost; ask nothing.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Ask from this many Ray workers.")] = None,
    relabel: Annotated[bool, typer.Option("--relabel", help="Ask also about rows that have an answer.")] = False,
    out: Out = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Have a teacher answer the rows that have no answer; go on where an earlier run stopped, paying nothing twice."""
    from dataclasses import asdict

    from edgedistill.config import read_request
    from edgedistill.labeling import stage
    from edgedistill.teachers.choose import kind_of
    from edgedistill.terminal import Lines, forecast_table, ledger_tables

    flags: dict[str, Any] = {"rows": rows, "budget": budget, "relabel": relabel or None, "workers": workers}
    if teacher is not None:
        flags["teachers"] = [{"kind": kind_of(teacher), "model": teacher}]
    request = read_request(config, task=task, data=data, out=out, label=flags)
    if estimate:
        with Lines(quiet=as_json) as lines:
            forecasts = stage.estimate(request, lines)
        if as_json:
            print_json([asdict(forecast) for forecast in forecasts])
        else:
            show(forecast_table(forecasts, request.label.budget))
        return
    with Lines(quiet=as_json) as lines:
        done = stage.label(request, lines)
    if as_json:
        print_json({"folder": str(done.folder), "complete": done.complete, **done.ledger})
    else:
        show(ledger_tables(done.ledger))
        print(f"rows  {done.folder}{os.sep}")
    if not done.complete:
        raise stage.shortfall(done, request.label)


@app.command()
def report(
    target: Target = None, data: Data = None, out: Out = None, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Show what the last build found out."""
    from edgedistill.terminal import verdict

    request = request_of(config, target, None, data, out, None)
    page = request.out / f"{request.name}-{request.target}.html"
    try:
        found = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"there is no report {page}", hint="run edgedistill build first") from error
    if as_json:
        print_json(found)
    else:
        show(verdict(found))
        print(f"report  {page}")
        if (twin := page.with_suffix(".md")).is_file():
            print(f"        {twin}")
