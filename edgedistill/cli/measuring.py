"""The commands that measure: bench, compare."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.cli.options import AsJson, Data, print_json, show
from edgedistill.errors import BudgetMissed, InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import Comparison, Result

app = typer.Typer()

On = Annotated[
    list[str] | None,
    typer.Option(
        help="A device: local, ssh://user@host, adb://serial, emulated://cortex-a72, browser://; once for each "
        "(default: local)."
    ),
]


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle that edgedistill build or export made.")],
    on: On = None,
    data: Data = None,
    against: Annotated[Path | None, typer.Option(help="Compare with this earlier result; status 3 if worse.")] = None,
    workload: Annotated[
        str | None, typer.Option(help="Of benchmarks/workloads (default: by the bundle's task).")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Fresh processes that are timed (default: 5).")] = None,
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
    out: Annotated[Path | None, typer.Option(help="Where the result goes (default: beside the bundle).")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a bundle on this machine and on others: latency, throughput, starts, memory, answers."""
    from dataclasses import asdict, replace

    from edgedistill import catalog
    from edgedistill.bench import compare as comparing
    from edgedistill.bench import harness, results, rows
    from edgedistill.bench.course import HERE, of_bundle
    from edgedistill.bundle import manifest
    from edgedistill.bundle.threads import write
    from edgedistill.links.address import connect
    from edgedistill.terminal import Lines
    from edgedistill.terminal.benches import comparison_tables, result_tables

    told = manifest.verify(bundle).manifest
    addresses = list(dict.fromkeys(on or [HERE]))
    if write_threads and (threads is not None or len(addresses) > 1):
        raise InputError(
            "--write-threads takes what one device finds best", hint="name one device with --on, without --threads"
        )
    asked = rows.read(told, data)
    settings = catalog.workload(workload or rows.workload_of(told))
    settings = replace(settings, rounds=rounds or settings.rounds, within=within or settings.within)
    earlier = None if against is None else results.read(against)
    with ExitStack() as stack, Lines(quiet=as_json) as lines:
        links = [stack.enter_context(connect(address)) for address in addresses]
        host = None if HERE in addresses else stack.enter_context(connect(HERE))
        entrants = [of_bundle(bundle, link) for link in links]
        progress = lines.begin("bench")
        fixed = threads if threads is not None or earlier is None else comparing.threads_of(earlier)
        result = harness.bench(bundle, entrants, asked, settings, threads=fixed, host=host, progress=progress)
    result = write(bundle, result, wanted=write_threads)
    found = () if earlier is None else comparing.compare(earlier, result)
    page = _save(result, (out or bundle.absolute().parent) / bundle.absolute().name, earlier, found)
    if as_json:
        print_json(asdict(result) | {"comparisons": [asdict(comparison) for comparison in found]})
    else:
        show([*result_tables(result), *(comparison_tables(found) if found else ())])
        print(f"result  {page.with_suffix('.json')}\nreport  {page}")
    if not any(run.taken for run in result.runs):
        raise StageError("no device could be measured: " + "; ".join(_failures(result)), hint="see the reasons above")
    _judge(found)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="The earlier result.")],
    b: Annotated[Path, typer.Argument(help="The later result.")],
    as_json: AsJson = False,
) -> None:
    """Say whether a result is slower, larger or less right than an earlier one; status 3 if it is."""
    from dataclasses import asdict

    from edgedistill.bench import compare as comparing
    from edgedistill.bench import results
    from edgedistill.terminal.benches import comparison_tables

    found = comparing.compare(results.read(a), results.read(b))
    if as_json:
        print_json({"comparisons": [asdict(comparison) for comparison in found]})
    else:
        show(comparison_tables(found))
    _judge(found)


def _save(result: Result, path: Path, earlier: Result | None, found: Sequence[Comparison]) -> Path:
    """Writes the result, its page and its Markdown twin; returns the page.

    Where no earlier result is named, the one that lies there is the history.
    """
    from edgedistill.bench import results
    from edgedistill.report import bench_page
    from edgedistill.store import disk_errors, write_atomically

    file = path.with_name(path.name + results.SUFFIX)
    if earlier is None and file.exists():
        try:
            earlier = results.read(file)
        except InputError:
            earlier = None  # of another version; it is replaced
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        results.write(result, file)
        page = file.with_suffix(".html")
        write_atomically(page, bench_page.page(result, earlier, comparisons=found).encode())
        write_atomically(file.with_suffix(".md"), bench_page.markdown(result, earlier, comparisons=found).encode())
    return page


def _failures(result: Result) -> list[str]:
    return [f"{run.link}: {run.measurements[0].reason}" for run in result.runs]  # type: ignore[union-attr]


def _judge(found: Sequence[Comparison]) -> None:
    """Ends the command with status 3 when something is worse."""
    from edgedistill.bench.compare import regressions

    if worse := regressions(found):
        said = [f"{one.name} on {one.link}" + (f" × {one.ratio.value:.3f}" if one.ratio else "") for one in worse]
        raise BudgetMissed(f"worse than before: {', '.join(said)}", hint="see the table; measure again to be sure")
