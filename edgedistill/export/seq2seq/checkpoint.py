"""What a checkpoint of the T5 or BART family computes, in one description for both.

The families differ less than their code does. Both add what a step gives (attention to the own text, to the text that
was read, and the wide layers) to a running sum, and both have one norm before the first step and one behind each:

    T5    the sum runs on as it is; the norm behind a step, which its code calls the next step's own, has no shift
    BART  the sum runs on normed

T5 tells positions apart by what it adds to the scores of attention for each distance, BART by what it adds to each
word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import InputError, IntegrityError, StageError
from edgedistill.teachers.causal import check
from edgedistill.teachers.local import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Array = NDArray[np.float32]

FAMILIES = ("t5", "mt5", "bart")
ACTIVATIONS = {"relu": "Relu", "gelu": "Gelu", "gelu_new": "FastGelu"}
"""The engine's operator for each; the last two are fused ones."""
T5_CONTEXT = 512
"""Tokens that T5 was trained on. Its distances have no limit, so a checkpoint may name more."""
BART_EPSILON = 1e-5
"""Of its norms; its config does not name it."""
BART_OFFSET = 2
"""Rows at the head of BART's positions that no position uses."""
_PARTS = ("query", "key", "value", "output")
_BIAS = "SelfAttention.relative_attention_bias"


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A linear map. Shapes: kernel [in, out], bias [out]."""

    kernel: Array
    bias: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The four maps around one attention."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer.

    Attributes:
        own: attention to the text itself. `cross`: of the decoder, to the text that was read.
        wide: what goes through the activation, and where there are two, what that is multiplied with.
        narrow: back to the model's width.
    """

    own: Attention
    cross: Attention | None
    wide: tuple[Linear, ...]
    narrow: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """The scale and shift of a layer norm; without a shift it is the root mean square's. Shapes: [width]."""

    scale: Array
    shift: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The encoder or the decoder.

    Attributes:
        table: the embeddings of words, [vocabulary, width].
        heads: of attention, each of `head` numbers.
        positions: added to the word at each position, [positions, width].
        distances: added to the score of a key by its distance from the query, [heads, distances]; the first is
            `furthest` before the query, and what is further in either direction counts like the outermost.
        norms: before the first step, and behind each.
    """

    table: Array
    heads: int
    head: int
    positions: Array | None
    distances: Array | None
    furthest: int
    norms: tuple[Norm, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """All that the two graphs are made of.

    Attributes:
        table_scale: what embeddings of words are multiplied with.
        head: the map to the vocabulary, [vocabulary, width]; None where it is the decoder's table.
        attention_scale: of the scores of attention; None is the usual one over the root of the head's size.
        normed_sum: whether the running sum is what the norm gives.
        context: tokens that a text, and an answer, may have.
        start, ends, first: the token before the answer, those that end it, and one that it must begin with.
    """

    encoder: Stack
    decoder: Stack
    table_scale: float
    head: Array | None
    head_bias: Array | None
    activation: str
    epsilon: float
    attention_scale: float | None
    normed_sum: bool
    context: int
    start: int
    ends: tuple[int, ...]
    first: int | None


def load(student: Path) -> PreTrainedModel:
    """The model of a checkpoint in float32, from safetensors alone.

    Raises:
        InputError: the checkpoint is not complete, or wants to run its own code.
        StageError: it is of another family.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSeq2SeqLM

    check(student)
    family = json.loads((student / "config.json").read_text(encoding="utf-8")).get("model_type")
    if family not in FAMILIES:
        raise StageError(
            f"{student} is of the family {family!r}, which is not written as an encoder and a decoder",
            hint=f"use one of {', '.join(FAMILIES)}; a decoder alone is exported to GGUF or for onnxruntime-genai",
        )
    untyped: Any = AutoModelForSeq2SeqLM
    with quiet():
        try:
            model, found = untyped.from_pretrained(
                student,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"transformers cannot load {student}: {said}", hint="is the checkpoint complete?"
            ) from error
    if missing := sorted(found["missing_keys"]):  # transformers would fill them up with random numbers
        raise InputError(
            f"{student} lacks {len(missing)} weights that its config asks for, such as {missing[0]}",
            hint="download it again",
        )
    loaded: PreTrainedModel = model.train(False)
    return loaded


