"""A decoder student that starts as a piece of its teacher: some layers, the widths that matter most, fewer pieces.

It works on what the Llama-like families of transformers have in common: one residual stream, RMS norms, rotary
positions, grouped queries and a gated feed-forward block. `AXES` says which width every weight of theirs runs along, so
a student is the teacher's weights with rows and columns left out, and a weight that is not in the table is refused.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgedistill.distill.decoder_shape import DecoderShape, known, shape_of
from edgedistill.errors import InputError
from edgedistill.teachers.causal import check
from edgedistill.teachers.local import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgedistill.distill.batches import Batch

AXES: Mapping[str, tuple[str, ...]] = {
    "embed_tokens": ("pieces", "hidden"),
    "lm_head": ("pieces", "hidden"),
    "q_proj": ("queries", "hidden"),
    "k_proj": ("keys", "hidden"),
    "v_proj": ("keys", "hidden"),
    "qkv_proj": ("queries, keys, values", "hidden"),
    "o_proj": ("hidden", "queries"),
    "gate_proj": ("units", "hidden"),
    "up_proj": ("units", "hidden"),
    "gate_up_proj": ("gates, units", "hidden"),
    "down_proj": ("hidden", "units"),
    "q_norm": ("head",),
    "k_norm": ("head",),
    "norm": ("hidden",),
    "input_layernorm": ("hidden",),
    "post_attention_layernorm": ("hidden",),
    "pre_feedforward_layernorm": ("hidden",),
    "post_feedforward_layernorm": ("hidden",),
}
"""What the rows, and the columns where there are any, of each module's weight stand for. A bias has the rows alone."""

