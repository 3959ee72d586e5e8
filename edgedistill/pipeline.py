"""The order of the stages, and nothing else: from a request to a bundle and a report.

    (label) ─► rows ─► plan ─► teacher ─► signals ─► student, control ─► export ─► answers, bench, target ─► report

Every stage goes through the store, so a build that was killed goes on where it was, and one with nothing to do only
compares hashes. The stages that train and measure are imported when they have to run.
"""

from __future__ import annotations

import itertools
import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgedistill import catalog
from edgedistill import plan as planning
from edgedistill.bench.machine import environment
from edgedistill.bundle import manifest
from edgedistill.bundle.assemble import RUNTIME
from edgedistill.config import Request
from edgedistill.data import rows as data
from edgedistill.data.rows import Row
from edgedistill.errors import EdgeDistillError, InputError, PlanRefused
from edgedistill.labeling import stage as labelling
from edgedistill.links import emulated
from edgedistill.stages import UNWATCHED, Run, Watch
from edgedistill.store import Output, Store, canonical, file_sha256, hashes, publish, write_atomically
from edgedistill.teachers import local
from edgedistill.types import SPLITS, Plan, Rows, Teacher

STORE = ".edgedistill"
BUILDS = ("classification",)
"""Tasks that there are students for."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is known before anything is trained."""

    rows: Rows
    teacher: Teacher
    plan: Plan
    facts: planning.RowFacts
    threads: int


def plan(request: Request, watch: Watch = UNWATCHED) -> Plan:
    """What a build would do, without doing it.

    Raises:
        PlanRefused: nothing fits, with the arithmetic.
        InputError: the rows or the teacher cannot be used.
    """
    _check_out(request.out)
    with Store(request.out.parent / STORE) as store:
        return _prepare(Run(request, store, watch), ask=False).plan


def build(request: Request, watch: Watch = UNWATCHED, *, fresh: bool = False) -> Built:
    """From rows and a teacher to a bundle with a report, going on from whatever is finished already.

    Args:
        fresh: do every stage again.

    Raises:
        EdgeDistillError: see `edgedistill.errors` for the kinds; finished stages are kept.
    """
    _check_out(request.out)
    with Store(request.out.parent / STORE, fresh=fresh) as store:
        run = Run(request, store, watch)
        known = _prepare(run)
        result = _make(run, known)
        with run.stage("publish") as stage:
            bundle, page = _publish(run, result)
            stage.cached = not run.changed
        report = json.loads((result.path / "report.json").read_text(encoding="utf-8"))
        return Built(bundle=bundle, page=page, report=report, changed=run.changed)


def _check_out(out: Path) -> None:
    """Refuses a place for the results that could never be written, before hours of work for it."""
    try:
        taken = next(place for place in (out.absolute(), *out.absolute().parents) if place.exists())
        if not taken.is_dir():
            raise InputError(f"nothing can be written into {out}: {taken} is a file", hint="choose another --out")
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder of {out} cannot be made: {error.strerror}", hint="choose another --out, or check permissions"
        ) from error


def _prepare(run: Run, *, ask: bool = True) -> Prepared:
    request = run.request
    device = catalog.device(request.target)
    if request.task not in BUILDS:
        raise PlanRefused(
            f"students for the task {request.task!r} cannot be built yet, only for {', '.join(BUILDS)}",
            hint="edgedistill label has a teacher answer its rows",
        )
    settings, told = request.data, {}
    if request.label.teachers:
        with run.stage("label") as stage:
            settings, ledger, output = labelling.kept(request, run.store, stage.progress, ask=ask)
            stage.took(output)
            stage.note = labelling.summary(ledger)
            told = {"source": Path(request.data.folder).name, "labelling": ledger}
    with run.stage("rows") as stage:
        rows, output = data.prepare(settings, seed=request.seed, store=run.store)
        rows = replace(rows, facts={**rows.facts, **told})
        stage.took(output)
        stage.note = ", ".join(f"{rows.counts[split]} {split}" for split in SPLITS) + f", {len(rows.labels)} labels"
        if rows.facts["rejected"]:
            stage.note += f", {rows.facts['rejected']} rejected: {rows.facts['rejected_file']}"
    with run.stage("plan") as stage:
        teacher = local.find(request.teacher.model, rows.labels)
        facts, output = _facts(run.store, rows, teacher, request)
        stage.took(output)
        threads = max(1, min(catalog.workload(request.bench.workload).threads, device.cores))
        made = planning.plan(request, device, catalog.recipes(), teacher, facts, threads=threads)
        stage.note = made.explanation[0]
    return Prepared(rows=rows, teacher=teacher, plan=made, facts=facts, threads=threads)


