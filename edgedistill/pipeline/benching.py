"""One benchmark, from a bundle and some addresses to a result with its pages and its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from edgedistill import catalog
from edgedistill.bench import compare as comparing
from edgedistill.bench import harness, loadgen, results, rows
from edgedistill.bench.baseline import Host
from edgedistill.bench.course import HERE, of_bundle
from edgedistill.bench.stopped import Stopped, unstopped
from edgedistill.bundle import manifest
from edgedistill.bundle.threads import write
from edgedistill.config import read_request
from edgedistill.errors import InputError
from edgedistill.links import address
from edgedistill.pipeline.baselines import Baselines, baselines, compared, teacher_cost
from edgedistill.pipeline.result_files import ResultFiles
from edgedistill.stages import UNWATCHED, Watch
from edgedistill.types import Comparison, NotMeasured, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Benching:
    """What is asked of a benchmark.

    Attributes:
        on: addresses of devices.
        data: rows; None takes the embedded ones.
        teacher: a checkpoint that is measured beside the bundle, in PyTorch and as a bundle.
        mlperf: MLPerf LoadGen's scenarios, too.
        against: an earlier result.
        workload: the name of one; None goes by the bundle's task. `rounds` and `within` replace what it says.
        threads: of every engine; None tries several.
        write_threads: into the bundle; None does so when the board that it was built for was measured.
        out: where result and pages go; None is beside the bundle.
    """

    on: Sequence[str] = (HERE,)
    data: str | None = None
    teacher: str | None = None
    mlperf: bool = False
    against: Path | None = None
    workload: str | None = None
    rounds: int | None = None
    within: float | None = None
    threads: int | None = None
    write_threads: bool | None = None
    out: Path | None = None

    @property
    def addresses(self) -> Sequence[str]:
        """Of the devices, each once."""
        return tuple(dict.fromkeys(self.on))


@dataclass(frozen=True, slots=True, kw_only=True)
class Benched:
    """A result, what it is against an earlier one, and the page that shows both; beside it lies the result.

    Attributes:
        before: where the result went that lay there before.
    """

    result: Result
    comparisons: tuple[Comparison, ...]
    page: Path
    before: Path | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the bundle could not be measured on a device, for each that failed."""
        return tuple(
            f"{run.link}: {figure.reason}"
            for run in self.result.runs
            for figure in run.measurements[:1]
            if run.contender == "bundle" and not run.taken and isinstance(figure, NotMeasured)
        )


def bench(bundle: Path, asked: Benching, *, watch: Watch = UNWATCHED) -> Benched:
    """Measures a bundle on every device, and writes the result with its page and its Markdown twin.

    Raises:
        InputError: an address, the rows or the earlier result cannot be used; nothing was measured.
        IntegrityError: the bundle is not as it was built.
        Stopped: the program was told to end; `kept` says where what was taken is.
    """
    told = manifest.verify(bundle).manifest
    files = ResultFiles(bundle, asked.out, asked.against)
    _check(asked)
    files.check()
    texts = rows.read(told, asked.data)
    settings = catalog.workload(asked.workload or rows.workload_of(told))
    settings = replace(settings, rounds=asked.rounds or settings.rounds, within=asked.within or settings.within)
    earlier = None if asked.against is None else results.read(asked.against)
    with ExitStack() as stack:
        links = [stack.enter_context(address.connect(one)) for one in asked.addresses]
        host = None if HERE in asked.addresses else Host(stack.enter_context(address.connect(HERE)), bundle)
        known = Baselines(entrants=())
        if asked.teacher is not None:
            task = "nli" if told["model"].get("pairs") else None
            request = read_request(data=asked.data, out=files.folder, task=task)
            known = baselines(request, asked.teacher, bundle, links, watch)
        entrants = [*(of_bundle(bundle, link) for link in links), *known.entrants]
        fixed = asked.threads if asked.threads is not None or earlier is None else comparing.threads_of(earlier)
        progress = watch.begin("bench")
        try:
            result = harness.bench(bundle, entrants, texts, settings, threads=fixed, host=host, progress=progress)
        except Stopped as stop:
            if stop.result is not None:
                with unstopped():
                    taken = stop.result()
                    stop.kept = files.place(taken, files.keep(taken), stopped=True).file
                    files.show(taken, stop.kept)
            raise
        with unstopped():
            result = replace(result, teacher_cost=teacher_cost(bundle))
            file = files.keep(result)  # minutes of measuring: nothing that goes wrong from here on costs them
        try:
            if asked.teacher is not None:
                result = compared(result, known)
            if asked.mlperf:
                result = loadgen.added(result, bundle, texts.texts, progress=watch.begin("mlperf"))
            result = write(bundle, result, wanted=asked.write_threads)
        except BaseException as error:
            with unstopped():
                kept = files.place(result, file).file
                files.show(result, kept)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise Stopped(error, kept=kept) from error
            raise
    with unstopped():
        place = files.place(result, file)
        found = () if earlier is None else comparing.compare(earlier, result)
        # Where no earlier result is named, the one that lay there is the history.
        history = (place.before,) if earlier is None else (earlier, found)
        page = files.show(result, place.file, *history)
    return Benched(result=result, comparisons=found, page=page, before=place.kept)


def _check(asked: Benching) -> None:
    """Refuses what cannot be asked together, before anything is measured."""
    if asked.write_threads and (asked.threads is not None or len(asked.addresses) > 1):
        raise InputError(
            "--write-threads takes what one device finds best", hint="name one device with --on, without --threads"
        )
    if asked.mlperf and HERE not in asked.addresses:
        raise InputError("MLPerf LoadGen runs on this machine", hint="add --on local, or leave --mlperf out")
    if asked.mlperf:
        loadgen.check()
