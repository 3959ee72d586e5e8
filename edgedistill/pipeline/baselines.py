"""Who a bundle is compared with in a benchmark: its teacher in PyTorch, and its teacher as a bundle; and what it costs.

checkpoint ─┬─► PyTorch on this machine
            └─► the bundle's own recipe, or the next safer one ─► a bundle, on every device where it fits
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgedistill import catalog
from edgedistill.bench import baseline
from edgedistill.bench.course import Entrant
from edgedistill.bench.machine import environment
from edgedistill.bundle import manifest
from edgedistill.bundle.assemble import RUNTIME
from edgedistill.config import DEMO, Request
from edgedistill.data.read import find_files
from edgedistill.errors import InputError, PlanRefused, StageError
from edgedistill.labeling.label import LEDGER
from edgedistill.links.link import Link
from edgedistill.pipeline.exporting import found_in, recipes_for, source_of
from edgedistill.pipeline.exporting.source import Kind, named
from edgedistill.pipeline.prepare import STORE, check_out
from edgedistill.stages import UNWATCHED, Run, Watch
from edgedistill.store import Store, digest, file_sha256, hashes
from edgedistill.teachers import local
from edgedistill.types import Device, Recipe, Result

BUNDLE = "bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """Who a bundle is compared with, and why not with more."""

    entrants: tuple[Entrant, ...]
    remarks: tuple[str, ...] = ()


def baselines(
    request: Request, checkpoint: str, bundle: Path, links: Sequence[Link], watch: Watch = UNWATCHED
) -> Baselines:
    """The teacher of a bundle as entrants of its benchmark.

    Args:
        request: says on which rows the exported teacher is judged, and where the store is.
        checkpoint: the teacher: a folder, or a name on the hub.
        links: the devices that the bundle is measured on; they stay the caller's.

    Raises:
        InputError: the teacher cannot be used, or has none of the bundle's labels.
        StageError: the teacher's file cannot be written; its files that are finished are kept.
    """
    folder, _ = found_in(checkpoint)
    model = manifest.read(bundle).manifest["model"]
    inside = baseline.teacher_contender(bundle, folder, model.get("max_tokens", request.data.max_tokens))
    try:
        exported = teacher_bundle(request, checkpoint, bundle, watch)
    except (PlanRefused, StageError, InputError) as error:
        # It may be too big or of a family that is not exported: that is no reason not to measure it here.
        return Baselines(entrants=(inside,), remarks=(f"the teacher is no bundle: {error.message}",))
    return Baselines(
        entrants=(inside, *(baseline.exported_contender(bundle, exported, link) for link in links)),
    )


def teacher_bundle(request: Request, checkpoint: str, bundle: Path, watch: Watch = UNWATCHED) -> Path:
    """The teacher as a bundle for the board that a bundle is for, by that bundle's recipe; kept in the store.

    Where its file does not answer like the teacher, the next safer recipe is taken, as in any export; where the recipe
    is none for a model of its kind, the smallest that is.

    Raises:
        InputError: the checkpoint or the rows cannot be used.
        PlanRefused: the board runs no engine for it.
        StageError: no recipe answers like it.
    """
    check_out(request.out)
    told = manifest.read(bundle).manifest
    device = catalog.device(told["target"])
    asked = {"recipe": None, "app": False}
    request = request.model_copy(update={"target": device.name, "export": request.export.model_copy(update=asked)})
    folder, kind = found_in(checkpoint)
    recipes = _recipes(kind, device, told["model"]["recipe"])
    with Store(request.out.parent / STORE) as store:
        run = Run(request, store, watch)

        def produce(result: Path, _: Path) -> None:
            source = source_of(run, kind, folder, named(checkpoint, folder), recipes, device, None)
            with run.stage("export") as stage:
                exported, output = source.write(source.recipes, stage.progress)
                stage.took(output)
                stage.note = f"the teacher: {exported.recipe}, {exported.size_bytes / 1e6:.1f} MB"
            source.pack(exported, result / BUNDLE, device.name)

        return store.get("teacher-bundle", _inputs(request, folder, recipes), produce).path / BUNDLE


def _recipes(kind: Kind, device: Device, recipe: str) -> tuple[Recipe, ...]:
    try:
        return recipes_for(kind, device, recipe)
    except PlanRefused:
        return recipes_for(kind, device, None)


def _inputs(request: Request, folder: Path, recipes: Sequence[Recipe]) -> dict[str, Any]:
    """All that decides the teacher's file."""
    files = sorted(file for pattern in local.FILES for file in folder.glob(pattern))
    rows = {} if request.data.folder == DEMO else find_files(request.data.folder)
    return {
        "teacher": digest({file.name: file_sha256(file) for file in files}),
        "recipes": [asdict(recipe) for recipe in recipes],
        "target": request.target,
        "task": request.task,
        "rows": {split: file_sha256(path) for split, path in rows.items()},
        "data": request.data.model_dump(exclude={"folder"}),
        "export": request.export.model_dump(mode="json"),
        "seed": request.seed,
        "runtime": hashes(RUNTIME),
        "environment": environment(),
    }


def compared(result: Result, found: Baselines) -> Result:
    """A benchmark with the ratios to its baselines."""
    remarks = (*result.remarks, *found.remarks, *baseline.untimed(result.runs))
    return replace(result, ratios=baseline.ratios(result.runs), remarks=remarks)


def teacher_cost(bundle: Path) -> float | None:
    """US dollars for 1,000 answers of the teacher, from what labelling the rows of a bundle cost.

    The build's report beside the bundle holds the ledger of its rows; without one, the rows may still lie there. The
    ledger counts every answer that was ever paid for with the price that was in force, so an answer that came from the
    journal is neither forgotten nor paid twice. None where no teacher is an endpoint with a price.
    """
    beside = bundle.absolute().parent
    report = _read(beside / f"{bundle.absolute().name}.json").get("data")
    ledger = report.get("labelling") if isinstance(report, dict) else None
    if ledger is None:
        ledger = _read(beside / f"{manifest.read(bundle).manifest['name']}-rows" / LEDGER)
    try:
        paid = [one for one in ledger["teachers"].values() if one["usd"] and one["answered"]]
        return 1000 * sum(float(one["usd"]) for one in paid) / sum(int(one["answered"]) for one in paid)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):  # nothing of ours, or nothing paid
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
