"""The one way to train: the teacher's fine-tuning, every student and its control arm go through `fit`.

`transformers.Trainer` does the steps, so the same code runs on a CPU, on a GPU and on several, and under `accelerate
launch`, with whole models (DDP) or sharded ones (`sharded`). What is ours: batches filled by token count, losses that
do not depend on how a batch is split, and checkpoints that are complete or not there (`checkpoint`).

    lesson ─ rows of a step ─► parts (accumulation × processes) ─► sums of its loss terms ─► ÷ items of the whole step
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from edgedistill.distill import checkpoint, sharded
from edgedistill.distill.batches import ByTokens
from edgedistill.errors import StageError
from edgedistill.teachers import local
from edgedistill.types import Progress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WARM_UP = 0.1
LOGGED_POINTS = 60
"""How many points a training curve has, whatever the number of steps."""
BARS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 24
NO_TERMS = ("epoch", "learning_rate", "grad_norm")
"""What transformers logs beside the loss."""
SCORE = "score"
PROJECTION = "lesson_projection"
"""Name of the submodule with the weights that only the training needs."""

Curve = tuple[Mapping[str, float], ...]
Score = Callable[["PreTrainedModel"], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how hard to train; the learning rate rises over a tenth of the steps, then falls to zero.

    Attributes:
        batch_tokens: size of a step: its number of rows times the longest of them, over all processes.
        parts: a step is computed in so many parts, one after the other, where memory is short.
        patience: epochs without a better score after which training stops; the best weights win. None never stops.
        report_to: trackers that transformers knows, such as "tensorboard", "trackio" or "mlflow".
    """

    epochs: int
    learning_rate: float
    batch_tokens: int
    checkpoint_steps: int
    seed: int
    parts: int = 1
    patience: int | None = None
    report_to: tuple[str, ...] = ()


class Lesson(Protocol):
    """What a training learns from: rows, and the loss terms that are computed on them.

    Attributes:
        lengths: number of tokens of each row.
        weights: factor of each term in the loss; terms that are not named are only logged.
        projection: weights that only the training needs; None when there are none.
    """

    lengths: Sequence[int]
    weights: Mapping[str, float]
    projection: nn.Module | None

    def items(self, rows: Sequence[int]) -> int:
        """What the loss of these rows is divided by: the number of rows, or of tokens."""

    def batch(self, rows: Sequence[int]) -> Mapping[str, Tensor]:
        """The inputs of these rows; there may be none of them."""

    def terms(self, model: nn.Module, batch: Mapping[str, Tensor], done: float) -> Mapping[str, Tensor]:
        """The loss terms, each summed over the items of the batch.

        Args:
            done: share of the training that is behind us, 0 to 1.
        """


def fit(
    model: PreTrainedModel,
    lesson: Lesson,
    schedule: Schedule,
    *,
    work: Path,
    score: Score | None = None,
    progress: Progress = silent,
) -> Curve:
    """Trains a model in place, from the newest complete checkpoint in the work folder if there is one.

    Args:
        work: where checkpoints go.
        score: how good the model is on validation rows, higher is better; asked about once an epoch, for the curve and
            for the schedule's patience.

    Returns:
        The curve: mappings with "step" and the mean of every loss term since the point before, or with the score.

    Raises:
        InputError: accelerate was told to use the first version of FSDP.
        StageError: the loss is no longer a finite number.
    """
    spread = sharded.asked_for()
    torch.manual_seed(schedule.seed)
    if schedule.report_to:  # the work folder goes when the training is done
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(work.parent.parent / "logs" / work.name))
    arguments = _arguments(schedule, work)
    processes = arguments.world_size
    steps = ByTokens(
        lesson.lengths,
        schedule.batch_tokens,
        epochs=schedule.epochs,
        seed=schedule.seed,
        least=processes * schedule.parts,
    )
    _pace(arguments, schedule, steps, scored=score is not None)
    learner = sharded.twin(model) if spread else model
    if lesson.projection is not None:
        learner.add_module(PROJECTION, lesson.projection)
        # DDP looks for unused weights in what the model's own call returns, and would take these for some.
        arguments.ddp_find_unused_parameters = False
    trainer = _Trainer(learner, arguments, lesson, steps, score)
    trainer.add_callback(checkpoint.Seal())
    trainer.add_callback(_Report(progress, len(steps)))
    if schedule.patience is not None and score is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=schedule.patience))
    with arguments.main_process_first(local=False):
        start = checkpoint.newest(work)
    with local.quiet():
        trainer.train(resume_from_checkpoint=start)
    trainer.accelerator.wait_for_everyone()
    if lesson.projection is not None:
        delattr(learner, PROJECTION)
    if spread:
        sharded.collect(learner, model)
    model.train(False).to("cpu")
    return tuple(_points(trainer.state.log_history))


def _points(history: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, float]]:
    for entry in history:
        if "loss" in entry:
            yield {key: float(value) for key, value in entry.items() if key not in NO_TERMS}
        elif f"eval_{SCORE}" in entry:
            yield {"step": float(entry["step"]), SCORE: float(entry[f"eval_{SCORE}"])}


