"""Labelling as the command line and the pipeline run it: under the store's lock, with the journal that lies there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgedistill import tasks
from edgedistill.config import DEMO, Data, Label, Request
from edgedistill.data.read import ALL, find_files
from edgedistill.errors import BudgetMissed, InputError
from edgedistill.labeling import estimate as forecasting
from edgedistill.labeling import label as labelling
from edgedistill.labeling.estimate import Forecast
from edgedistill.labeling.journal import Journal
from edgedistill.labeling.label import LEDGER, Labelled
from edgedistill.stages import UNWATCHED, Watch
from edgedistill.store import Output, Store, file_sha256, publish
from edgedistill.types import SPLITS, Progress, silent

STORE = ".edgedistill"


def label(request: Request, watch: Watch = UNWATCHED, *, environment: Mapping[str, str] | None = None) -> Labelled:
    """Labels the rows of a request into `<out>/<name>-rows/`.

    Raises:
        InputError: rows or teachers cannot be used.
        StageError: too few answers are usable, or a teacher does not answer; what was answered is kept.
    """
    _rows_named(request.data)
    target = request.out / f"{request.name}-rows"
    with Store(request.out.parent / STORE) as store, Journal(store.root / labelling.JOURNAL) as journal:
        work = store.root / "tmp" / "label"
        shutil.rmtree(work, ignore_errors=True)
        (work / "rows").mkdir(parents=True)
        progress = watch.begin("label")
        done = labelling.label(request, work / "rows", journal, work=work, environment=environment, progress=progress)
        publish(work / "rows", target, owned=lambda folder: (folder / LEDGER).is_file(), strays=_strays)
        seconds = sum(found["seconds"] for found in done.ledger["splits"].values())
        asked = any(teacher["asked_now"] for teacher in done.ledger["teachers"].values())
        watch.end("label", seconds, cached=not asked, note=summary(done.ledger))
    return replace(done, folder=target)


def estimate(
    request: Request, watch: Watch = UNWATCHED, *, environment: Mapping[str, str] | None = None
) -> list[Forecast]:
    """What labelling the rows of a request would ask and cost. Nothing is asked.

    Raises:
        InputError: rows or teachers cannot be used.
    """
    _rows_named(request.data)
    with Store(request.out.parent / STORE) as store, Journal(store.root / labelling.JOURNAL) as journal:
        work = store.root / "tmp" / "estimate"
        work.mkdir(parents=True)
        return forecasting.estimate(
            request, journal, work=work, environment=environment, progress=watch.begin("estimate")
        )


def kept(
    request: Request, store: Store, progress: Progress = silent, *, ask: bool = True
) -> tuple[Data, dict[str, Any], Output]:
    """The labelling stage of a build: where the labelled rows lie, their ledger, and the output of the store.

    Args:
        ask: False refuses to ask anything: then the rows must have been labelled before.

    Raises:
        InputError: the rows are not labelled yet, and nothing may be asked.
        BudgetMissed: the money or the rows ran out before the goal; what was answered is kept in the journal.
    """
    _rows_named(request.data)
    files = {split: file_sha256(path) for split, path in find_files(request.data.folder).items()}
    settings = request.label.model_dump(mode="json", exclude={"budget"})
    inputs = {
        "task": request.task,
        "files": files,
        "label": settings,
        "gates": request.gates.model_dump(mode="json"),
        "data": request.data.model_dump(exclude={"folder"}),
    }

    def produce(folder: Path, work: Path) -> None:
        if not ask:
            raise InputError(
                "the rows have no labels yet, and a plan asks no teacher",
                hint="edgedistill label --estimate says what they would cost; edgedistill build has them labelled",
            )
        with Journal(store.root / labelling.JOURNAL) as journal:
            done = labelling.label(request, folder, journal, work=work, progress=progress)
        if not done.complete:
            raise shortfall(done, request.label)

    output = store.get("labels", inputs, produce)
    ledger: dict[str, Any] = json.loads((output.path / LEDGER).read_text(encoding="utf-8"))
    folder = output.path / "rows.jsonl" if ALL in files else output.path
    task = tasks.find(request.task)
    fields = dict(zip(("text", "second"), task.inputs, strict=False)) | {"label": "label"} if task.has_labels else {}
    return request.data.model_copy(update={"folder": str(folder), **fields}), ledger, output


def shortfall(done: Labelled, settings: Label) -> BudgetMissed:
    """What is missing of a run that did not reach its goal, and what to do about it."""
    for split, found in done.ledger["splits"].items():
        got = f"{found['accepted']} rows of {split} accepted"
        if found["stopped"] == "budget" and not done.ledger["spent_usd"]:
            return BudgetMissed(
                f"the budget of ${settings.budget:g} is less than one request may cost", hint="raise [label] budget"
            )
        if found["stopped"] == "budget":
            spent = f"${done.ledger['spent_usd']:.4g} of the budget of ${settings.budget:g} are spent"
            return BudgetMissed(
                f"{spent}, and one more request may exceed it: {got} of {settings.rows or found['candidates']}",
                hint="every answer is kept; raise the budget and run the same command again",
            )
        if found["stopped"] == "rows":
            return BudgetMissed(
                f"{got} of the {settings.rows} that are wanted: all {found['decided']} candidates were asked about",
                hint="every answer is kept; add rows, or lower [label] rows",
            )
    return BudgetMissed("the run is not complete", hint="run the same command again")


def summary(ledger: Mapping[str, Any]) -> str:
    """One line on what a ledger says."""
    accepted = sum(found["accepted"] for found in ledger["splits"].values())
    refused = sum(found["rejected"] + found["failed"] for found in ledger["splits"].values())
    return f"{accepted} accepted, {refused} not, ${ledger['spent_usd']:.4g}"


def _strays(folder: Path) -> list[str]:
    """What somebody else put into a folder of labelled rows."""
    ours = {LEDGER, labelling.REJECTED, "rows.jsonl", *(f"{split}.jsonl" for split in SPLITS)}
    return sorted(path.name for path in folder.iterdir() if path.name not in ours)


def _rows_named(data: Data) -> None:
    if data.folder == DEMO:
        raise InputError("no rows are named", hint="give --data a folder or a file, or set [data] folder")
