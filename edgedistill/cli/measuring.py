"""The commands that measure: bench, compare."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedistill.cli.options import AsJson, Data, print_json, show
from edgedistill.cli.stopping import check
from edgedistill.errors import BudgetMissed, InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.pipeline.benching import Benched
    from edgedistill.types import Comparison

app = typer.Typer()

SILENT = "NOTHING THAT WAS MEASURED WAS COMPARED: whether the bundle became worse is unknown"
NO_TIME = "NO TIME WAS COMPARED: whether the bundle became slower is unknown"

On = Annotated[
    list[str] | None,
    typer.Option(
        help="A device: local, ssh://user@host, adb://serial, emulated://cortex-a72, browser://; once for each "
        "(default: local)."
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Status 3, too, where a figure of the bundle cannot be compared.")
]


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle that edgedistill build or export made.")],
    on: On = None,
    data: Data = None,
    teacher: Annotated[
        str | None, typer.Option(help="Measure this checkpoint beside it, in PyTorch and as a bundle.")
    ] = None,
    mlperf: Annotated[bool, typer.Option("--mlperf", help="MLPerf LoadGen's scenarios, too, on this machine.")] = False,
    against: Annotated[Path | None, typer.Option(help="Compare with this earlier result; status 3 if worse.")] = None,
    strict: Strict = False,
    workload: Annotated[
        str | None, typer.Option(help="Of benchmarks/workloads (default: by the bundle's task).")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Fresh processes that are timed; a comparison needs 3 (default: 5).")
    ] = None,
    within: Annotated[
        float | None, typer.Option(min=0.001, max=0.5, help="Half width of the median's interval (default: 0.02).")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the engine (default: as --against had, or the fastest of 1, 2, 4 …).")
    ] = None,
    write_threads: Annotated[
        bool | None,
        typer.Option(
            "--write-threads/--no-write-threads",
            help="Write the best number of threads into the bundle (default: only from the board it was built for).",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder that the result goes to (default: beside the bundle).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a bundle on this machine and on others: latency, throughput, starts, memory, answers."""
    from dataclasses import asdict

    from edgedistill.bench.stopped import Stopped
    from edgedistill.pipeline.benching import Benching
    from edgedistill.pipeline.benching import bench as run
    from edgedistill.terminal import Lines
    from edgedistill.terminal.benches import comparison_tables, result_tables

    if strict and against is None:
        raise InputError("--strict is about a comparison", hint="name an earlier result with --against")
    asked = Benching(
        on=tuple(on or ("local",)),
        data=data,
        teacher=teacher,
        mlperf=mlperf,
        against=against,
        workload=workload,
        rounds=rounds,
        within=within,
        threads=threads,
        write_threads=write_threads,
        out=out,
    )
    try:
        with Lines(quiet=as_json, step=check) as lines:
            done = run(bundle, asked, watch=lines)
    except Stopped as stopped:
        kept = stopped.kept
        files = "nothing was taken yet" if kept is None else f"kept    {kept}\nreport  {kept.with_suffix('.html')}"
        with contextlib.suppress(OSError):  # who read it may have been stopped as well
            print(files, file=sys.stderr)
        raise SystemExit(stopped.code) from stopped
    if as_json:
        print_json(asdict(done.result) | _told(done.comparisons))
    else:
        show([*result_tables(done.result), *(comparison_tables(done.comparisons) if done.comparisons else ())])
        print(f"result  {done.page.with_suffix('.json')}\nreport  {done.page}")
        if done.before is not None:
            print(f"before  {done.before}")
    failed = _failed(done)
    if against is not None:
        try:
            _judge(done.comparisons, strict=strict, quiet=as_json)
        except BudgetMissed as missed:
            said = missed.message if failed is None else f"{missed.message}; {failed.message}"
            raise BudgetMissed(said, hint=missed.hint) from None
    if failed is not None:
        raise failed


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="The earlier result.")],
    b: Annotated[Path, typer.Argument(help="The later result.")],
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Say whether a result is slower, larger or less right than an earlier one; status 3 if it is."""
    from edgedistill.bench import compare as comparing
    from edgedistill.bench import results
    from edgedistill.terminal.benches import compared_tables, comparison_tables

    first, second = results.read(a), results.read(b)
    found = comparing.compare(first, second)
    if as_json:
        print_json(_told(found))
    else:
        show([*compared_tables(first, second), *comparison_tables(found)])
    _judge(found, strict=strict, quiet=as_json)


def _failed(done: Benched) -> StageError | None:
    """What the command ends with where a device could not be measured."""
    if not done.failures:
        return None
    count = len({run.link for run in done.result.runs})
    which = "no device" if len(done.failures) == count else f"{len(done.failures)} of {count} devices"
    said = "; ".join(line.splitlines()[0] for line in done.failures)
    verb = "could be" if which == "no device" else "could not be"
    return StageError(f"{which} {verb} measured: {said}", hint="see the reasons above")


def _told(found: Sequence[Comparison]) -> dict[str, Any]:
    """Comparisons for programs: each one, and how many of the bundle's came to each verdict."""
    from dataclasses import asdict

    from edgedistill.bench.compare import counts

    return {"comparisons": [asdict(comparison) for comparison in found], "counts": counts(found)}


def _judge(found: Sequence[Comparison], *, strict: bool, quiet: bool) -> None:
    """Ends the command with status 3 when something is worse, and says loudly when nothing is known.

    Args:
        strict: what could not be compared ends it so as well.
        quiet: what was printed is for a program, which has the counts.
    """
    from edgedistill.bench.compare import no_time, regressions, says_nothing, untold

    if not quiet and (says_nothing(found) or no_time(found)):
        print(SILENT if says_nothing(found) else NO_TIME)
    if worse := regressions(found):
        said = [f"{_named(one)}" + (f" × {one.ratio.value:.3f}" if one.ratio else "") for one in worse]
        raise BudgetMissed(f"worse than before: {', '.join(said)}", hint="see the table; measure again to be sure")
    if strict and (unknown := untold(found)):
        said = [_named(one) for one in unknown]
        raise BudgetMissed(f"not comparable: {', '.join(said)}", hint="see the reasons above, or leave --strict out")


def _named(one: Comparison) -> str:
    return f"{one.name.replace('_', ' ')} on {one.link}"