PER_LAYER = ("layer_types", "no_rope_layers")
"""Lists in a config with one entry a layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """How much each part of a decoder matters, in units that compare within one row only.

    Attributes:
        hidden: [hidden], of each dimension of the residual stream.
        units: [layers, ffn], of each inner unit.
        groups: [layers, kv_heads], of each key-value head with the query heads that read it.
    """

    hidden: Tensor
    units: Tensor
    groups: Tensor


def initialise(
    teacher: PreTrainedModel,
    shape: DecoderShape,
    kept: Sequence[int] | None = None,
    importance: Importance | None = None,
) -> PreTrainedModel:
    """A student with weights copied from the teacher, in its dtype, on the CPU. It draws no random numbers.

    A narrower residual stream keeps the dimensions that matter most in all layers alike, as Minitron does (Muralidharan
    et al., 2024, section 2.2). The RMS of a norm is then taken over the kept dimensions only; training makes up for it.

    Args:
        teacher: a decoder of one of the FAMILIES.
        shape: `layers` are the teacher layers to copy; `heads` and `kv_heads` keep the teacher's ratio.
        kept: the teacher's ids of the student's vocabulary; None keeps them all.
        importance: from `importance_of`; only a student with narrower layers needs it.

    Raises:
        InputError: the family is unknown, the shape is no part of the teacher, or a special token is not kept.
    """
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    full = shape_of(teacher)
    _check(shape, full, kept, importance)
    config = config_for(teacher, shape, kept)
    with no_init_weights():
        untyped: Any = AutoModelForCausalLM
        student: PreTrainedModel = untyped.from_config(config, dtype=teacher.dtype)
    cuts = _cuts(shape, full, kept, importance)
    source = teacher.state_dict()
    weights = {name: _cut(source, name, shape, cuts) for name in student.state_dict()}
    _rescale(weights, teacher, shape)
    student.load_state_dict(weights)
    student.tie_weights()  # which building a model without its random weights leaves out
    student.generation_config = _renumbered(copy.deepcopy(teacher.generation_config), kept)
    student.train(False)
    return student


@torch.inference_mode()
def importance_of(teacher: PreTrainedModel, batches: Iterable[Batch]) -> Importance:
    """Measures what each width contributes on some rows of the task; a few hundred are enough.

    Residual dimensions count by the sum over all norms of |output|, key-value groups by the norms of what their heads
    put out (Muralidharan et al., 2024, section 2.2), and units by their summed |act(gate) × up| times the norm of their
    output weights, so that a unit that nobody hears does not count.
    """
    found = shape_of(teacher)
    layers: Any = teacher.get_submodule("model.layers")
    hidden = torch.zeros(found.hidden, device=teacher.device)
    units = torch.zeros(len(layers), found.ffn, device=teacher.device)
    groups = torch.zeros(len(layers), found.kv_heads, device=teacher.device)
    mask = torch.zeros(0, dtype=torch.bool)

    def normed(_module: Any, _inputs: Any, output: Tensor) -> None:
        hidden.add_(output[mask].float().abs().sum(dim=0))

    def fed(number: int, inputs: tuple[Tensor]) -> None:
        units[number] += inputs[0][mask].float().abs().sum(dim=0)

    def attended(number: int, inputs: tuple[Tensor]) -> None:
        written = inputs[0][mask].float()
        heads = written.reshape(len(written), found.kv_heads, -1, found.head_size)
        groups[number] += heads.norm(dim=-1).sum(dim=(0, 2))

    hooks = [
        module.register_forward_hook(normed)
        for name, module in teacher.named_modules()
        if AXES.get(name.rpartition(".")[2]) == ("hidden",)
    ]
    for number, layer in enumerate(layers):
        hooks += [
            layer.mlp.down_proj.register_forward_pre_hook(lambda _m, inputs, number=number: fed(number, inputs)),
            layer.self_attn.o_proj.register_forward_pre_hook(
                lambda _m, inputs, number=number: attended(number, inputs)
            ),
        ]
    try:
        for batch in batches:
            mask = batch["attention_mask"].to(teacher.device).bool()
            inputs = {"input_ids": batch["input_ids"].to(teacher.device), "attention_mask": mask.long()}
            teacher.get_submodule("model")(**inputs, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    heard = torch.stack([layer.mlp.down_proj.weight.float().norm(dim=0) for layer in layers])
    return Importance(hidden=hidden.cpu(), units=(units * heard).cpu(), groups=groups.cpu())


@torch.inference_mode()
def influence(teacher: PreTrainedModel, rows: Iterable[Sequence[int]]) -> list[float]:
    """How much each layer turns what passes through it: 1 − cos(input, output), averaged over all tokens of the rows.

    Block influence (Men et al., 2024, ShortGPT, section 3.2). Layers with little of it are missed least.

    Args:
        rows: token ids; a few rows of the task are enough.
    """
    layers: Any = teacher.get_submodule("model.layers")
    sums = torch.zeros(len(layers))
    tokens = 0

    def record(number: int, inputs: tuple[Tensor, ...], output: Any) -> None:
        out = output if isinstance(output, Tensor) else output[0]
        sums[number] += (1 - torch.cosine_similarity(inputs[0].float(), out.float(), dim=-1)).sum().cpu()

    hooks = [
        layer.register_forward_hook(lambda _m, inputs, out, number=number: record(number, inputs, out))
        for number, layer in enumerate(layers)
    ]
    try:
        for ids in rows:
            teacher.get_submodule("model")(input_ids=torch.tensor([ids], device=teacher.device), use_cache=False)
            tokens += len(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return [float(total) / tokens for total in sums]


def load_student(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A named checkpoint that is trained as it is, whatever the teacher's architecture.

    Args:
        folder: with safetensors and a config.
        dtype: of the weights. Training all of them wants float32; under LoRA they only stand by, and bfloat16 will do.

    Raises:
        InputError: the checkpoint is pickled, incomplete, wants to run its own code, or is of an unknown family.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    check(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    known(str(config.get("model_type")), str(folder))
    with quiet():
        try:
            untyped: Any = AutoModelForCausalLM
            model, found = untyped.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{folder} cannot be loaded: {said}", hint="is the checkpoint complete?") from error
    if missing := sorted(found["missing_keys"]):  # transformers would fill them up with random numbers
        raise InputError(f"{folder} lacks {len(missing)} weights, such as {missing[0]}", hint="download it again")
    model.train(False)
    return model  # type: ignore[no-any-return]


def _check(shape: DecoderShape, full: DecoderShape, kept: Sequence[int] | None, importance: Importance | None) -> None:
    """Raises InputError unless the shape is a part of the teacher that can be copied."""
    wrong = [
        f"{name} {getattr(shape, name)} of {getattr(full, name)}"
        for name in ("hidden", "ffn", "kv_heads", "vocabulary", "positions")
        if not 0 < getattr(shape, name) <= getattr(full, name)
    ]
    for name in ("tied", "norms", "head_norms", "biases", "head_size"):
        if getattr(shape, name) != getattr(full, name):
            wrong.append(f"{name} {getattr(shape, name)}, which only the teacher's {getattr(full, name)} can be")
    if not shape.layers or sorted({*shape.layers} & {*full.layers}) != list(shape.layers):
        wrong.append(f"layers {shape.layers} of {len(full.layers)}, in order and each once")
    if shape.heads * full.kv_heads != full.heads * shape.kv_heads:
        wrong.append(f"{shape.heads} heads on {shape.kv_heads} key-value heads, not {full.heads} on {full.kv_heads}")
    if shape.vocabulary != (full.vocabulary if kept is None else len(kept)):
        wrong.append(f"a vocabulary of {shape.vocabulary} with {'all' if kept is None else len(kept)} pieces kept")
    if kept is not None and (len({*kept}) < len(kept) or not all(0 <= piece < full.vocabulary for piece in kept)):
        wrong.append("kept pieces that occur twice or that the teacher does not have")
    narrower = (shape.hidden, shape.ffn, shape.kv_heads) != (full.hidden, full.ffn, full.kv_heads)
    if narrower and importance is None:
        wrong.append("narrower layers without knowing which widths matter")
    if wrong:
        raise InputError(
            f"no such student can be cut from this teacher: {'; '.join(wrong)}",
            hint="a student has some of its teacher's layers, widths, head groups and pieces",
        )


def config_for(teacher: PreTrainedModel, shape: DecoderShape, kept: Sequence[int] | None = None) -> Any:
    """The teacher's config with the student's sizes.

    Raises:
        InputError: the family cannot have them, or a special token is not kept.
    """
    from huggingface_hub.errors import StrictDataclassClassValidationError

    config: Any = copy.deepcopy(teacher.config)
    before = config.max_position_embeddings
    for name in PER_LAYER:
        if getattr(config, name, None) is not None:
            setattr(config, name, [getattr(config, name)[layer] for layer in shape.layers])
    sizes = {
        "num_hidden_layers": len(shape.layers),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "name_or_path": "",
        "architectures": [type(teacher).__name__],
    }
    for name, value in sizes.items():
        setattr(config, name, value)
    rope = config.rope_parameters
    for parameters in [rope] if "rope_type" in rope else rope.values():
        # Without a factor this scaling takes the ratio of both lengths, and a student of fewer positions another one.
        if parameters["rope_type"] == "longrope" and parameters.get("factor") is None:
            parameters["factor"] = before / parameters["original_max_position_embeddings"]
    try:
        config.validate()
    except StrictDataclassClassValidationError as error:
        raise InputError(
            f"transformers refuses such a student: {error.__cause__}", hint="choose other widths"
        ) from error
    return _renumbered(config, kept)


def _renumbered(settings: Any, kept: Sequence[int] | None) -> Any:
    """Gives the special tokens of a config their numbers in the student's vocabulary."""
    if kept is None or settings is None:
        return settings
    new = {old: number for number, old in enumerate(kept)}
    for name, value in settings.to_dict().items():
        if not name.endswith("_token_id") or value is None:
            continue
        olds = value if isinstance(value, list) else [value]
        if lost := [old for old in olds if old not in new]:
            raise InputError(
                f"the student's vocabulary lacks the teacher's {name} {lost[0]}", hint="keep every special token"
            )
        numbers = [new[old] for old in olds]
        setattr(settings, name, numbers if isinstance(value, list) else numbers[0])
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        if getattr(settings, name, None):
            setattr(settings, name, [new[old] for old in getattr(settings, name) if old in new])
    return settings