def read(student: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        InputError: the checkpoint is not complete, or wants to run its own code.
        IntegrityError: it has weights that are not finite.
        StageError: it is of another family, or of an unusual form.
    """
    model = load(student)
    weights = {}
    for name, weight in model.state_dict().items():
        weights[name] = weight.numpy()
        if not np.isfinite(weights[name]).all():
            raise IntegrityError(f"{student}: the weight {name} has values that are not finite", hint="train it again")
    config: Any = model.config
    activation = config.activation_function if config.model_type == "bart" else config.dense_act_fn
    if activation not in ACTIVATIONS:
        raise StageError(
            f"{student} has the activation {activation!r}", hint=f"use one with {', '.join(sorted(ACTIVATIONS))}"
        )
    told: Any = model.generation_config
    start = told.bos_token_id if told.decoder_start_token_id is None else told.decoder_start_token_id
    if start is None:
        raise InputError(
            f"{student} does not say which token an answer starts from",
            hint="name decoder_start_token_id in its generation_config.json",
        )
    shape = _bart(config, weights) if config.model_type == "bart" else _t5(config, weights)
    return Checkpoint(
        **shape,
        activation=activation,
        start=int(start),
        ends=ends_of(told),
        first=told.forced_bos_token_id,
        context=context_of(config),
    )


def context_of(config: Any) -> int:
    """Tokens that a text, and an answer, may have: what the checkpoint was trained on."""
    found: int = (
        config.max_position_embeddings if config.model_type == "bart" else getattr(config, "n_positions", T5_CONTEXT)
    )
    return found


def ends_of(told: Any) -> tuple[int, ...]:
    """The tokens that end an answer, from a generation config."""
    ends = [] if told.eos_token_id is None else told.eos_token_id
    return tuple(ends) if isinstance(ends, list) else (ends,)


def _t5(config: Any, weights: Mapping[str, Array]) -> dict[str, Any]:
    """T5, its version 1.1, FLAN-T5 and mT5: no shifts, no scale of scores, distances in place of positions."""

    def linear(name: str) -> Linear:
        return Linear(kernel=np.ascontiguousarray(weights[f"{name}.weight"].T))

    def attention(name: str) -> Attention:
        return Attention(**{part: linear(f"{name}.{part[0]}") for part in _PARTS})

    def stack(side: str, layers: int) -> Stack:
        crosses = side == "decoder"
        made, norms = [], []
        for number in range(layers):
            name = f"{side}.block.{number}.layer"
            last = 2 if crosses else 1
            wide = ("wi_0", "wi_1") if config.is_gated_act else ("wi",)
            made.append(
                Layer(
                    own=attention(f"{name}.0.SelfAttention"),
                    cross=attention(f"{name}.1.EncDecAttention") if crosses else None,
                    wide=tuple(linear(f"{name}.{last}.DenseReluDense.{part}") for part in wide),
                    narrow=linear(f"{name}.{last}.DenseReluDense.wo"),
                )
            )
            norms += [Norm(scale=weights[f"{name}.{step}.layer_norm.weight"]) for step in range(last + 1)]
        scale = weights[f"{side}.final_layer_norm.weight"]
        if crosses and getattr(config, "scale_decoder_outputs", False):
            scale = scale * np.float32(config.d_model**-0.5)  # what goes into the head; the norm has a scale anyway
        return Stack(
            table=weights[f"{side}.embed_tokens.weight"],
            heads=config.num_heads,
            head=config.d_kv,
            positions=None,
            distances=_distances(config, weights[f"{side}.block.0.layer.0.{_BIAS}.weight"], both_ways=not crosses),
            furthest=config.relative_attention_max_distance,
            norms=(*norms, Norm(scale=scale)),
            layers=tuple(made),
        )

    decoder = stack("decoder", config.num_decoder_layers)
    head = weights["lm_head.weight"]
    return {
        "encoder": stack("encoder", config.num_layers),
        "decoder": decoder,
        "table_scale": 1.0,
        "head": None if np.array_equal(head, decoder.table) else head,
        "head_bias": None,
        "epsilon": config.layer_norm_epsilon,
        "attention_scale": 1.0,
        "normed_sum": False,
    }


def _distances(config: Any, buckets: Array, *, both_ways: bool) -> Array:
    """What T5 adds to a score for each distance of the key from the query: [heads, distances].

    Near distances have a value each, further ones share it in ranges that grow with the logarithm (Raffel et al., 2020,
    section 2.1). The last range begins before the furthest distance, so all beyond are like it, and the graph needs
    neither the logarithm nor the buckets. Computed as transformers does: at a range's edge rounding decides.

    Args:
        buckets: [buckets, heads].
        both_ways: whether keys behind the query are looked at, in a half of the buckets of their own.
    """
    import torch

    furthest = config.relative_attention_max_distance
    count = config.relative_attention_num_buckets // (2 if both_ways else 1)
    near = count // 2
    away = torch.arange(furthest + 1)
    ranges = torch.log(away.float().clamp(min=1) / near) / math.log(furthest / near) * (count - near)
    of = torch.where(away < near, away, (near + ranges.long()).clamp(max=count - 1)).numpy()
    before = of[::-1]
    of = np.concatenate([before, count + of[1:]]) if both_ways else before
    return np.ascontiguousarray(buckets[of].T)


def _bart(config: Any, weights: Mapping[str, Array]) -> dict[str, Any]:
    """BART: learned positions, shifts everywhere, and the norm behind the sum."""

    def linear(name: str) -> Linear:
        return Linear(kernel=np.ascontiguousarray(weights[f"{name}.weight"].T), bias=weights[f"{name}.bias"])

    def attention(name: str) -> Attention:
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
        return Attention(**{part: linear(f"{name}.{names[part]}") for part in _PARTS})

    def norm(name: str) -> Norm:
        return Norm(scale=weights[f"{name}.weight"], shift=weights[f"{name}.bias"])

    def stack(side: str, layers: int, heads: int) -> Stack:
        crosses = side == "decoder"
        steps = ("self_attn", "encoder_attn", "final") if crosses else ("self_attn", "final")
        names = [f"model.{side}.layers.{number}" for number in range(layers)]
        return Stack(
            table=weights[f"model.{side}.embed_tokens.weight"],
            heads=heads,
            head=config.d_model // heads,
            positions=weights[f"model.{side}.embed_positions.weight"][BART_OFFSET:],
            distances=None,
            furthest=0,
            norms=(
                norm(f"model.{side}.layernorm_embedding"),
                *(norm(f"{name}.{step}_layer_norm") for name in names for step in steps),
            ),
            layers=tuple(
                Layer(
                    own=attention(f"{name}.self_attn"),
                    cross=attention(f"{name}.encoder_attn") if crosses else None,
                    wide=(linear(f"{name}.fc1"),),
                    narrow=linear(f"{name}.fc2"),
                )
                for name in names
            ),
        )

    decoder = stack("decoder", config.decoder_layers, config.decoder_attention_heads)
    head = weights["lm_head.weight"]
    return {
        "encoder": stack("encoder", config.encoder_layers, config.encoder_attention_heads),
        "decoder": decoder,
        "table_scale": math.sqrt(config.d_model) if config.scale_embedding else 1.0,
        "head": None if np.array_equal(head, decoder.table) else head,
        "head_bias": weights["final_logits_bias"][0],
        "epsilon": BART_EPSILON,
        "attention_scale": None,
        "normed_sum": True,
    }
