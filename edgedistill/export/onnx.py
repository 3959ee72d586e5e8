"""An encoder written straight into the ONNX graph that ONNX Runtime's CPU kernels run fastest.

The graph is built, not traced: every block is one fused operator (`com.microsoft`), so nothing depends on a tracer's
output being recognised by an optimizer afterwards, and the last layer is computed for the first position only:

    input_ids ─► EmbedLayerNormalization ─► [Attention ─ MatMul ─ SkipLayerNormalization
    attention_mask ──┘                       MatMul ─ BiasGelu ─ MatMul ─ SkipLayerNormalization] × (layers − 1)
                     ─► keys and values of every position, query of the first ─► MultiHeadAttention ─ … ─► logits

A classifier reads nothing but the first position of the last layer. In a student of three layers the rest of it is
nearly a third of the arithmetic; leaving it out changes no answer. A head for spans reads every position, so there all
of the last layer is computed. Pairs have a third input, which of the two texts each piece belongs to.

Attention is one operator (packed) where the engine quantizes that whole; schemes that know plain matrix products only
get query, key and value as products of their own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.numpy import load_file

from edgedistill.errors import IntegrityError, StageError
from edgedistill.export.graph import FUSED, OPSET, Graph
from edgedistill.teachers.local import unsupported

TABLE = "embeddings"
"""Name of the word embeddings' tensor."""
_INPUTS = ("input_ids", "attention_mask")
_PARTS = ("query", "key", "value")
_SPANS = "qa_outputs"
_EMBEDDINGS = "bert.embeddings"

Array = NDArray[Any]


def to_onnx(
    student: Path, path: Path, *, pairs: bool = False, packed: bool = True, embedding_bits: int | None = None
) -> None:
    """Writes a BERT checkpoint with a head for classes or spans as an ONNX file, float32 but for the embedding tables.

    Inputs are input_ids and attention_mask, int64 [texts, tokens], padded at the end, and for pairs token_type_ids of
    the same shape. The output is logits, float32: [texts, labels], or for spans [texts, tokens, 2], how well an answer
    starts and ends at each piece.

    Args:
        student: a folder with config.json and model.safetensors.
        path: the file to write.
        pairs: whether rows are pairs; otherwise every piece is of the first token type.
        packed: query, key and value are one matrix inside one operator.
        embedding_bits: 4 or 8, blockwise; None keeps float32.

    Raises:
        IntegrityError: the student has weights that are not finite.
        StageError: the checkpoint is not a BERT encoder of the usual form.
    """
    config = json.loads((student / "config.json").read_text(encoding="utf-8"))
    if reason := unsupported(config):
        raise StageError(f"{student} {reason}", hint="export an encoder of the BERT family")
    weights = load_file(student / "model.safetensors")
    for name, weight in weights.items():
        if not np.isfinite(weight).all():
            raise IntegrityError(f"{student}: the weight {name} has values that are not finite", hint="train it again")
    try:
        model = _Graph(config, weights, pairs=pairs, packed=packed, embedding_bits=embedding_bits).build()
    except KeyError as error:
        raise StageError(f"{student} has no weight {error}", hint="export an encoder of the BERT family") from error
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))


