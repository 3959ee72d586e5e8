"""From a request to a trained student: what `edgedistill distill` does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill import __version__, tasks
from edgedistill.bench.machine import environment
from edgedistill.bundle import manifest
from edgedistill.config import Request
from edgedistill.data import splits
from edgedistill.data.read import SUFFIXES, Rejected, find_files, read_rows
from edgedistill.errors import InputError
from edgedistill.pipeline.classify import classes, teach
from edgedistill.pipeline.prepare import STORE, check_out, labelled, prepare
from edgedistill.pipeline.writing import Written, write
from edgedistill.stages import UNWATCHED, Run, Watch
from edgedistill.store import ENTRY, Output, Store, canonical, publish
from edgedistill.types import Rows

if TYPE_CHECKING:
    from edgedistill.evaluate.arms import Name
    from edgedistill.evaluate.evaluate import Evaluated

TRAINING = "training.json"
"""What is known about the training; it also tells a folder of ours from others."""
REPORT = "report.html"
NOT_PUBLISHED = (ENTRY, "curve.json", "unusable.json", "validation.safetensors", "test.safetensors")
FORMAT = 1


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
                # What is handed on says nothing of where things lie; the explanation names the teachers.
                "settings": request.distill.model_dump(mode="json", exclude={"teachers": {"__all__": {"model"}}}),
                "files": sorted({TRAINING, REPORT, *(path.name for path in _shipped(student))}),
                **found,
            }
            output = store.get("distilled", {"student": student.sha256, "training": training}, _copy(student, training))
            if not store.follows and not _same(output, target):
                publish(output.path, target, owned=lambda folder: (folder / TRAINING).is_file(), strays=_strays)
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
        "explanation": [*known.plan.explanation, *taught.explanation],
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
        "examples": written.evaluation["examples"],
        "data": _data(written.rows, Path(written.teacher).name) | _not_used(written),
    }


def _not_used(written: Written) -> dict[str, int]:
    found = {"left_out": len(written.evaluation["left_out"]), "scored_rows": written.evaluation["scored_rows"]}
    return found if written.unusable is None else found | {"unusable": written.unusable}


def _data(rows: Rows, teacher: str) -> dict[str, Any]:
    facts = {key: value for key, value in rows.facts.items() if key != "rejected_file"}
    return json.loads(json.dumps({**facts, "teacher": teacher}))  # type: ignore[no-any-return]


def _shipped(student: Output) -> list[Path]:
    """What of a trained arm belongs into its folder."""
    return [path for path in student.path.iterdir() if path.name not in NOT_PUBLISHED]


def _copy(student: Output, training: Mapping[str, Any]) -> Any:
    def produce(folder: Path, _: Path) -> None:
        from edgedistill.report import training as report

        for path in _shipped(student):
            shutil.copyfile(path, folder / path.name)
        (folder / TRAINING).write_bytes(canonical(training))
        (folder / REPORT).write_text(report.render(training), encoding="utf-8")

    return produce


def _same(output: Output, target: Path) -> bool:
    """Whether our files in the published folder are these, byte for byte; others may lie beside them."""
    ours = {path.name: path for path in output.path.iterdir() if path.name != ENTRY}
    return all(
        (target / name).is_file() and (target / name).read_bytes() == path.read_bytes() for name, path in ours.items()
    )


def _strays(folder: Path) -> list[str]:
    """What somebody else put into a folder of ours."""
    try:
        ours = json.loads((folder / TRAINING).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        ours = [TRAINING]
    return sorted(path.name for path in folder.iterdir() if path.name not in ours)


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
        against: the folder of its teacher, or of another checkpoint to compare it with. Where the request has a judge,
            it is asked about the answers of both.
        rows: how many test rows to take, the first ones; all without it.

    Raises:
        InputError: rows or checkpoints cannot be used.
    """
    for folder in (checkpoint, against):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder} is no folder", hint="give the folder of a checkpoint")
    with Store(request.out.parent / STORE) as store:
        run = Run(request, store, watch)
        found = _test_rows(run)[:rows]
        arms: dict[Name, Path] = {} if against is None else {"teacher": against}
        with run.stage("evaluate") as stage:
            if manifest.engine_in(checkpoint) == "static":
                if against is not None:
                    raise InputError("a static student is evaluated alone", hint="leave --against out")
                return _static(request, checkpoint, found)
            from edgedistill.distill.generative import PLAIN
            from edgedistill.evaluate.evaluate import evaluate as compare

            evaluated = compare(
                request.task,
                found,
                {**arms, "student": checkpoint},
                style=None if tasks.find(request.task).has_labels else PLAIN,
                max_tokens=request.data.max_tokens,
                out_of_scope=request.data.out_of_scope,
                seed=request.seed,
                progress=stage.progress,
            )
            stage.cached = False
        if request.judge is None or against is None:
            return evaluated
        from edgedistill.pipeline.judging import judge

        return replace(evaluated, judged=judge(run, request.judge, found, evaluated))


