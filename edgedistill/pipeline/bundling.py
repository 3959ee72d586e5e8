"""From a request to a bundle and a report: what `edgedistill build` does."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgedistill import catalog, predictor
from edgedistill.bench.machine import environment
from edgedistill.bundle import manifest
from edgedistill.bundle.assemble import RUNTIME
from edgedistill.config import Request
from edgedistill.errors import EdgeDistillError, PlanRefused
from edgedistill.export import isa
from edgedistill.links import emulated, local
from edgedistill.pipeline.classify import classes, teach
from edgedistill.pipeline.planning import training
from edgedistill.pipeline.prepare import STORE, Prepared, check_out, prepare
from edgedistill.stages import UNWATCHED, Run, Watch
from edgedistill.store import Output, Store, check_target, file_sha256, hashes, publish, write_atomically
from edgedistill.teachers.local import TOKENIZER
from edgedistill.types import SPLITS, Plan, Student, TrainingPlan

BUILDS = ("classification",)
"""Tasks whose students can be written for a device."""
PAGES = {"report.html": ".html", "report.md": ".md", "report.json": ".json"}
"""What was found out, for people, for terminals and for programs: in the store, and beside the published bundle."""
CALIBRATION_ROWS = 200
"""Training rows from which a static recipe takes the range of activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Where a build put its results, and what its report says."""

    bundle: Path
    page: Path
    report: dict[str, Any]
    changed: bool

    @property
    def missed(self) -> list[dict[str, Any]]:
        """The goals that do not hold."""
        return [goal for goal in self.report["goals"] if goal["held"] is False]


def plan(request: Request, watch: Watch = UNWATCHED) -> Plan | TrainingPlan:
    """What a build would do, without doing it; what a training would do, where a student cannot be built for a board.

    Raises:
        PlanRefused: nothing fits, with the arithmetic.
        InputError: the rows or the teacher cannot be used.
    """
    check_out(request.out)
    with Store(request.out.parent / STORE) as store:
        run = Run(request, store, watch)
        if request.task in BUILDS and request.student.kind == "layers":
            return prepare(run, ask=False).plan
        return training(run)


def build(request: Request, watch: Watch = UNWATCHED, *, fresh: bool = False) -> Built:
    """From rows and a teacher to a bundle with a report, going on from whatever is finished already.

    Args:
        fresh: do every stage again.

    Raises:
        EdgeDistillError: see `edgedistill.errors` for the kinds; finished stages are kept.
    """
    _check(request)
    with Store(request.out.parent / STORE, fresh=fresh) as store:
        run = Run(request, store, watch)
        known = prepare(run)
        if request.export.app:
            from edgedistill.export import app

            app.check(known.teacher.path / TOKENIZER)  # the student's reads texts as its teacher's does
        result = _make(run, known)
        with run.stage("publish") as stage:
            bundle, page = _publish(run, result)
            stage.cached = not run.changed
        report = json.loads((result.path / "report.json").read_text(encoding="utf-8"))
        return Built(bundle=bundle, page=page, report=report, changed=run.changed)


def _check(request: Request) -> None:
    check_out(request.out)
    check_target(_bundle(request), owned=manifest.is_bundle, strays=manifest.strays)
    if request.task not in BUILDS:
        raise PlanRefused(
            f"students for the task {request.task!r} cannot be exported yet, only for {', '.join(BUILDS)}",
            hint="edgedistill distill trains them; edgedistill label has a teacher answer their rows",
        )
    if request.student.kind == "static":
        raise PlanRefused(
            "static students are not built in one go yet", hint="edgedistill distill trains them, export bundles them"
        )


def _make(run: Run, known: Prepared) -> Output:
    """From the plan to the finished report, as one output of the store.

    Its key holds all that the stages in it depend on, so when nothing changed they are not even looked at: this machine
    and the versions too, because they decide what is trained, written and measured. A report whose emulated check was
    cut short is not taken for finished: the check is tried again.
    """
    missing = emulated.missing()
    inputs = {
        # What the label stage was told is in the rows, and in the ledger that the report shows.
        "request": run.request.model_dump(
            mode="json",
            exclude={
                "out": True,
                "label": True,
                "gates": True,
                "data": {"folder"},
                "teacher": {"model"},
                "distill": {"teachers": {"__all__": {"model"}}},
            },
        ),
        "rows": known.rows.sha256,
        "labelling": known.rows.facts.get("labelling"),
        "teacher": known.teacher.sha256,
        **({"others": [one.sha256 for one in known.others]} if known.others else {}),
        "plan": asdict(known.plan),
        "workload": asdict(catalog.workload(run.request.bench.workload)),
        "emulation": None if missing is None else asdict(missing),
        "environment": environment(),
        "isa": sorted(isa.here()),  # it decides the range of 8-bit weights
        "runtime": hashes(RUNTIME),
        "pages": sorted(PAGES),
    }
    for attempt in itertools.count():
        output = run.store.get("build", inputs | {"attempt": attempt}, lambda folder, _: _stages(run, known, folder))
        if not (output.cached and _cut_short(output)):
            break
    if output.cached:
        with run.stage("build") as stage:
            stage.note = "nothing has changed"
    return output


def _cut_short(output: Output) -> bool:
    """Whether the emulated check of a finished build was tried and said nothing."""
    report = json.loads((output.path / "report.json").read_text(encoding="utf-8"))
    return any(found.get("reason", "").startswith(emulated.CUT_SHORT) for found in report["on_target"])


def _stages(run: Run, known: Prepared, folder: Path) -> None:
    from edgedistill.bench import protocol, target
    from edgedistill.bundle import app, assemble
    from edgedistill.distill import encoder
    from edgedistill.evaluate import arms
    from edgedistill.export import ladder, parity
    from edgedistill.report import collect, render

    request, rows, store = run.request, known.rows, run.store
    taught = teach(run, known)
    splits, limit = taught.splits, request.data.max_tokens
    output = taught.outputs["student"]
    student = Student(
        path=output.path, sha256=output.sha256, shape=known.plan.student_shape, curve=taught.curves["student"]
    )

    with run.stage("export") as stage:
        exported, output = ladder.export(
            student,
            known.plan.recipes,
            ids=encoder.encoded(student, splits["validation"], limit),
            truth=classes(rows, splits["validation"]),
            logits=taught.logits("student", "validation"),
            tolerance=request.export.tolerance,
            # Spread over the file: rows are often sorted by label.
            calibration=encoder.encoded(
                student, splits["train"][:: -(-len(splits["train"]) // CALIBRATION_ROWS)], limit
            ),
            store=store,
            progress=stage.progress,
        )
        stage.took(output)
        stage.note = f"{exported.recipe}, {exported.size_bytes / 1e6:.1f} MB"

    made = replace(known.plan, explanation=(*known.plan.explanation, *taught.explanation))
    if exported.recipe != made.recipes[0].name:
        shipped_as = catalog.recipe(exported.recipe)
        costs = predictor.encoder(
            made.student_shape, shipped_as, made.device, known.facts.tokens, threads=known.threads
        )
        made = replace(made, predictions=costs)

    with run.stage("draft") as stage:
        draft = assemble.draft(request, known.plan, student, exported, rows, threads=known.threads, store=store)
        stage.took(draft)

    (folder / "bundle").mkdir()
    for_apps: app.App | None = None
    if request.export.app:
        with run.stage("app") as stage:
            every = [row.text for split in SPLITS for row in splits[split]]
            for_apps, output = app.make(draft.path, every, store=store, progress=stage.progress)
            stage.took(output)
            stage.note = f"{for_apps.rows} rows answered alike, {for_apps.size_bytes / 1e6:.1f} MB"
            shutil.copyfile(output.path / assemble.APP, folder / "bundle" / assemble.APP)

    with run.stage("answers") as stage:
        test_ids = encoder.encoded(student, splits["test"], limit)
        shipped, output = parity.kept_answers(exported, test_ids, rows.sha256, store=store, progress=stage.progress)
        stage.took(output)
        logits: dict[arms.Name, Any] = {
            "teacher": taught.logits("teacher", "test"),
            "control": taught.logits("control", "test"),
            "student": taught.logits("student", "test"),
            "exported": shipped,
        }
        truth = classes(rows, splits["test"])

    texts = [row.text for row in splits["test"]]
    with run.stage("bench") as stage:
        measured, output = protocol.bench(
            taught.teacher,
            taught.identity,
            known.teacher,
            draft,
            texts,
            request,
            known.threads,
            store=store,
            progress=stage.progress,
        )
        stage.took(output)

    with run.stage("target") as stage:
        on_target, checked = target.kept_check(draft, known.plan.device, texts, shipped, store=store)
        stage.cached = checked is not None and checked.cached
        if local.is_here(known.plan.device):
            on_target = target.at_home(on_target, next(one for one in measured.subjects if one.name == "exported"))

    with run.stage("report") as stage:
        stage.cached = False
        report = collect.collect(
            request,
            rows=rows,
            teacher=known.teacher,
            plan=made,
            arms=arms.arms(logits, truth, rows.labels, out_of_scope=request.data.out_of_scope, seed=request.seed),
            contrasts=arms.contrasts(logits, truth, seed=request.seed),
            subjects=measured.subjects,
            ratios=protocol.ratios(*measured.subjects),
            environment=measured.environment,
            on_target=on_target,
            exported=exported,
            curves=taught.curves,
            seconds=run.seconds,
            threads=known.threads,
        )
        if for_apps is not None:
            report = replace(report, export={**report.export, "app": asdict(for_apps)})
        assemble.finish(draft.path, folder / "bundle", report)
        (folder / "report.html").write_text(render.render(report), encoding="utf-8")
        (folder / "report.md").write_text(render.render_markdown(report), encoding="utf-8")
        (folder / "report.json").write_text(render.render_json(report), encoding="utf-8")


def _publish(run: Run, result: Output) -> tuple[Path, Path]:
    """Puts bundle and report where the user looks for them, unless they are there already."""
    bundle = _bundle(run.request)
    if not _same_bundle(result.path / "bundle", bundle):
        publish(result.path / "bundle", bundle, owned=manifest.is_bundle, strays=manifest.strays)
        run.changed = True
    for source, suffix in PAGES.items():
        content, target = (result.path / source).read_bytes(), bundle.with_name(bundle.name + suffix)
        if not target.is_file() or target.read_bytes() != content:
            write_atomically(target, content)
    return bundle, bundle.with_name(f"{bundle.name}.html")


def _bundle(request: Request) -> Path:
    return request.out / f"{request.name}-{request.target}"


def _same_bundle(made: Path, published: Path) -> bool:
    try:
        manifest.verify(published)
    except EdgeDistillError:
        return False
    return file_sha256(published / manifest.MANIFEST) == file_sha256(made / manifest.MANIFEST)
