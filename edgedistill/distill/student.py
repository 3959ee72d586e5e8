"""A student that starts as a piece of its teacher: some layers, their strongest inner units, a smaller vocabulary."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgedistill.types import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgedistill.distill.batches import Batch

EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
POSITIONS = "bert.embeddings.position_embeddings.weight"


def initialise(teacher: PreTrainedModel, shape: Shape, kept: tuple[int, ...], importance: Tensor) -> PreTrainedModel:
    """A student with weights copied from the teacher. It draws no random numbers.

    Args:
        teacher: a fine-tuned BERT classifier.
        shape: `layers` are the teacher layers to copy, `ffn` the number of inner units to keep in each.
        kept: the teacher's ids of the student's vocabulary.
        importance: [teacher layers, teacher ffn], from `unit_importance`; the largest units stay.
    """
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(shape.layers)
    config.intermediate_size = shape.ffn
    config.vocab_size = len(kept)
    config.max_position_embeddings = shape.positions
    config.pad_token_id = kept.index(config.pad_token_id or 0)
    config.architectures = ["BertForSequenceClassification"]
    units = {layer: importance[layer].topk(shape.ffn).indices.sort().values for layer in shape.layers}
    source = teacher.state_dict()
    weights = {}
    student = type(teacher)(config)
    for name in student.state_dict():
        if name == EMBEDDINGS:
            weights[name] = source[name][list(kept)]
        elif name == POSITIONS:
            weights[name] = source[name][: shape.positions]
        elif ".layer." in name:
            before, number, after = _layer_parts(name)
            layer = shape.layers[number]
            value = source[f"{before}.layer.{layer}.{after}"]
            if after.startswith("intermediate.dense"):
                value = value[units[layer]]
            elif after == "output.dense.weight":
                value = value[:, units[layer]]
            weights[name] = value
        elif name in source:
            weights[name] = source[name]
    student.load_state_dict({name: value.clone() for name, value in weights.items()}, strict=False)
    student.train(False)
    return student


def _layer_parts(name: str) -> tuple[str, int, str]:
    before, rest = name.split(".layer.", 1)
    number, after = rest.split(".", 1)
    return before, int(number), after


@torch.inference_mode()
def unit_importance(teacher: PreTrainedModel, batches: Iterable[Batch]) -> Tensor:
    """How much each inner unit of each layer contributes: its summed |activation| times the norm of its output weights.

    Args:
        batches: some rows of the task; a few hundred are enough.

    Returns:
        [layers, ffn], float32.
    """
    layers: Any = teacher.get_submodule("bert.encoder.layer")
    sums = [torch.zeros(()) for _ in layers]

    def record(index: int, mask: Tensor, activation: Tensor) -> None:
        sums[index] = sums[index] + activation[mask].abs().sum(dim=0)

    for batch in batches:
        mask = batch["attention_mask"].bool()
        hooks = [
            layer.intermediate.register_forward_hook(lambda _m, _a, out, i=i, mask=mask: record(i, mask, out))
            for i, layer in enumerate(layers)
        ]
        try:
            teacher(**{name: value for name, value in batch.items() if name != "rows"})
        finally:
            for hook in hooks:
                hook.remove()
    norms = [layer.output.dense.weight.norm(dim=0) for layer in layers]
    return torch.stack([total * norm for total, norm in zip(sums, norms, strict=True)])
