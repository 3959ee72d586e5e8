"""Training of an encoder classifier: the teacher's fine-tuning, the student and its control arm all go through `fit`.

`transformers.Trainer` does the steps, so the same code runs on a CPU, on a GPU and on several. What is ours: batches
filled by token count, the loss, and checkpoints that are complete or not there (`checkpoint`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from edgedistill.distill import checkpoint
from edgedistill.distill.batches import Batch, ByTokens, collate
from edgedistill.distill.losses import forward_kl, hidden_mse, pooled
from edgedistill.errors import StageError
from edgedistill.teachers import local
from edgedistill.types import Progress, silent

if TYPE_CHECKING:
    from edgedistill.distill.logits import Signal

WARM_UP = 0.1
LOGGED_POINTS = 60
"""How many points a training curve has, whatever the number of steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Encoded rows with their classes. Lists run over rows."""

    ids: Sequence[Sequence[int]]
    classes: Sequence[int]
    pad: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how hard to train; the learning rate rises over a tenth of the steps, then falls to zero."""

    epochs: int
    learning_rate: float
    batch_tokens: int
    checkpoint_steps: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What to learn from a teacher beside the labels.

    Attributes:
        signal: the teacher's answers to exactly the rows of the examples, in their order.
        layers: the teacher layers that the student's layers were copied from.
        temperature: of both distributions in the KL term.
        kd_weight: share of the KL term; the cross-entropy on the labels has the rest.
        hidden_weight: factor of the hidden-state term.
    """

    signal: Signal
    layers: tuple[int, ...]
    temperature: float
    kd_weight: float
    hidden_weight: float


def fit(
    model: PreTrainedModel,
    examples: Examples,
    schedule: Schedule,
    *,
    lesson: Lesson | None = None,
    work: Path,
    progress: Progress = silent,
) -> tuple[Mapping[str, float], ...]:
    """Trains a model in place, from the newest complete checkpoint in the work folder if there is one.

    Args:
        lesson: None trains on the labels alone.
        work: where checkpoints go.

    Returns:
        The curve: mappings with "step" and the mean of every loss term since the point before.

    Raises:
        StageError: the loss is no longer a finite number.
    """
    sampler = ByTokens(
        [len(text) for text in examples.ids], schedule.batch_tokens, epochs=schedule.epochs, seed=schedule.seed
    )
    logging_steps = max(1, len(sampler) // LOGGED_POINTS)
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=1,  # the sampler goes through all epochs in one
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(WARM_UP * len(sampler)),
        weight_decay=0.01,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        seed=schedule.seed,
        save_strategy="steps",
        # At a point of the curve, where no sums are open that a resumed training would lack.
        save_steps=max(1, round(schedule.checkpoint_steps / logging_steps)) * logging_steps,
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=logging_steps,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        label_names=["rows"],
    )
    trainer = _Trainer(model, arguments, examples, sampler, lesson)
    trainer.add_callback(checkpoint.Seal())
    trainer.add_callback(_Report(progress, len(sampler)))
    torch.manual_seed(schedule.seed)
    with local.quiet():
        trainer.train(resume_from_checkpoint=checkpoint.newest(work))
    model.train(False).to("cpu")
    return tuple(
        {key: float(value) for key, value in entry.items() if key in {"step", *_Trainer.TERMS}}
        for entry in trainer.state.log_history
        if "loss" in entry
    )


class _Trainer(Trainer):
    TERMS = ("loss", "ce", "kd", "hidden")

    def __init__(
        self,
        model: PreTrainedModel,
        arguments: TrainingArguments,
        examples: Examples,
        sampler: ByTokens,
        lesson: Lesson | None,
    ) -> None:
        super().__init__(model=model, args=arguments)
        self.remove_callback(PrinterCallback)
        self._examples = examples
        self._sampler = sampler
        self._lesson = lesson
        self._classes = torch.tensor(examples.classes)
        self._sums: dict[str, float] = {}
        self._steps = 0
        if lesson is not None and lesson.hidden_weight and lesson.signal.hidden is not None:
            self._hidden = lesson.signal.hidden[:, [layer + 1 for layer in lesson.layers]]

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = DataLoader(
            range(len(self._classes)),  # type: ignore[arg-type]
            batch_sampler=self._sampler,
            collate_fn=lambda rows: collate(self._examples.ids, rows, self._examples.pad),
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        terms = self._terms(model, inputs)
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.item()
        self._steps += 1
        if not torch.isfinite(terms["loss"]):
            raise StageError(
                f"the loss became {terms['loss'].item()} at step {self.state.global_step + 1} "
                f"with learning rate {self._get_learning_rate():.2g}",
                hint="lower the learning rate; the last good checkpoint is kept",
            )
        return terms["loss"]

    def _terms(self, model: torch.nn.Module, inputs: Batch) -> dict[str, Tensor]:
        rows, mask = inputs["rows"].cpu(), inputs["attention_mask"]
        lesson = self._lesson
        match_hidden = lesson is not None and hasattr(self, "_hidden")
        out = model(input_ids=inputs["input_ids"], attention_mask=mask, output_hidden_states=match_hidden)
        ce = functional.cross_entropy(out.logits.float(), self._classes[rows].to(out.logits.device))
        if lesson is None:
            return {"loss": ce}
        kd = forward_kl(out.logits, lesson.signal.logits[rows].to(out.logits.device), lesson.temperature)
        loss = lesson.kd_weight * kd + (1 - lesson.kd_weight) * ce
        terms = {"ce": ce, "kd": kd}
        if match_hidden:
            teacher = self._hidden[rows].to(out.logits.device)
            terms["hidden"] = hidden_mse(pooled(out.hidden_states[1:], mask), teacher)
            loss = loss + lesson.hidden_weight * terms["hidden"]
        return terms | {"loss": loss}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._steps:
            logs |= {name: total / self._steps for name, total in self._sums.items()}
            self._sums, self._steps = {}, 0
        super().log(logs, start_time)


class _Report(TrainerCallback):
    """Tells the progress bar about every step."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        entry = state.log_history[-1] if state.log_history else {}
        self._progress(state.global_step, self._total, f"loss {entry['loss']:.3f}" if "loss" in entry else "")
