"""Every command of edgedistill: parse, call, print. The only file that prints or ends the program."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedistill import __version__
from edgedistill.errors import BudgetMissed, EdgeDistillError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from edgedistill.config import Request

app = typer.Typer(
    help="From rows and a teacher to a proven model on a small device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
targets_app = typer.Typer(help="List the boards that can be built for, or show one.", invoke_without_command=True)
app.add_typer(targets_app, name="targets")

PIPED_WIDTH = 140

ConfigFile = Annotated[Path | None, typer.Option("--config", help="Read this file instead of ./edgedistill.toml.")]
Target = Annotated[str | None, typer.Option(help="The board to build for; see edgedistill targets.")]
Teacher = Annotated[str | None, typer.Option(help="The model to learn from: a folder, or a name on the hub.")]
Task = Annotated[str | None, typer.Option(help="What the rows are: classification, nli, qa, math, …")]
Data = Annotated[str | None, typer.Option(help="A folder with train.jsonl and test.jsonl, or one file to split.")]
Out = Annotated[Path | None, typer.Option(help="Where bundle and report go (default: dist).")]
Seed = Annotated[int | None, typer.Option(help="Of splits and training (default: 0).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


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

    request = _request(config, target, teacher, data, out, seed)
    with Lines(quiet=as_json) as lines:
        built = pipeline.build(request, lines, fresh=fresh)
    if as_json:
        _print_json(built.report | {"bundle": str(built.bundle), "page": str(built.page), "changed": built.changed})
    else:
        _show(verdict(built.report))
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

    request = _request(config, target, teacher, data, out, seed, task)
    follows = process_rank() > 0
    if fresh and "WORLD_SIZE" in os.environ:
        raise InputError("--fresh does not work in several processes", hint="remove the folder .edgedistill instead")
    with Lines(quiet=as_json or follows) as lines:
        done = pipeline.distill(request, lines, fresh=fresh)
    if follows:
        return
    if as_json:
        _print_json(done.training | {"student": str(done.folder), "changed": done.changed})
    else:
        _show(training_tables(done.training))
        print(f"student  {done.folder}{os.sep}" + ("" if done.changed else "   (nothing has changed)"))


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

    request = _request(config, None, None, data, None, None, task)
    with Lines(quiet=as_json) as lines:
        found = pipeline.evaluate(request, checkpoint, against=against, rows=rows, watch=lines)
    plain = {"arms": [asdict(arm) for arm in found.arms], "contrasts": [asdict(c) for c in found.contrasts]}
    if as_json:
        judged = {} if found.judged is None else {"judged": asdict(found.judged)}
        _print_json(plain | {"rows": found.rows, "left_out": list(found.left_out)} | judged)
    else:
        _show(arms_tables(plain["arms"], plain["contrasts"]))
        if found.judged is not None:
            _show(judge_table(found.judged))
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

    request = _request(config, target, teacher, data, out, seed, task)
    with Lines(quiet=True) as lines:
        made = pipeline.plan(request, lines)
    if as_json:
        _print_json(asdict(made))
    else:
        _show(plan_tables(made))


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
            _print_json([asdict(forecast) for forecast in forecasts])
        else:
            _show(forecast_table(forecasts, request.label.budget))
        return
    with Lines(quiet=as_json) as lines:
        done = stage.label(request, lines)
    if as_json:
        _print_json({"folder": str(done.folder), "complete": done.complete, **done.ledger})
    else:
        _show(ledger_tables(done.ledger))
        print(f"rows  {done.folder}{os.sep}")
    if not done.complete:
        raise stage.shortfall(done, request.label)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")] = Path(),
) -> None:
    """Write a commented edgedistill.toml to start from."""
    from edgedistill.config import FILE, TEMPLATE

    path = folder / FILE
    if path.exists():
        raise InputError(f"{path} exists already", hint="edit it, or move it away")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", hint="make it first")
    path.write_bytes(TEMPLATE.read_bytes())
    print(f"wrote {path}; point [data] folder at your rows, then run edgedistill plan")


@targets_app.callback()
def targets(context: typer.Context, as_json: AsJson = False) -> None:
    """List the boards that can be built for."""
    from dataclasses import asdict

    from edgedistill import catalog
    from edgedistill.terminal import targets_table

    if context.invoked_subcommand is None:
        found = catalog.devices()
        if as_json:
            _print_json({device.name: asdict(device) for device in found})
        else:
            _show([targets_table(found)])


@targets_app.command()
def show(name: str, as_json: AsJson = False) -> None:
    """Show one board: what is known about it, and where that was read."""
    from dataclasses import asdict

    from edgedistill import catalog
    from edgedistill.terminal import device_tables

    device = catalog.device(name)
    if as_json:
        _print_json(asdict(device))
    else:
        _show(device_tables(device))


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle that edgedistill build made.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Measure a bundle on this machine: latency, cold start, throughput, memory."""
    from dataclasses import asdict

    from edgedistill.bench import alone
    from edgedistill.bundle import manifest
    from edgedistill.terminal import Lines, subject_table

    threads = manifest.read(bundle).manifest["engine"]["threads"]
    with Lines(quiet=as_json) as lines:
        subject = alone.bench(bundle, data, threads=threads, progress=lines.begin("bench"))
    if as_json:
        _print_json(asdict(subject))
    else:
        _show([subject_table(subject)])