class _Graph(Graph):
    """An encoder's graph."""

    def __init__(
        self,
        config: dict[str, Any],
        weights: dict[str, Array],
        *,
        pairs: bool,
        packed: bool,
        embedding_bits: int | None,
    ) -> None:
        super().__init__()
        self._config = config
        self._weights = weights
        self._spans = f"{_SPANS}.weight" in weights
        self._inputs = (*_INPUTS, *(("token_type_ids",) if pairs else ()))
        self._packed = packed
        self._embedding_bits = embedding_bits

    def build(self) -> onnx.ModelProto:
        hidden, lengths = self._embed() if self._embedding_bits is None else self._embed_in_blocks()
        layers = self._config["num_hidden_layers"]
        for layer in range(layers if self._spans else layers - 1):
            hidden = self._layer(layer, hidden, lengths)
        if self._spans:
            logits = self._dense(_SPANS, hidden, "logits")
            shape: list[str | int | None] = ["texts", "tokens", 2]
        else:
            logits = self._head(self._first_of_last(layers - 1, hidden, lengths))
            shape = ["texts", len(self._weights["classifier.bias"])]
        graph = helper.make_graph(
            self._nodes,
            "spans" if self._spans else "classifier",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"]) for name in self._inputs],
            [helper.make_tensor_value_info(logits, TensorProto.FLOAT, shape)],
            self._tensors,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
        return helper.make_model(graph, producer_name="edgedistill", opset_imports=opsets, ir_version=8)

    def _embed(self) -> tuple[str, str]:
        """Word and position embeddings, summed and normalised, and the length of each text from its mask."""
        words = self._tensor(TABLE, self._weights[f"{_EMBEDDINGS}.word_embeddings.weight"])
        at, of = self._positions()
        positions = self._tensor("positions", at)
        kinds = "" if of is None else self._tensor("kinds", of)
        scale, shift = self._norm(f"{_EMBEDDINGS}.LayerNorm")
        ids, mask, *types = (self._node("Cast", [name], f"{name}_32", to=TensorProto.INT32) for name in self._inputs)
        inputs = [ids, *(types or [""]), words, positions, kinds, scale, shift, mask]
        self._nodes.append(
            helper.make_node(
                "EmbedLayerNormalization",
                inputs,
                ["embedded", "lengths"],
                "embed",
                domain=FUSED,
                epsilon=self._epsilon(),
            )
        )
        return "embedded", "lengths"

    def _embed_in_blocks(self) -> tuple[str, str]:
        """The same sum and norm from quantized tables: words in blocks, positions in 8 bits, one scale a column."""
        bits = self._embedding_bits or 8
        words = self._looked_up(TABLE, self._weights[f"{_EMBEDDINGS}.word_embeddings.weight"], "input_ids", bits)
        at, of = self._positions()
        largest = np.abs(at).max(axis=0)
        column = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        table = self._tensor("positions", np.rint(at / column).astype(np.int8))
        zero, axis = self._tensor("embed.zero", np.array([0])), self._tensor("embed.axis", np.array([1]))
        length = self._node("Shape", ["input_ids"], "embed.length", start=1, end=2)
        rows = self._node("Slice", [table, zero, length, zero], "embed.rows")
        value = self._node("DequantizeLinear", [rows, self._tensor("positions_scales", column)], "embed.at", axis=1)
        if of is not None:
            kinds = self._node("Gather", [self._tensor("kinds", of), self._inputs[-1]], "embed.kinds", axis=0)
            value = self._node("Add", [kinds, value], "embed.places")
        norm = self._norm(f"{_EMBEDDINGS}.LayerNorm")
        embedded = self._fused("SkipLayerNormalization", [words, value, *norm], "embedded", epsilon=self._epsilon())
        mask = self._node("Cast", ["attention_mask"], "attention_mask_32", to=TensorProto.INT32)
        return embedded, self._node("ReduceSum", [mask, axis], "lengths", keepdims=0)

    def _positions(self) -> tuple[Array, Array | None]:
        """What is added at each position, and by the text that a piece belongs to.

        With one token type its embedding is a constant: it is added to every position's.
        """
        kinds = self._weights[f"{_EMBEDDINGS}.token_type_embeddings.weight"]
        positions = self._weights[f"{_EMBEDDINGS}.position_embeddings.weight"]
        return (positions + kinds[0], None) if self._inputs == _INPUTS else (positions, kinds)

    def _layer(self, layer: int, hidden: str, lengths: str) -> str:
        """A whole layer for every position."""
        if not self._packed:
            return self._feed_forward(layer, self._attend(layer, hidden, hidden, lengths), hidden)
        kernels, biases = zip(*(self._linear(layer, f"attention.self.{part}") for part in _PARTS), strict=True)
        packed = [
            self._tensor(f"{layer}.qkv", np.concatenate(kernels, axis=1)),
            self._tensor(f"{layer}.qkv_bias", np.concatenate(biases)),
        ]
        attended = self._fused("Attention", [hidden, *packed, lengths], f"{layer}.attention", num_heads=self._heads())
        return self._feed_forward(layer, attended, hidden)

    def _first_of_last(self, layer: int, hidden: str, lengths: str) -> str:
        """The last layer for the first position: [texts, 1, width]."""
        bounds = [
            self._tensor(f"first.{name}", np.array([value])) for name, value in (("from", 0), ("to", 1), ("axis", 1))
        ]
        first = self._node("Slice", [hidden, *bounds], "first")
        return self._feed_forward(layer, self._attend(layer, first, hidden, lengths), first)

    def _attend(self, layer: int, asking: str, hidden: str, lengths: str) -> str:
        """Attention of some positions to all, with query, key and value as matrix products of their own."""
        biases, inputs = [], []
        for part, source in zip(_PARTS, (asking, hidden, hidden), strict=True):
            kernel, bias = self._linear(layer, f"attention.self.{part}")
            inputs.append(
                self._node("MatMul", [source, self._tensor(f"{layer}.{part}", kernel)], f"{layer}.{part}_out")
            )
            biases.append(bias)
        bias_name = self._tensor(f"{layer}.qkv_bias", np.concatenate(biases))
        return self._fused(
            "MultiHeadAttention", [*inputs, bias_name, lengths], f"{layer}.attention", num_heads=self._heads()
        )

    def _feed_forward(self, layer: int, attended: str, residual: str) -> str:
        mixed = self._project(layer, "attention.output", attended, residual)
        kernel, bias = self._linear(layer, "intermediate.dense")
        wide = self._node("MatMul", [mixed, self._tensor(f"{layer}.wide", kernel)], f"{layer}.wide_out")
        active = self._fused("BiasGelu", [wide, self._tensor(f"{layer}.wide_bias", bias)], f"{layer}.active")
        return self._project(layer, "output", active, mixed)

    def _project(self, layer: int, part: str, value: str, residual: str) -> str:
        """A linear map back to the model's width, the residual sum and the norm."""
        kernel, bias = self._linear(layer, f"{part}.dense")
        name = f"{layer}.{part}"
        product = self._node("MatMul", [value, self._tensor(name, kernel)], f"{name}_out")
        scale, shift = self._norm(f"bert.encoder.layer.{layer}.{part}.LayerNorm")
        inputs = [product, residual, scale, shift, self._tensor(f"{name}_bias", bias)]
        return self._fused("SkipLayerNormalization", inputs, f"{name}_norm", epsilon=self._epsilon())

    def _head(self, first: str) -> str:
        """Pooler and classifier on [texts, 1, width]."""
        axis = self._tensor("head.axis", np.array([1]))
        value = self._node("Squeeze", [first, axis], "head.first")
        value = self._node("Tanh", [self._dense("bert.pooler.dense", value, "pooled")], "head.active")
        return self._dense("classifier", value, "logits")

    def _dense(self, weight: str, value: str, output: str) -> str:
        kernel = np.ascontiguousarray(self._weights[f"{weight}.weight"].T)
        product = self._node("MatMul", [value, self._tensor(f"head.{output}", kernel)], f"{output}_product")
        return self._node(
            "Add", [product, self._tensor(f"head.{output}_bias", self._weights[f"{weight}.bias"])], output
        )

    def _linear(self, layer: int, name: str) -> tuple[Array, Array]:
        """Kernel [in, out] and bias [out] of a linear map."""
        prefix = f"bert.encoder.layer.{layer}.{name}"
        return np.ascontiguousarray(self._weights[f"{prefix}.weight"].T), self._weights[f"{prefix}.bias"]

    def _norm(self, name: str) -> tuple[str, str]:
        short = name.removeprefix("bert.").removeprefix("encoder.layer.")
        return (
            self._tensor(f"{short}.scale", self._weights[f"{name}.weight"]),
            self._tensor(f"{short}.shift", self._weights[f"{name}.bias"]),
        )

    def _heads(self) -> int:
        return int(self._config["num_attention_heads"])

    def _epsilon(self) -> float:
        return float(self._config["layer_norm_eps"])
