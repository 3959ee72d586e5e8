"""From a request to a trained student: what `edgedistill distill` does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill import __version__, tasks
from edgedistill.bench.machine import environment
from edgedistill.config import DEMO, Request
from edgedistill.data import splits
from edgedistill.errors import InputError
from edgedistill.pipeline.classify import classes, teach
from edgedistill.pipeline.prepare import STORE, check_out, prepare
from edgedistill.pipeline.writing import write
from edgedistill.stages import UNWATCHED, Run, Watch
from edgedistill.store import ENTRY, Output, Store, canonical, publish
from edgedistill.types import Rows

if TYPE_CHECKING:
    from edgedistill.evaluate.arms import Name
    from edgedistill.evaluate.evaluate import Evaluated

TRAINING = "training.json"
"""What is known about the training; it also tells a folder of ours from others."""
NOT_PUBLISHED = (ENTRY, "curve.json", "validation.safetensors", "test.safetensors")
FORMAT = 1
STATIC = "student: tables of vectors for pieces and their neighbours, no layers; 8 bits, judged as the file that ships"


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """Where a student lies, and what is known about its training."""

    folder: Path
    training: dict[str, Any]
    changed: bool


def distill(request: Request, watch: Watch = UNWATCHED, *, fresh: bool = False) -> Distilled:
    """From rows and a teacher to a student checkpoint, going on from whatever is finished already.

    The student is an ordinary checkpoint in `<out>/<name>-student/`; `training.json` beside it says how good it is.

    Args:
        fresh: do every stage again.

    Raises:
        EdgeDistillError: see `edgedistill.errors` for the kinds; finished stages are kept.
    """
    check_out(request.out)
    with Store(request.out.parent / STORE, fresh=fresh) as store:
        run = Run(request, store, watch)
        student, found = _classifier(run) if tasks.find(request.task).has_labels else _writer(run)
        target = request.out / f"{request.name}-student"
        with run.stage("publish") as stage:
            training = {
                "format": FORMAT,
                "name": request.name,
                "task": request.task,
                "version": __version__,
                "environment": {**environment(), "seed": str(request.seed)},
                "settings": request.distill.model_dump(mode="json"),
                **found,
            }
            output = store.get("distilled", {"student": student.sha256, "training": training}, _copy(student, training))
            if not store.follows and not _same(output, target):
                publish(output.path, target, owned=lambda folder: (folder / TRAINING).is_file(), strays=_strays(output))
                run.changed = True
            stage.cached = not run.changed
        return Distilled(folder=target, training=training, changed=run.changed)


def _classifier(run: Run) -> tuple[Output, dict[str, Any]]:
    """The student of a task with labels, and how its arms do on the test rows."""
    from edgedistill.evaluate import arms

    known = prepare(run)
    taught = teach(run, known)
    request, rows = run.request, known.rows
    with run.stage("evaluate"):
        names: tuple[arms.Name, ...] = ("teacher", "control", "student")
        logits = {name: taught.logits(name, "test") for name in names}
        truth = classes(rows, taught.splits["test"])
        made = arms.arms(logits, truth, rows.labels, out_of_scope=request.data.out_of_scope, seed=request.seed)
        compared = arms.contrasts(logits, truth, seed=request.seed)
    return taught.outputs["student"], {
        "route": "classes",
        "explanation": [STATIC] if request.student.kind == "static" else list(known.plan.explanation),
        "parameters": dict(taught.parameters),
        "arms": [asdict(arm) for arm in made],
        "contrasts": [asdict(contrast) for contrast in compared],
        "curves": {arm: list(map(dict, curve)) for arm, curve in taught.curves.items()},
        "data": _data(rows, known.teacher.name),
    }


def _writer(run: Run) -> tuple[Output, dict[str, Any]]:
    """The student of a task whose answers are written, and how its arms do on the test rows."""
    written = write(run)
    return written.outputs["student"], {
        "route": written.route,
        "explanation": list(written.explanation),
        "parameters": dict(written.parameters),
        "arms": written.evaluation["arms"],
        "contrasts": written.evaluation["contrasts"],
        "curves": {arm: list(map(dict, curve)) for arm, curve in written.curves.items()},
        "data": _data(written.rows, Path(written.teacher).name),
    }


def _data(rows: Rows, teacher: str) -> dict[str, Any]:
    facts = {key: value for key, value in rows.facts.items() if key != "rejected_file"}
    return json.loads(json.dumps({**facts, "teacher": teacher}))  # type: ignore[no-any-return]


def _copy(student: Output, training: Mapping[str, Any]) -> Any:
    def produce(folder: Path, _: Path) -> None:
        for path in student.path.iterdir():
            if path.name not in NOT_PUBLISHED:
                shutil.copyfile(path, folder / path.name)
        (folder / TRAINING).write_bytes(canonical(training))

    return produce


def _same(output: Output, target: Path) -> bool:
    """Whether the published folder is this one, byte for byte."""
    ours = {path.name: path.read_bytes() for path in output.path.iterdir() if path.name != ENTRY}
    return target.is_dir() and ours == {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()}


def _strays(output: Output) -> Any:
    """Names what somebody else put into a folder of ours."""
    ours = {path.name for path in output.path.iterdir()}
    return lambda folder: sorted(
        path.name for path in folder.iterdir() if path.name not in ours and not path.name.endswith((".json", ".jinja"))
    )


def evaluate(
    request: Request,
    checkpoint: Path,
    *,
    against: Path | None = None,
    rows: int | None = None,
    watch: Watch = UNWATCHED,
) -> Evaluated:
    """How good a checkpoint is on the test rows of a request.

    Args:
        against: the folder of its teacher.
        rows: how many test rows to take, the first ones; all without it.

    Raises:
        InputError: rows or checkpoints cannot be used.
    """
    from edgedistill.data.read import ALL, Rejected, find_files, read_rows
    from edgedistill.distill.generative import PLAIN
    from edgedistill.evaluate.evaluate import evaluate as run

    task = tasks.find(request.task)
    for folder in (checkpoint, against):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder} is no folder", hint="give the folder of a checkpoint")
    if request.data.folder == DEMO:
        raise InputError("no rows are named", hint="give --data a folder or a file, or set [data] folder")
    files = find_files(request.data.folder, needed="test")
    path = files["test"] if "test" in files else files[ALL]
    names = dict(zip((request.data.text, request.data.second), task.inputs, strict=False)) if task.has_labels else {}
    names |= {request.data.label: task.target} if task.has_labels else {}
    bad: list[Rejected] = []
    found = []
    for line, raw in read_rows(path, bad):
        row = {names.get(key, key): value for key, value in raw.items()}
        if (reason := task.problem(row)) is not None or task.gold(row) is None:
            bad.append(Rejected(path.name, line, reason or "no answer"))
        else:
            found.append(row)
    splits.check_share(bad, len(found) + len(bad), request.data)
    arms: dict[Name, Path] = {"student": checkpoint} if against is None else {"teacher": against, "student": checkpoint}
    progress = watch.begin("evaluate")
    return run(
        request.task,
        found[:rows],
        arms,
        style=None if task.has_labels else PLAIN,
        max_tokens=request.data.max_tokens,
        out_of_scope=request.data.out_of_scope,
        seed=request.seed,
        progress=progress,
    )
