"""From any checkpoint to the best file for a board, in a bundle that runs: what `edgedistill export` does.

checkpoint ─► what it is ─► rows ─► ladder of recipes ─► fits the board? ─► same answers there? ─► bundle
     classifier (static too), reader,  └─► --all: every recipe, timed
     decoder, text-to-text
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill import catalog
from edgedistill.bench.protocol import run_bundle
from edgedistill.bundle import assemble, manifest
from edgedistill.bundle.card import export_card
from edgedistill.config import Request
from edgedistill.errors import InputError, PlanRefused
from edgedistill.export import isa
from edgedistill.export.fit import Fit
from edgedistill.pipeline.exporting.candidates import Candidate, every, of_step
from edgedistill.pipeline.exporting.source import ENGINES, Kind, OnTarget, Source, named
from edgedistill.pipeline.prepare import STORE, check_out
from edgedistill.plan import TABLES
from edgedistill.predictor import Prediction
from edgedistill.stages import UNWATCHED, Run, Watch
from edgedistill.store import Store, canonical, check_target, disk_errors, publish
from edgedistill.teachers import local
from edgedistill.teachers.local import FILES
from edgedistill.types import Device, Exported, Measurement, Recipe

if TYPE_CHECKING:
    from edgedistill.bundle.app import App

RECORD = "export.json"
NOTHING = Prediction()
SMALLER = "choose a smaller recipe with --recipe, a shorter --context, or a bigger board"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What an export came to.

    Attributes:
        metric: what files were judged by, and `judged_on` on which rows.
        reference: how good the checkpoint is by it.
        candidates: the steps of the ladder, or all recipes of the board where they were asked for.
        parity: of the chosen file with the checkpoint.
        latency: of a text on the board, predicted; None where nothing predicts it.
        writing: tokens a second on the board, time to the first one and memory, predicted; empty where nothing does.
        on_target: whether it gives the same answers under the board's instruction set.
        app: what came of the file for apps; None where none is asked for.
        command: how the bundle is run, behind `python -m runtime`; `notes` is what its user should know.
    """

    bundle: Path
    kind: Kind
    target: str
    recipe: str
    metric: str
    judged_on: str
    reference: float
    parity: Mapping[str, float]
    candidates: tuple[Candidate, ...]
    fit: Fit
    latency: Measurement | None
    on_target: OnTarget
    lint: tuple[Mapping[str, Any], ...]
    sensitivity: tuple[Mapping[str, Any], ...]
    command: str
    notes: tuple[str, ...]
    app: App | None = None
    writing: Prediction = NOTHING


