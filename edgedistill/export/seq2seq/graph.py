"""The two graphs of an encoder–decoder, built operator by operator from fused ones, not traced.

    input_ids, attention_mask ─► encoder ─► cross_key_0, cross_value_0, … one pair a layer of the decoder
                                                │
    input_ids (the new tokens) ─────────────► decoder ─► logits after the last new token
    attention_mask, past_key_0, past_value_0 ──┘     └─► present_key_0, present_value_0, …

The encoder gives what the decoder's attention makes of the text that was read, since that stays the same for all of the
answer. So one decoder serves the first token, with a past of no tokens, and every other one, and no weight is stored
twice: a head that is the table of embeddings is that tensor, read by columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper

from edgedistill.export.graph import FUSED, OPSET, Graph
from edgedistill.export.seq2seq.checkpoint import ACTIVATIONS, Attention, Checkpoint, Layer, Linear, Norm, Stack

TABLE = "decoder.table"
"""The tied table's tensor, [width, vocabulary]."""
HEAD = ("logits/MatMul", "head.product/MatMul")
"""The node of the head, without and with a bias."""
WORDS = "words"
"""The embeddings of the tokens: [texts, tokens, width]."""
POSITION_BITS = 8
_HEADS = ["texts", "heads", "tokens", "head"]
_CACHE = ["texts", "heads", "past", "head"]
"""Axes of keys and values. The sizes that are fixed have names too: they cost no padding."""


def encoder(model: Checkpoint, table_bits: int | None = None) -> onnx.ModelProto:
    """Reads a text: from tokens to the keys and values that the decoder attends to.

    Inputs are input_ids and attention_mask, int64 [texts, tokens]; outputs, for each layer of the decoder,
    cross_key_N and cross_value_N, float32 [texts, heads, tokens, head].

    Args:
        table_bits: 4 or 8, blockwise, of the table of embeddings; None keeps float32.
    """
    made = _Graph("encoder", model, model.encoder, table_bits)
    made.take("input_ids", TensorProto.INT64, ["texts", "tokens"])
    mask = made.mask()
    read = made.read(mask=mask)
    for number, layer in enumerate(model.decoder.layers):
        if layer.cross is not None:
            for part, linear in (("key", layer.cross.key), ("value", layer.cross.value)):
                heads = made.heads(f"cross_{part}_{number}", read, linear, model.decoder)
                made.give(heads, TensorProto.FLOAT, _HEADS)
    return made.model()


def decoder(model: Checkpoint, table_bits: int | None = None) -> onnx.ModelProto:
    """Writes a text: from new tokens and all that is cached to the logits after the last of them.

    Inputs are input_ids, int64 [texts, new tokens]; attention_mask, int64 [texts, tokens], of the text that was read;
    and for each layer past_key_N and past_value_N, float32 [texts, heads, past, head], past being 0 or more, and
    cross_key_N and cross_value_N, from the encoder. Outputs are logits, float32 [texts, vocabulary], and for each layer
    present_key_N and present_value_N, like the past with the new tokens behind it.

    Args:
        table_bits: as for `encoder`; a table that is also the head stays float32.
    """
    made = _Graph("decoder", model, model.decoder, table_bits)
    made.take("input_ids", TensorProto.INT64, ["texts", "new tokens"])
    mask = made.mask()
    for number in range(len(model.decoder.layers)):
        for part in ("key", "value"):
            made.take(f"past_{part}_{number}", TensorProto.FLOAT, _CACHE)
            made.take(f"cross_{part}_{number}", TensorProto.FLOAT, _HEADS)
    made.give(made.logits(made.read(mask=mask)), TensorProto.FLOAT, ["texts", model.decoder.table.shape[0]])
    for number in range(len(model.decoder.layers)):
        for part in ("key", "value"):
            made.give(f"present_{part}_{number}", TensorProto.FLOAT, ["texts", "heads", "all", "head"])
    return made.model()


