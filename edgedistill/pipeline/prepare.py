"""What is known before anything is trained: the rows, the teacher, and the plan."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgedistill import catalog
from edgedistill import plan as planning
from edgedistill.config import Data, Request, weighing
from edgedistill.data import rows as data
from edgedistill.errors import InputError
from edgedistill.export import isa
from edgedistill.labeling import stage as labelling
from edgedistill.stages import Run
from edgedistill.store import Output, Store, canonical
from edgedistill.teachers import local
from edgedistill.types import SPLITS, Plan, Rows, Teacher

STORE = ".edgedistill"
STATIC = "student: tables of vectors for pieces and their neighbours, no layers; 8 bits, judged as the file that ships"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is known before anything is trained; `others` teach beside the teacher that the student is made of."""

    rows: Rows
    teacher: Teacher
    plan: Plan
    facts: planning.RowFacts
    threads: int
    others: tuple[Teacher, ...] = ()


def check_out(out: Path) -> None:
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


def prepare(run: Run, *, ask: bool = True) -> Prepared:
    """Rows, teacher and plan of a classifier.

    Args:
        ask: False asks no teacher for labels: then the rows must have them.

    Raises:
        PlanRefused: nothing fits, with the arithmetic.
        InputError: the rows or the teacher cannot be used.
    """
    request = run.request
    device = catalog.device(request.target)
    settings, told = labelled(run, ask=ask)
    with run.stage("rows") as stage:
        rows, output = data.prepare(settings, seed=request.seed, store=run.store, column=request.distill.column)
        rows = replace(rows, facts={**rows.facts, **told})
        stage.took(output)
        stage.note = counted(rows)
    with run.stage("plan") as stage:
        teacher = local.find(request.teacher.model, rows.labels)
        others = tuple(local.find(one.model, rows.labels, copied=False) for one in request.distill.teachers)
        weighing.check_different(request.teachers, [one.sha256 for one in (teacher, *others)])
        facts, output = _facts(run.store, rows, teacher, request)
        stage.took(output)
        threads = max(1, min(catalog.workload(request.bench.workload).threads, device.cores))
        if request.student.kind == "static":  # needs no engine, and has no layers to plan
            made = Plan(device=device, recipes=(), student_shape=teacher.shape, predictions=(), explanation=(STATIC,))
        else:
            suited = isa.suited(catalog.recipes(), device.isa, asked=request.export.recipe)
            made = planning.plan(request, device, suited, teacher, facts, threads=threads)
        if others:
            groups = [row.group for row in data.read(rows, "train")]
            made = replace(made, explanation=(*made.explanation, *teaching(request, groups)))
        stage.note = made.explanation[0]
    return Prepared(rows=rows, teacher=teacher, plan=made, facts=facts, threads=threads, others=others)


def teaching(request: Request, groups: Sequence[str]) -> tuple[str, ...]:
    """Which teachers teach, and with what weight, for people.

    Args:
        groups: the training rows' values of the column.

    Raises:
        InputError: there are rows that none of them serves.
    """
    distill = request.distill
    if distill.column is not None:
        weighing.check_served(request.teachers, distill.column, groups)
    return weighing.explained(request.teachers, distill.combine, distill.column, groups)


def labelled(run: Run, *, ask: bool) -> tuple[Data, dict[str, Any]]:
    """Where the rows are once teachers have answered those without an answer, and what the report tells of that."""
    if not run.request.label.teachers:
        return run.request.data, {}
    with run.stage("label") as stage:
        settings, ledger, output = labelling.kept(run.request, run.store, stage.progress, ask=ask)
        stage.took(output)
        stage.note = labelling.summary(ledger)
    return settings, {"source": Path(run.request.data.folder).name, "labelling": ledger}


def counted(rows: Rows) -> str:
    """One line on how many rows there are."""
    note = ", ".join(f"{rows.counts[split]} {split}" for split in SPLITS)
    if rows.labels:
        note += f", {len(rows.labels)} labels"
    if rows.facts["rejected"]:
        note += f", {rows.facts['rejected']} rejected: {rows.facts['rejected_file']}"
    return note


def _facts(store: Store, rows: Rows, teacher: Teacher, request: Request) -> tuple[planning.RowFacts, Output]:
    """Lengths and vocabulary of the rows in the teacher's pieces. Raises InputError for a vocabulary too small."""
    size = request.student.vocabulary and min(request.student.vocabulary, teacher.shape.vocabulary)

    def produce(folder: Path, _: Path) -> None:
        from tokenizers import Tokenizer

        from edgedistill.distill.vocab import trim

        tokenizer = Tokenizer.from_file(str(teacher.path / local.TOKENIZER))
        tokenizer.no_padding()
        tokenizer.enable_truncation(request.data.max_tokens)
        train = data.read(rows, "train")
        lengths = [len(found.ids) for found in tokenizer.encode_batch_fast([row.content for row in train])]
        # Refuses a size that leaves no room for what is needed.
        trimmed = trim(tokenizer, [text for row in train for text in row.texts], size=size)
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