def _facts(store: Store, rows: Rows, teacher: Teacher, request: Request) -> tuple[planning.RowFacts, Output]:
    """Lengths and vocabulary of the rows in the teacher's pieces. Raises InputError for a vocabulary too small."""
    size = request.student.vocabulary and min(request.student.vocabulary, teacher.shape.vocabulary)

    def produce(folder: Path, _: Path) -> None:
        from tokenizers import Tokenizer

        from edgedistill.distill.vocab import pieces_of, trim

        tokenizer = Tokenizer.from_file(str(teacher.path / local.TOKENIZER))
        texts = [row.text for row in data.read(rows, "train")]
        special = tokenizer.num_special_tokens_to_add(False)
        lengths = [min(len(ids) + special, request.data.max_tokens) for ids in pieces_of(tokenizer, texts)]
        trimmed = trim(tokenizer, texts, size=size)  # refuses a size that leaves no room for what is needed
        found = {
            "labels": len(rows.labels),
            "tokens": round(statistics.median(lengths)),
            "vocabulary": len(trimmed.kept),
            "teacher_tokenizer_bytes": (teacher.path / local.TOKENIZER).stat().st_size,
            "student_tokenizer_bytes": len(trimmed.tokenizer.to_str(pretty=True).encode()),  # as it is saved
        }
        (folder / "facts.json").write_bytes(canonical(found))

    inputs = {
        "rows": rows.sha256,
        "teacher": teacher.sha256,
        "max_tokens": request.data.max_tokens,
        "vocabulary": size,
    }
    output = store.get("facts", inputs, produce)
    return planning.RowFacts(**json.loads((output.path / "facts.json").read_text())), output


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
            exclude={"out": True, "label": True, "gates": True, "data": {"folder"}, "teacher": {"model"}},
        ),
        "rows": known.rows.sha256,
        "labelling": known.rows.facts.get("labelling"),
        "teacher": known.teacher.sha256,
        "plan": asdict(known.plan),
        "workload": asdict(catalog.workload(run.request.bench.workload)),
        "emulation": None if missing is None else asdict(missing),
        "environment": environment(),
        "runtime": hashes(RUNTIME),
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
    from edgedistill.bundle import assemble
    from edgedistill.distill import teach, tokens
    from edgedistill.evaluate import arms
    from edgedistill.export import ladder, parity
    from edgedistill.report import collect, render

    request, rows, store = run.request, known.rows, run.store
    splits = {split: data.read(rows, split) for split in SPLITS}
    limit = request.data.max_tokens

    with run.stage("teacher") as stage:
        tuned = teach.teach(known.teacher, rows, splits["train"], request, store=store, progress=stage.progress)
        stage.took(tuned)
        stage.note = "has the head already" if tuned is None else "fine-tuned on the labelled rows"
    teacher, identity = (known.teacher.path, known.teacher.sha256) if tuned is None else (tuned.path, tuned.sha256)

    with run.stage("signals") as stage:
        answers = teach.ask(teacher, identity, rows, splits, limit, store=store, progress=stage.progress)
        stage.took(answers)

    trained = {}
    for arm in tokens.ARMS:
        with run.stage(arm) as stage:
            trained[arm] = tokens.distil(
                arm,
                teacher,
                answers,
                rows,
                splits,
                known.plan.student_shape,
                request,
                store=store,
                progress=stage.progress,
            )
            stage.took(trained[arm][1])
    (student, student_output), (control, control_output) = trained["student"], trained["control"]

    with run.stage("export") as stage:
        exported, output = ladder.export(
            student,
            known.plan.recipes,
            ids=tokens.encoded(student, splits["validation"], limit),
            truth=_classes(rows, splits["validation"]),
            logits=tokens.said(student_output, "validation", splits["validation"]),
            tolerance=request.export.tolerance,
            store=store,
            progress=stage.progress,
        )
        stage.took(output)
        stage.note = f"{exported.recipe}, {exported.path.stat().st_size / 1e6:.1f} MB"

    made = known.plan
    if exported.recipe != made.recipes[0].name:
        shipped_as = catalog.recipe(exported.recipe)
        costs = planning.predict(made.student_shape, shipped_as, made.device, known.facts, threads=known.threads)
        made = replace(made, predictions=costs)

    with run.stage("draft") as stage:
        draft = assemble.draft(request, known.plan, student, exported, rows, threads=known.threads, store=store)
        stage.took(draft)

    with run.stage("answers") as stage:
        test_ids = tokens.encoded(student, splits["test"], limit)
        shipped, output = parity.kept_answers(exported, test_ids, rows.sha256, store=store, progress=stage.progress)
        stage.took(output)
        logits: dict[arms.Name, Any] = {
            "teacher": tokens.said(answers, "test", splits["test"]),
            "control": tokens.said(control_output, "test", splits["test"]),
            "student": tokens.said(student_output, "test", splits["test"]),
            "exported": shipped,
        }
        truth = _classes(rows, splits["test"])

    texts = [row.text for row in splits["test"]]
    with run.stage("bench") as stage:
        measured, output = protocol.bench(
            teacher, identity, known.teacher, draft, texts, request, known.threads, store=store, progress=stage.progress
        )
        stage.took(output)

    with run.stage("target") as stage:
        on_target, checked = target.kept_check(draft, known.plan.device, texts, shipped, store=store)
        stage.cached = checked is not None and checked.cached

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
            curves={"student": student.curve, "control": control.curve}
            | ({} if tuned is None else {"teacher": teach.curve(tuned)}),
            seconds=run.seconds,
            threads=known.threads,
        )
        assemble.finish(draft.path, folder / "bundle", report)
        (folder / "report.html").write_text(render.render(report), encoding="utf-8")
        (folder / "report.json").write_text(render.render_json(report), encoding="utf-8")


def _classes(rows: Rows, of_split: list[Row]) -> Any:
    """The class number of each row. Shape: [rows]."""
    import numpy as np

    number = {label: i for i, label in enumerate(rows.labels)}
    return np.array([number[row.label] for row in of_split])


def _publish(run: Run, result: Output) -> tuple[Path, Path]:
    """Puts bundle and report where the user looks for them, unless they are there already."""
    name = f"{run.request.name}-{run.request.target}"
    bundle, page = run.request.out / name, run.request.out / f"{name}.html"
    if not _same_bundle(result.path / "bundle", bundle):
        publish(result.path / "bundle", bundle, owned=manifest.is_bundle, strays=manifest.strays)
        run.changed = True
    for source, target in (("report.html", page), ("report.json", page.with_suffix(".json"))):
        content = (result.path / source).read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            write_atomically(target, content)
    return bundle, page


def _same_bundle(made: Path, published: Path) -> bool:
    try:
        manifest.verify(published)
    except EdgeDistillError:
        return False
    return file_sha256(published / manifest.MANIFEST) == file_sha256(made / manifest.MANIFEST)