class _Graph(Graph):
    """The graph of one side."""

    def __init__(self, side: str, model: Checkpoint, stack: Stack, table_bits: int | None) -> None:
        super().__init__()
        self._side = side
        self._model = model
        self._stack = stack
        self._table_bits = table_bits
        self._writes = side == "decoder"
        self._tied = self._writes and model.head is None
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

    def take(self, name: str, kind: int, axes: list[str]) -> None:
        """Declares an input."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, axes))

    def give(self, name: str, kind: int, axes: Iterable[str | int]) -> None:
        """Declares an output."""
        self._outputs.append(helper.make_tensor_value_info(name, kind, list(axes)))

    def model(self) -> onnx.ModelProto:
        """The whole file."""
        graph = helper.make_graph(self._nodes, self._side, self._inputs, self._outputs, self._tensors)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
        return helper.make_model(graph, producer_name="edgedistill", opset_imports=opsets, ir_version=8)

    def mask(self) -> str:
        """Declares the mask of the text that is read, and gives it as the engine's operator takes it."""
        self.take("attention_mask", TensorProto.INT64, ["texts", "tokens"])
        return self._node("Cast", ["attention_mask"], "mask", to=TensorProto.INT32)

    def read(self, *, mask: str) -> str:
        """Embeddings, all layers and the last norm: [texts, tokens, width]."""
        places, keys = self._places()
        bias = self._distances(places, keys)
        norms = iter(self._stack.norms)
        normed, total = self._first(places, next(norms))
        for number, layer in enumerate(self._stack.layers):
            name = f"{self._side}.{number}"
            made = self._own(name, number, layer.own, normed, bias, mask)
            normed, total = self._add(f"{name}.own", made, total, next(norms))
            if layer.cross is not None:
                made = self._cross(name, number, layer.cross, normed, mask)
                normed, total = self._add(f"{name}.cross", made, total, next(norms))
            made = self._wide(name, layer, normed)
            normed, total = self._add(f"{name}.wide", made, total, next(norms))
        return normed

    def logits(self, value: str) -> str:
        """The head, for the last position only: [texts, vocabulary]."""
        last = self._node("Gather", [value, self._tensor("head.at", np.array(-1))], "head.last", axis=1)
        head, bias = self._model.head, self._model.head_bias
        table = TABLE if head is None else self._tensor("head", np.ascontiguousarray(head.T))
        if bias is None or not bias.any():
            return self._node("MatMul", [last, table], "logits")
        product = self._node("MatMul", [last, table], "head.product")
        return self._node("Add", [product, self._tensor("head.bias", bias)], "logits")

    def heads(self, name: str, value: str, linear: Linear, stack: Stack) -> str:
        """A linear map cut into heads: [texts, heads, tokens, head]."""
        shape = self._tensor(f"{name}.shape", np.array([0, 0, stack.heads, stack.head]))
        cut = self._node("Reshape", [self._linear(f"{name}.map", value, linear), shape], f"{name}.cut")
        return self._node("Transpose", [cut], name, perm=[0, 2, 1, 3])

    def _places(self) -> tuple[str, str]:
        """Where the tokens stand, and where the keys do that they look at: [new tokens], [all tokens]."""
        start, step = self._tensor("places.start", np.array(0)), self._tensor("places.step", np.array(1))
        new = self._length("input_ids", 1, "places.new")
        if not self._writes:
            places = self._node("Range", [start, new, step], "places")
            return places, places
        past = self._length("past_key_0", 2, "places.past")
        every = self._node("Add", [past, new], "places.every")
        return (
            self._node("Range", [past, every, step], "places"),
            self._node("Range", [start, every, step], "places.keys"),
        )

    def _length(self, value: str, axis: int, name: str) -> str:
        shape = self._node("Shape", [value], f"{name}.shape", start=axis, end=axis + 1)
        return self._node("Squeeze", [shape], name)

    def _distances(self, places: str, keys: str) -> str:
        """What is added to the scores of attention: [1, heads, new tokens, all tokens]; nothing where there is none."""
        table = self._stack.distances
        if table is None:
            return ""
        lowest = -self._stack.furthest
        highest = lowest + table.shape[1] - 1
        ends = [
            self._tensor(f"distances.{name}", np.array(value)) for name, value in (("low", lowest), ("high", highest))
        ]
        column = self._node("Unsqueeze", [places, self._tensor("distances.axis", np.array([1]))], "distances.column")
        away = self._node("Clip", [self._node("Sub", [keys, column], "distances.away"), *ends], "distances.clipped")
        at = self._node("Sub", [away, ends[0]], "distances.at")
        table_name = self._tensor(f"{self._side}.distances", table)
        found = self._node("Gather", [table_name, at], "distances.found", axis=1)
        return self._node("Unsqueeze", [found, self._tensor("distances.texts", np.array([0]))], "distances")

    def _first(self, places: str, norm: Norm) -> tuple[str, str]:
        """The embeddings, normed, and the sum to which the first step is added."""
        bits = self._table_bits
        words = self._tied_words() if self._tied else self._lookup(WORDS, self._stack.table, "input_ids", bits)
        if self._model.table_scale != 1:
            scale = self._tensor("words.scale", np.array(self._model.table_scale, dtype=np.float32))
            words = self._node("Mul", [words, scale], "words.scaled")
        if self._stack.positions is None:
            return self._root_mean_square(words, norm), words
        at = self._lookup("positions", self._stack.positions, places, bits and POSITION_BITS, axes=1)
        return self._add("embedded", at, words, norm)

    def _tied_words(self) -> str:
        table = self._tensor(TABLE, np.ascontiguousarray(self._stack.table.T))
        columns = self._node("Gather", [table, "input_ids"], f"{WORDS}.columns", axis=1)
        return self._node("Transpose", [columns], WORDS, perm=[1, 2, 0])

    def _lookup(self, name: str, table: NDArray[np.float32], at: str, bits: int | None, axes: int = 2) -> str:
        """Rows of a table, which is float32 or of few bits. `at` has so many axes."""
        if bits is None:
            return self._node("Gather", [self._tensor(f"{self._side}.{name}", table), at], name, axis=0)
        return self._looked_up(f"{self._side}.{name}", table, at, bits, axes=axes)

    def _root_mean_square(self, value: str, norm: Norm) -> str:
        """The norm of a value that is no sum, for which there is no fused operator that the checker knows."""
        name = f"{self._side}.first"
        square = self._node("Mul", [value, value], f"{name}.square")
        mean = self._node("ReduceMean", [square], f"{name}.mean", axes=[-1], keepdims=1)
        epsilon = self._tensor(f"{name}.epsilon", np.array(self._model.epsilon, dtype=np.float32))
        root = self._node("Sqrt", [self._node("Add", [mean, epsilon], f"{name}.sum")], f"{name}.root")
        unit = self._node("Div", [value, root], f"{name}.unit")
        return self._node("Mul", [unit, self._tensor(f"{name}.scale", norm.scale)], f"{name}.norm")

    def _add(self, name: str, made: str, total: str, norm: Norm) -> tuple[str, str]:
        """Adds a step to the running sum. Returns its norm, and the sum to go on with."""
        scale = self._tensor(f"{name}.scale", norm.scale)
        if norm.shift is None:
            operator, inputs = "SkipSimplifiedLayerNormalization", [total, made, scale]
        else:
            operator, inputs = "SkipLayerNormalization", [total, made, scale, self._tensor(f"{name}.shift", norm.shift)]
        outputs = [f"{name}.norm"] if self._model.normed_sum else [f"{name}.norm", "", "", f"{name}.sum"]
        self._nodes.append(
            helper.make_node(operator, inputs, outputs, f"{name}/{operator}", domain=FUSED, epsilon=self._model.epsilon)
        )
        return outputs[0], outputs[-1]

    def _own(self, name: str, number: int, attention: Attention, value: str, bias: str, mask: str) -> str:
        """Attention of a text to itself; the decoder's looks back only, at what is cached and what is new."""
        name = f"{name}.own"
        inputs = [
            self._linear(f"{name}.{part}", value, linear)
            for part, linear in (("query", attention.query), ("key", attention.key), ("value", attention.value))
        ]
        if not self._writes:
            return self._attend(name, [*inputs, "", mask, bias], attention.output)
        past = [f"past_{part}_{number}" for part in ("key", "value")]
        present = [f"present_{part}_{number}" for part in ("key", "value")]
        return self._attend(name, [*inputs, "", "", bias, *past], attention.output, present, unidirectional=1)

    def _cross(self, name: str, number: int, attention: Attention, value: str, mask: str) -> str:
        """Attention to the text that was read."""
        name = f"{name}.cross"
        query = self._linear(f"{name}.query", value, attention.query)
        keys = [f"cross_{part}_{number}" for part in ("key", "value")]
        return self._attend(name, [query, *keys, "", mask], attention.output)

    def _attend(
        self, name: str, inputs: list[str], output: Linear, present: Iterable[str] = (), **attributes: Any
    ) -> str:
        if self._model.attention_scale is not None:
            attributes["scale"] = self._model.attention_scale
        self._nodes.append(
            helper.make_node(
                "MultiHeadAttention",
                inputs,
                [f"{name}.mixed", *present],
                f"{name}.mixed/MultiHeadAttention",
                domain=FUSED,
                num_heads=self._stack.heads,
                **attributes,
            )
        )
        return self._linear(f"{name}.output", f"{name}.mixed", output)

    def _wide(self, name: str, layer: Layer, value: str) -> str:
        """The two or three wide maps of a layer."""
        wide = [self._linear(f"{name}.wide.{part}", value, linear) for part, linear in enumerate(layer.wide)]
        operator = ACTIVATIONS[self._model.activation]
        domain = "" if operator == "Relu" else FUSED
        active = self._node(operator, [wide[0]], f"{name}.active", domain=domain)
        if len(wide) > 1:
            active = self._node("Mul", [active, wide[1]], f"{name}.gated")
        return self._linear(f"{name}.narrow", active, layer.narrow)

    def _linear(self, name: str, value: str, linear: Linear) -> str:
        if linear.bias is None:
            return self._node("MatMul", [value, self._tensor(name, linear.kernel)], f"{name}.out")
        product = self._node("MatMul", [value, self._tensor(name, linear.kernel)], f"{name}.product")
        return self._node("Add", [product, self._tensor(f"{name}.bias", linear.bias)], f"{name}.out")