@app.command()
def report(
    target: Target = None, data: Data = None, out: Out = None, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Show what the last build found out."""
    from edgedistill.terminal import verdict

    request = _request(config, target, None, data, out, None)
    page = request.out / f"{request.name}-{request.target}.html"
    try:
        found = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"there is no report {page}", hint="run edgedistill build first") from error
    if as_json:
        _print_json(found)
    else:
        _show(verdict(found))
        print(f"report  {page}")


@app.command()
def verify(bundle: Annotated[Path, typer.Argument(help="The folder of a bundle.")]) -> None:
    """Check every byte of a bundle against its manifest."""
    from edgedistill.bundle import manifest

    found = manifest.verify(bundle).manifest
    print(f"{bundle} is as it was built: {len(found['files'])} files, digest {found['digest'][:16]}")


@app.command()
def doctor(
    install_emulation: Annotated[
        bool, typer.Option("--install-emulation", help="Set up arm64 emulation (on Debian 12, 230 MB).")
    ] = False,
) -> None:
    """Say what is installed here, what is not, and how to get it."""
    from edgedistill import checkup
    from edgedistill.links import emulated
    from edgedistill.terminal import doctor_table

    if install_emulation:
        print(f"arm64 root ready in {emulated.install()}")
    findings = checkup.findings()
    _show([doctor_table(findings)])
    if any(finding.needed and not finding.ok for finding in findings):
        raise EdgeDistillError("something that every build needs is missing")


def _version(asked: bool) -> None:
    if asked:
        print(f"edgedistill {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """From rows and a teacher to a proven model on a small device."""


def _show(parts: Iterable[RenderableType]) -> None:
    """Prints tables and texts on the terminal."""
    from rich.console import Console

    # Into a file or a pipe, lines are as long as they need to be.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    for part in parts:
        console.print(part)


def _request(
    config: Path | None,
    target: str | None,
    teacher: str | None,
    data: str | None,
    out: Path | None,
    seed: int | None,
    task: str | None = None,
) -> Request:
    from edgedistill.config import read_request

    return read_request(config, target=target, teacher=teacher, data=data, out=out, seed=seed, task=task)


def _print_json(content: Any) -> None:
    print(json.dumps(content, default=str, ensure_ascii=False, allow_nan=False))


def main() -> None:
    """Runs the command line and turns errors into one message and an exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except EdgeDistillError as error:
        print(f"edgedistill: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  what to do: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)


def _stop(number: int, _: Any) -> None:
    print("\nedgedistill: stopped; the same command goes on from here", file=sys.stderr)
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