def _test_rows(run: Run) -> list[dict[str, Any]]:
    """The test rows of a request under the names that the task knows: those of a test file, or of the same split."""
    from edgedistill.data import prompts
    from edgedistill.data import rows as labels

    request, task = run.request, tasks.find(run.request.task)
    folder = Path(request.data.folder)
    alone = folder.is_dir() and not any((folder / f"train{suffix}").exists() for suffix in SUFFIXES)
    if alone and not request.label.teachers:
        return _of_file(request, find_files(request.data.folder, needed="test")["test"])
    settings, _ = labelled(run, ask=False)
    if not task.has_labels:
        found, _ = prompts.prepare(settings, task, seed=request.seed, store=run.store, column=request.distill.column)
        return prompts.read(found, "test")
    rows, _ = labels.prepare(settings, seed=request.seed, store=run.store, column=request.distill.column)
    return [
        {**dict(zip(task.inputs, row.texts, strict=True)), task.target: row.label} for row in labels.read(rows, "test")
    ]


def _of_file(request: Request, path: Path) -> list[dict[str, Any]]:
    """The usable rows of a test file that stands alone."""
    task, data = tasks.find(request.task), request.data
    names = dict(zip((data.text, data.second), task.inputs, strict=False)) if task.has_labels else {}
    names |= {data.label: task.target} if task.has_labels else {}
    bad: list[Rejected] = []
    found = []
    for line, raw in read_rows(path, bad):
        row = {names.get(key, key): value for key, value in raw.items()}
        if (reason := task.problem(row)) is not None or task.gold(row) is None:
            bad.append(Rejected(path.name, line, reason or "no answer"))
        else:
            found.append(row)
    splits.check_share(bad, len(found) + len(bad), data)
    return found


def _static(request: Request, checkpoint: Path, rows: Sequence[Mapping[str, Any]]) -> Evaluated:
    """How good a static student is, by its file."""
    import numpy as np

    from edgedistill.evaluate import arms
    from edgedistill.evaluate.evaluate import Evaluated
    from edgedistill.runtime.engine_static import Classifier

    task, classifier = tasks.find(request.task), Classifier(checkpoint)
    texts: list[Any] = [tuple(str(row[field]) for field in task.inputs) for row in rows]
    if len(task.inputs) == 1:
        texts = [text for (text,) in texts]
    if unknown := {str(row[task.target]) for row in rows} - {*classifier.labels}:
        raise InputError(f"the student knows no label {min(unknown)!r}", hint="give the rows that it was trained for")
    logits = {"student": np.concatenate([classifier(texts[i : i + 256]) for i in range(0, len(texts), 256)])}
    truth = np.array([classifier.labels.index(str(row[task.target])) for row in rows])
    said = tuple(classifier.labels[number] for number in logits["student"].argmax(axis=1))
    names: dict[Name, Any] = {"student": logits["student"]}
    return Evaluated(
        arms=arms.arms(names, truth, classifier.labels, out_of_scope=request.data.out_of_scope, seed=request.seed),
        contrasts=(),
        answers={"student": said},
        used=tuple(range(len(rows))),
        scored_rows=0,
        left_out=(),
    )