def _cuts(
    shape: DecoderShape, full: DecoderShape, kept: Sequence[int] | None, importance: Importance | None
) -> list[dict[str, Tensor]]:
    """Which rows or columns stay of every axis that gets shorter: one dict a student layer, the last of the rest."""
    rest: dict[str, Tensor] = {} if kept is None else {"pieces": torch.tensor(kept)}
    if importance is None:
        return [rest] * (len(shape.layers) + 1)
    if shape.hidden < full.hidden:
        rest["hidden"] = strongest(importance.hidden, shape.hidden)
    cuts = []
    for layer in shape.layers:
        cut = dict(rest)
        if shape.ffn < full.ffn:
            units = strongest(importance.units[layer], shape.ffn)
            cut |= {"units": units, "gates, units": torch.cat((units, units + full.ffn))}
        if shape.kv_heads < full.kv_heads:
            groups = strongest(importance.groups[layer], shape.kv_heads)
            keys = _blocks(groups, full.head_size)
            queries = _blocks(groups, full.head_size * full.heads // full.kv_heads)
            first_key = full.heads * full.head_size
            first_value = first_key + full.kv_heads * full.head_size
            fused = torch.cat((queries, keys + first_key, keys + first_value))
            cut |= {"keys": keys, "queries": queries, "queries, keys, values": fused}
        cuts.append(cut)
    return [*cuts, rest]


def strongest(importance: Tensor, count: int) -> Tensor:
    """Which of some widths stay, in order."""
    return importance.topk(count).indices.sort().values


def _blocks(numbers: Tensor, width: int) -> Tensor:
    """The positions of whole blocks of a width: blocks 0 and 2 of width 2 are positions 0, 1, 4 and 5."""
    return (numbers[:, None] * width + torch.arange(width)).flatten()


def _cut(source: Mapping[str, Tensor], name: str, shape: DecoderShape, cuts: Sequence[dict[str, Tensor]]) -> Tensor:
    """One weight of the student: the teacher's, with what does not stay left out."""
    parts = name.split(".")
    cut = cuts[-1]
    if parts[1] == "layers":
        cut = cuts[int(parts[2])]
        parts[2] = str(shape.layers[int(parts[2])])
    if parts[-2] not in AXES:
        raise InputError(f"nothing is known of the weight {name}", hint="use a plain checkpoint of a known family")
    value = source[".".join(parts)]
    for number, axis in enumerate(AXES[parts[-2]][: value.dim()]):
        if axis in cut:
            value = value.index_select(number, cut[axis].to(value.device))
    return value


def _rescale(weights: dict[str, Tensor], teacher: PreTrainedModel, shape: DecoderShape) -> None:
    """Keeps the residual stream of a narrower Gemma as it was: its embeddings are multiplied by √hidden."""
    config: Any = teacher.config
    if not hasattr(teacher.get_input_embeddings(), "embed_scale") or shape.hidden == config.hidden_size:
        return
    factor = (config.hidden_size / shape.hidden) ** 0.5
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] * factor
    if shape.tied:  # the same rows are the output's, so the last norm, which multiplies by 1 + weight, takes it back
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        weights["model.norm.weight"] = (1 + weights["model.norm.weight"]) / factor - 1
