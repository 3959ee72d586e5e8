"""One benchmark, from a bundle and some addresses to a result with its pages and its verdict."""

from __future__ import annotations

import json
import re
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgedistill import catalog
from edgedistill.bench import compare as comparing
from edgedistill.bench import harness, loadgen, results, rows
from edgedistill.bench.baseline import Host
from edgedistill.bench.course import HERE, of_bundle
from edgedistill.bundle import manifest
from edgedistill.bundle.threads import write
from edgedistill.config import read_request
from edgedistill.errors import InputError
from edgedistill.links import address
from edgedistill.pipeline.baselines import Baselines, baselines, compared, teacher_cost
from edgedistill.pipeline.exporting import RECORD
from edgedistill.pipeline.prepare import check_out
from edgedistill.report import bench_page
from edgedistill.stages import UNWATCHED, Watch
from edgedistill.store import disk_errors, write_atomically
from edgedistill.types import Comparison, NotMeasured, Result

PARTS = (".json", ".html", ".md")
"""The files of a result."""


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
        Stopped: the program was told to end; what was taken is kept, in NAME.stopped.bench.json.
    """
    told = manifest.verify(bundle).manifest
    addresses = list(dict.fromkeys(asked.on))
    if asked.write_threads and (asked.threads is not None or len(addresses) > 1):
        raise InputError(
            "--write-threads takes what one device finds best", hint="name one device with --on, without --threads"
        )
    if asked.mlperf and HERE not in addresses:
        raise InputError("MLPerf LoadGen runs on this machine", hint="add --on local, or leave --mlperf out")
    if asked.mlperf:
        loadgen.check()
    out = asked.out or bundle.absolute().parent
    if out.suffix == ".json":
        raise InputError(f"--out is a folder, and {out} looks like a file", hint=f"--out {out.parent}")
    check_out(out)
    try:  # before minutes of measuring for a place that cannot be written
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise InputError(f"nothing can be written into {out}: {error.strerror}", hint="choose another --out") from error
    texts = rows.read(told, asked.data)
    settings = catalog.workload(asked.workload or rows.workload_of(told))
    settings = replace(settings, rounds=asked.rounds or settings.rounds, within=asked.within or settings.within)
    earlier = None if asked.against is None else results.read(asked.against)
    with ExitStack() as stack:
        links = [stack.enter_context(address.connect(one)) for one in addresses]
        host = None if HERE in addresses else Host(stack.enter_context(address.connect(HERE)), bundle)
        entrants = [of_bundle(bundle, link) for link in links]
        known = Baselines(entrants=())
        if asked.teacher is not None:
            task = "nli" if told["model"].get("pairs") else None
            request = read_request(data=asked.data, out=out, task=task)
            known = baselines(request, asked.teacher, bundle, links, watch)
        fixed = asked.threads if asked.threads is not None or earlier is None else comparing.threads_of(earlier)
        entrants += known.entrants
        progress = watch.begin("bench")
        unfinished = out / f"{bundle.absolute().name}.stopped{results.SUFFIX}"
        try:
            result = harness.bench(bundle, entrants, texts, settings, threads=fixed, host=host, progress=progress)
        except harness.Stopped as stop:
            with _whole():
                _stopped(stop, unfinished)
            raise
        result = replace(result, teacher_cost=teacher_cost(bundle))
        # Where no earlier result is named, the one that lies there is the history; it is read before it is replaced.
        file = _place(result, bundle, out, asked.against)
        # What failed has nothing in common with what failed before it.
        lying = _lying(file) if any(run.taken for run in result.runs) else None
        history = earlier or lying
        before = None if lying is None else _set_aside(lying, file)
        _save(result, file)  # minutes of measuring: nothing that goes wrong from here on costs them
        if asked.teacher is not None:
            result = compared(result, known)
        if asked.mlperf:
            result = loadgen.added(result, bundle, texts.texts, progress=watch.begin("mlperf"))
    result = write(bundle, result, wanted=asked.write_threads)
    _save(result, file)
    if any(run.taken for run in result.runs):
        for suffix in PARTS:
            unfinished.with_suffix(suffix).unlink(missing_ok=True)  # this one has more
    found = () if earlier is None else comparing.compare(earlier, result)
    page = _show(result, file, history, found if history is earlier else None, _alternatives(bundle))
    return Benched(result=result, comparisons=found, page=page, before=before)


def _place(result: Result, bundle: Path, out: Path, against: Path | None) -> Path:
    """The file of a result: NAME.bench.json, unless something better would be lost there.

    A result that another is held against stays what it is, so that measuring again compares with it again: the new one
    has its time in its name. Where no device could be measured, the last good result stays as well.
    """
    name = bundle.absolute().name
    file = out / (name + results.SUFFIX)
    if not any(run.taken for run in result.runs):
        return out / f"{name}.failed{results.SUFFIX}"
    if against is not None and file.exists() and file.samefile(against):
        return _dated(file, result)
    return file


def _stopped(stop: harness.Stopped, file: Path) -> None:
    """Keeps what was taken until a benchmark was stopped, beside what earlier ones came to."""
    if stop.result is None:
        return
    result = stop.result()
    _save(result, file)
    stop.kept = file
    _show(result, file, None, None, ())


@contextmanager
def _whole() -> Iterator[None]:
    """What is done in it is done to its end, however often the program is told to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal ends anything there
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_aside(lying: Result, file: Path) -> Path:
    """Gives a result that lies where a new one goes the time that it was made in its name; its pages go with it."""
    kept = _dated(file, lying)
    for suffix in PARTS:
        if (old := file.with_suffix(suffix)).exists():
            old.replace(kept.with_suffix(suffix))
    return kept


def _dated(file: Path, result: Result) -> Path:
    """NAME.20261122101500.bench.json."""
    name = file.name.removesuffix(results.SUFFIX)
    return file.with_name(f"{name}.{re.sub('[^0-9]', '', result.created)[:14]}{results.SUFFIX}")


def _lying(file: Path) -> Result | None:
    try:
        return results.read(file) if file.exists() else None
    except InputError:
        return None  # of another version; it is replaced


def _save(result: Result, file: Path) -> None:
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        results.write(result, file)


def _show(
    result: Result,
    file: Path,
    earlier: Result | None,
    found: Sequence[Comparison] | None,
    alternatives: Sequence[Any],
) -> Path:
    """Writes a result's page and its Markdown twin; returns the page.

    Args:
        found: what the result is against the earlier one; None compares them here.
    """
    if found is None:
        try:
            found = () if earlier is None else comparing.compare(earlier, result)
        except InputError:
            earlier, found = None, ()
    rest: dict[str, Any] = {"comparisons": found, "alternatives": alternatives}
    with disk_errors(file.parent):
        page = file.with_suffix(".html")
        write_atomically(page, bench_page.page(result, earlier, **rest).encode())
        write_atomically(file.with_suffix(".md"), bench_page.markdown(result, earlier, **rest).encode())
    return page


def _alternatives(bundle: Path) -> Sequence[Any]:
    """The other files that an export with --all wrote and judged."""
    try:
        found: Sequence[Any] = json.loads((bundle / RECORD).read_text(encoding="utf-8")).get("candidates", ())
    except (OSError, ValueError):
        return ()
    return found