def export(
    request: Request,
    checkpoint: str,
    *,
    all_recipes: bool = False,
    context: int | None = None,
    watch: Watch = UNWATCHED,
) -> Made:
    """Exports a checkpoint for the request's board, whatever of the kinds above it is.

    Args:
        checkpoint: a folder, or a name on the hub.
        all_recipes: make and time the files of all recipes of the board, too.
        context: tokens that a decoder's runtime keeps at most; None takes 2,048, or what the model reads.

    Raises:
        InputError: the checkpoint or the rows cannot be used.
        PlanRefused: the board runs no engine for it, or the file does not fit.
        StageError: no recipe answers like the checkpoint.
        IntegrityError: the checkpoint has weights that are not finite.
    """
    check_out(request.out)
    device = catalog.device(request.target)
    with Store(request.out.parent / STORE) as store:
        run = Run(request, store, watch)
        with run.stage("read") as stage:
            folder, kind = found_in(checkpoint)
            name = named(checkpoint, folder)
            bundle = request.out / f"{name}-{device.name}"
            check_target(bundle, owned=manifest.is_bundle, strays=manifest.strays)
            recipes = recipes_for(kind, device, request.export.recipe)
            stage.cached, stage.note = False, f"{name}, {kind}; {len(recipes)} recipes for {device.name}"
        source = source_of(run, kind, folder, name, recipes, device, context)
        with run.stage("export") as stage:
            exported, output = source.write(source.recipes, stage.progress)
            stage.took(output)
            size = exported.ladder[-1]["size_bytes"]
            stage.note = f"{exported.recipe}, {size / 1e6:.1f} MB"
        recipe = source.recipe(exported)
        made = Made(
            bundle=bundle,
            kind=kind,
            target=device.name,
            recipe=exported.recipe,
            metric=source.metric,
            judged_on=source.judged_on,
            reference=exported.ladder[-1]["reference"],
            parity=exported.parity,
            candidates=tuple(map(of_step, exported.ladder)),
            fit=source.size_up(size, recipe),
            on_target=(),
            latency=None if source.latency is None else source.latency(recipe),
            lint=exported.lint,
            sensitivity=exported.sensitivity,
            command=source.command,
            notes=source.notes,
            writing=NOTHING if source.writing is None else source.writing(size, recipe),
        )
        with disk_errors(store.root), tempfile.TemporaryDirectory(dir=store.root) as work:
            if all_recipes:
                with run.stage("recipes") as stage:
                    compared = every(source, device.name, Path(work), seed=request.seed, progress=stage.progress)
                    stage.cached, made = False, replace(made, candidates=compared)
            draft = Path(work) / "draft"
            source.pack(exported, draft, device.name)
            folder = Path(work) / "bundle"
            folder.mkdir()
            if source.app is not None:
                with run.stage("app") as stage:
                    found, output = source.app(draft, stage.progress)
                    stage.took(output)
                    stage.note = f"{found.rows} rows answered alike, {found.size_bytes / 1e6:.1f} MB"
                    shutil.copyfile(output.path / assemble.APP, folder / assemble.APP)
                    made = replace(made, app=found)
            with run.stage("fit") as stage:
                stage.cached, made = False, _measured(source, draft, made, device)
            with run.stage("target") as stage:
                stage.cached, made = False, replace(made, on_target=source.check(draft, exported))
            with run.stage("bundle") as stage:
                stage.cached = False
                _publish(source, folder, made, exported, device)
    return made


def recipes_for(kind: Kind, device: Device, asked: str | None) -> tuple[Recipe, ...]:
    """The recipes for a kind of model on a board, smallest first; from the one that is asked for on, of its engine.

    Raises:
        PlanRefused: the board runs no engine for it, or not the recipe that is asked for.
    """
    engines = [engine for engine in ENGINES[kind] if engine in device.engines]
    if not engines:
        runs = " or ".join(device.engines) or "no engine with a Python package"
        wanted = " or ".join(ENGINES[kind])
        raise PlanRefused(
            f"{device.title} runs {runs}, and a {kind} is exported for {wanted}",
            hint="edgedistill targets shows the boards with " + wanted,
        )
    fitting = [one for engine in engines for one in _of_engine(kind, engine, device)]
    names = [recipe.name for recipe in fitting]
    if asked is not None and asked not in names:
        raise PlanRefused(
            f"recipe {asked!r} is not one for a {kind} on {device.title}", hint=f"it takes {', '.join(names)}"
        )
    first = fitting[0 if asked is None else names.index(asked)]
    rest = [one for one in fitting[fitting.index(first) :] if one.engine == first.engine]
    kept = [one for one in rest if not one.on_request or one.name == asked]
    return tuple(kept) if kind == "decoder" else isa.suited(kept, device.isa, asked=asked)


def others_for(kind: Kind, device: Device, engine: str) -> tuple[Recipe, ...]:
    """The recipes for a kind of model of the board's engines but one."""
    return tuple(
        recipe
        for other in ENGINES[kind]
        if other in device.engines and other != engine
        for recipe in _of_engine(kind, other, device)
        if not recipe.on_request
    )


def _of_engine(kind: Kind, engine: str, device: Device) -> list[Recipe]:
    return [
        one
        for one in catalog.recipes()
        if one.engine == engine and set(one.needs_isa) <= set(device.isa) and _suits(kind, one)
    ]


def _suits(kind: Kind, recipe: Recipe) -> bool:
    """Whether a recipe's scheme is one for a kind of model."""
    if kind == "static classifier":  # has no layers to quantize
        return recipe.scheme in (TABLES, "none")
    return recipe.scheme != TABLES and not (kind == "text-to-text" and recipe.calibrated)