def _arguments(schedule: Schedule, work: Path) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(work),
        use_cpu=not torch.cuda.is_available(),
        num_train_epochs=1,  # the steps of all epochs are one sequence
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="linear",
        weight_decay=0.01,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        gradient_accumulation_steps=schedule.parts,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        seed=schedule.seed,
        save_strategy="steps",
        save_total_limit=2,
        logging_strategy="steps",
        logging_nan_inf_filter=False,
        report_to=list(schedule.report_to) or "none",
        restore_callback_states_from_checkpoint=True,  # patience counts on
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        label_names=["rows"],
    )
    if arguments.n_gpu > 1:  # one process uses one card: DataParallel would split batches behind the lesson's back
        arguments._n_gpu = 1
    return arguments


def _pace(arguments: TrainingArguments, schedule: Schedule, steps: ByTokens, *, scored: bool) -> None:
    """Sets the numbers that follow from the number of steps."""
    arguments.warmup_steps = math.ceil(WARM_UP * len(steps))
    arguments.logging_steps = max(1, len(steps) // LOGGED_POINTS)
    every = steps.steps_per_epoch if scored else schedule.checkpoint_steps
    # At a point of the curve, where no sums are open that a resumed training would lack.
    arguments.save_steps = max(1, round(every / arguments.logging_steps)) * int(arguments.logging_steps)
    if scored:
        arguments.eval_strategy = "steps"
        arguments.eval_steps = arguments.save_steps
    if scored and schedule.patience is not None:
        arguments.load_best_model_at_end = True
        arguments.metric_for_best_model = SCORE
        arguments.greater_is_better = True


class _Parts(Dataset[Mapping[str, Tensor]]):
    """The batches that this process computes, one after the other: its part of each step."""

    def __init__(self, lesson: Lesson, steps: ByTokens, parts: int, process: int, processes: int) -> None:
        self._lesson, self._steps = lesson, steps
        self._parts, self._process, self._processes = parts, process, processes

    def __len__(self) -> int:
        return len(self._steps) * self._parts

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        step, part = divmod(index, self._parts)
        rows = self._steps[step]
        mine = rows[part * self._processes + self._process :: self._parts * self._processes]
        return {**self._lesson.batch(mine), "items": torch.tensor(self._lesson.items(rows))}


class _Trainer(Trainer):
    def __init__(
        self,
        model: PreTrainedModel,
        arguments: TrainingArguments,
        lesson: Lesson,
        steps: ByTokens,
        score: Score | None,
    ) -> None:
        self._lesson = lesson
        self._score = score
        self._total = len(steps)
        self._batches = _Parts(
            lesson, steps, arguments.gradient_accumulation_steps, arguments.process_index, arguments.world_size
        )
        super().__init__(model=model, args=arguments, train_dataset=self._batches, eval_dataset=self._batches)
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = True  # by the items of the whole step, in compute_loss
        if self.is_fsdp_enabled:  # all start from the first process's weights, as under DDP
            plugin = self.accelerator.state.fsdp_plugin
            # accelerate can do so with transformers' models alone; a static student is seeded, alike everywhere.
            plugin.cpu_ram_efficient_loading = hasattr(model, "get_parameter_or_buffer")
        self._sums: dict[str, Tensor] = {}
        self._steps_summed = 0.0

    def get_train_dataloader(self) -> DataLoader[Any]:
        # Not prepared by accelerate: every process picks its own part of each step already.
        return DataLoader(self._batches, batch_size=1, collate_fn=lambda batches: batches[0])

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        items = inputs.pop("items")
        found = self._lesson.terms(model, inputs, self.state.global_step / self._total)
        terms = {name: total / items for name, total in found.items()}
        loss = sum((weight * terms[name] for name, weight in self._lesson.weights.items()), torch.zeros(()).to(items))
        self._add({"loss": loss, **terms})
        if not torch.isfinite(loss):
            kept = checkpoint.last(Path(str(self.args.output_dir)))
            raise StageError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1} "
                f"with learning rate {self._get_learning_rate():.2g}",
                hint="lower the learning rate; "
                + (f"the last good checkpoint is {kept}" if kept else "no checkpoint was reached before"),
            )
        return loss * self.args.world_size  # processes average their gradients, and the loss is a sum over them

    def _add(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value.detach().float()
        self._steps_summed += 1 / self.args.gradient_accumulation_steps

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._steps_summed:
            names = list(self._sums)
            sums = self.accelerator.reduce(torch.stack([self._sums[name] for name in names]), "sum")
            logs |= {name: float(value) / self._steps_summed for name, value in zip(names, sums, strict=True)}
            self._sums, self._steps_summed = {}, 0.0
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        # With sharded checkpoints this writes nothing, and whether the best one is there yet is asked right after it.
        Path(str(output_dir or self.args.output_dir)).mkdir(parents=True, exist_ok=True)
        super().save_model(output_dir, _internal_call)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        if self._score is None:
            return {}
        model: Any = self.accelerator.unwrap_model(self.model)
        model.train(False)
        found = {f"eval_{SCORE}": self._score(model)}
        model.train(True)
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found


class _Report(TrainerCallback):
    """Tells the progress bar about every step, with the curve so far."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        note = f"loss {losses[-1]:.3f} {drawn(losses)}" if losses else ""
        self._progress(state.global_step, self._total, note)


def drawn(values: Sequence[float]) -> str:
    """A curve in one line of text, at most CURVE_WIDTH characters wide; each is the mean of its part."""
    parts = min(len(values), CURVE_WIDTH)
    cuts = [round(part * len(values) / parts) for part in range(parts + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, high = min(means), max(means)
    steps = len(BARS) - 1
    return "".join(BARS[round((mean - low) / (high - low) * steps) if high > low else 0] for mean in means)