def found_in(checkpoint: str) -> tuple[Path, Kind]:
    """The folder of a checkpoint and what it is, from its config or a static student's manifest alone.

    Raises:
        InputError: there is none, or it is of a kind that is not exported.
    """
    folder = local.locate(checkpoint, patterns=FILES, what="checkpoint")
    if manifest.engine_in(folder) == "static":
        return folder, "static classifier"
    if (folder / manifest.MANIFEST).is_file() and not (folder / "config.json").exists():
        raise InputError(f"{folder} is a bundle, which runs on a device already", hint="give its checkpoint")
    heads = [str(name) for name in local.config_of(folder).get("architectures") or ()]
    if any(name.endswith("ForCausalLM") for name in heads):
        return folder, "decoder"
    if any(name.endswith("ForSequenceClassification") for name in heads):
        return folder, "classifier"
    if any(name.endswith("ForQuestionAnswering") for name in heads):
        return folder, "reader"
    if any(name.endswith("ForConditionalGeneration") for name in heads):
        return folder, "text-to-text"
    raise InputError(
        f"{folder} is {', '.join(heads) or 'of no architecture'}; what is exported are classifiers, readers, "
        "decoders and text-to-text models",
        hint="edgedistill distill makes a classifier of an encoder",
    )


def source_of(
    run: Run, kind: Kind, folder: Path, name: str, recipes: tuple[Recipe, ...], device: Device, context: int | None
) -> Source:
    """A checkpoint with all that its kind decides.

    Raises:
        InputError: the checkpoint, the rows, or what is asked for besides cannot be used together.
    """
    if context is not None and kind != "decoder":
        raise InputError("--context is for decoders", hint="[data] max_tokens says how long a classifier's text may be")
    if run.request.export.app and kind != "classifier":
        raise InputError(
            f"{assemble.APP} is made of classifiers, and {name} is a {kind} model",
            hint="leave --app and [export] app out",
        )
    if kind == "classifier":
        from edgedistill.pipeline.exporting.classifier import classifier

        return classifier(run, folder, name, recipes, device)
    if kind == "static classifier":
        from edgedistill.pipeline.exporting.static import static

        return static(run, folder, name, recipes, others_for(kind, device, recipes[0].engine), device)
    if kind == "reader":
        from edgedistill.pipeline.exporting.reader import reader

        return reader(run, folder, name, recipes, device)
    if kind == "text-to-text":
        from edgedistill.pipeline.exporting.text_to_text import text_to_text

        return text_to_text(run, folder, name, recipes, device)
    from edgedistill.pipeline.exporting.decoder import decoder

    return decoder(run, folder, name, recipes, others_for(kind, device, recipes[0].engine), device, context)


def _measured(source: Source, draft: Path, made: Made, device: Device) -> Made:
    """Loads the file here, to hold its memory against the board."""
    memory = run_bundle(draft, source.texts, "memory")["process"]
    made = replace(made, fit=replace(made.fit, measured=None if memory is None else float(memory["rss"])))
    _check(made, device)
    return made


def _publish(source: Source, folder: Path, made: Made, exported: Exported, device: Device) -> None:
    """Puts the bundle where the user looks for it, with what is known about it.

    Args:
        folder: what else belongs into the bundle.
    """
    (folder / RECORD).write_bytes(canonical(record(made)))
    (folder / assemble.CARD).write_text(export_card(source.name, device.title, record(made)), encoding="utf-8")
    source.pack(exported, folder, device.name)
    publish(folder, made.bundle, owned=manifest.is_bundle, strays=manifest.strays)


def _check(made: Made, device: Device) -> None:
    if made.fit.problem is not None:
        raise PlanRefused(f"{made.recipe} does not fit {device.title}: {made.fit.problem}", hint=SMALLER)


def record(made: Made) -> dict[str, Any]:
    """An export as plain values: what `export.json` in the bundle holds."""
    fit = asdict(made.fit) | {"memory": made.fit.memory}
    return asdict(replace(made, bundle=Path(made.bundle.name))) | {"bundle": made.bundle.name, "fit": fit}
