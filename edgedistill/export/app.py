"""A classifier as an app wants it: text in, label out, with the tokenizer inside the graph.

    text ─► one character each ─► its normal form ─► words ─► pieces ─► ids ─► the model ─► logits ─► label

The package onnxruntime-extensions brings operators for this, and one that is called BertTokenizer. That one is not
used: it strips accents from Western letters only, keeps control characters, reads no special tokens, and gives a word
that it does not know the pieces up to where it stopped. Here a table says for each character what the tokenizer itself
makes of it, and words that end in the unknown piece become that piece alone, so the ids are the tokenizer's own.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from edgedistill.errors import MissingExtra, StageError

PACKAGE = "onnxruntime-extensions"
MODULE = "onnxruntime_extensions"
CONTRIB = "ai.onnx.contrib"
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PLAIN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
CHARACTERS = (*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xF0000))
"""Every code point that is not half of a pair, not private and not in a plane without any."""
PRIVATE = ((0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))
"""Planes of characters that are all treated like U+E000."""
BLOCK = 0x100
"""So many characters in a row stand as a range in an expression, not one by one in the table."""
AT_ONCE = 64
NEVER = "($^)"
"""An expression that no character matches."""
OPEN = frozenset({"text", *MODEL_INPUTS})

Session = Any


def to_app(model: Path, tokenizer: Path, path: Path, *, labels: Sequence[str], max_tokens: int) -> None:
    """Puts a WordPiece tokenizer and the names of the labels into the file of a BERT classifier.

    The input is text, a string [1]. The outputs are label, a string [1], and probabilities, float32 [1, labels].
    The file runs wherever onnxruntime has the operators of onnxruntime-extensions registered.

    Args:
        model: an ONNX file with inputs input_ids and attention_mask and the output logits, such as from `to_onnx`.
        tokenizer: the tokenizer.json that belongs to it.
        path: the file to write.
        max_tokens: longest text, with the special pieces; what is longer is cut, as in training.

    Raises:
        StageError: the tokenizer is not of the kind that BERT has, or the model is no such classifier.
    """
    graph = onnx.load(model)
    inputs = {value.name for value in graph.graph.input}
    if not set(MODEL_INPUTS[:2]) <= inputs <= set(MODEL_INPUTS):
        raise StageError(f"{model} takes {', '.join(sorted(inputs))}, not the ids of a text", hint="give a classifier")
    if [value.name for value in graph.graph.output] != ["logits"]:
        raise StageError(f"{model} does not answer with logits", hint="give a classifier")
    answers = graph.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    if answers and answers != len(labels):
        raise StageError(
            f"{model} has {answers} answers and there are {len(labels)} labels", hint="give its own labels"
        )
    front = _Front(Tokenizer.from_file(str(tokenizer)), max_tokens)
    front.build(token_types="token_type_ids" in inputs)
    nodes = [*front.nodes, *graph.graph.node, *_answer()]
    names = numpy_helper.from_array(np.array(labels, dtype=object), "app.labels")
    tensors = [*graph.graph.initializer, *front.tensors, names]
    written = helper.make_graph(
        nodes,
        "app",
        [helper.make_tensor_value_info("text", TensorProto.STRING, [1])],
        [
            helper.make_tensor_value_info("label", TensorProto.STRING, [1]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, len(labels)]),
        ],
        tensors,
    )
    domains = {opset.domain: opset.version for opset in graph.opset_import} | {CONTRIB: 1}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    onnx.save_model(
        helper.make_model(written, producer_name="edgedistill", opset_imports=opsets, ir_version=graph.ir_version),
        str(path),
    )


def check(tokenizer: Path) -> None:
    """Refuses what would only fail once a model is there.

    Raises:
        MissingExtra: onnxruntime-extensions is not installed.
        StageError: the tokenizer is not of the kind that BERT has.
    """
    if importlib.util.find_spec(MODULE) is None:  # to import it takes seconds: torch and transformers come with it
        raise MissingExtra(PACKAGE, extra="app")
    _Front(Tokenizer.from_file(str(tokenizer)), max_tokens=0)


def app_session(path: Path, *, threads: int = 1) -> Session:
    """The file in onnxruntime, with the operators that read text.

    Raises:
        MissingExtra: onnxruntime-extensions is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(_operators())
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _operators() -> str:
    """The library with the operators that read text."""
    try:
        extensions: Any = importlib.import_module(MODULE)
    except ImportError as error:
        raise MissingExtra(PACKAGE, extra="app") from error
    return str(extensions.get_library_path())


def app_answer(session: Session, text: str) -> tuple[str, NDArray[np.float32]]:
    """The label of a text and the probabilities of all. Shape: [labels]."""
    label, probabilities = session.run(None, {"text": np.array([text], dtype=object)})
    return str(label[0]), probabilities[0]


def characters(tokenizer: Tokenizer) -> dict[str, str]:
    """What normalizer and pre-tokenizer make of each character: spaces in it part words.

    Characters that come out as they went in are left out.

    Raises:
        StageError: the tokenizer is not of the kind that BERT has, where no character depends on its neighbours.
    """
    normal, parted = _steps(tokenizer)
    found: dict[str, str] = {}
    for start in range(0, len(CHARACTERS), AT_ONCE):
        some = [chr(code) for code in CHARACTERS[start : start + AT_ONCE]]
        written = normal.normalize_str("".join(f"a{character}a q " for character in some))
        words = " ".join(word for word, _ in parted.pre_tokenize_str(written)).removesuffix(" q").split(" q ")
        found |= {key: value[1:-1] for key, value in zip(some, words, strict=True) if value[1:-1] != key}
    return found


def _steps(tokenizer: Tokenizer) -> tuple[Any, Any]:
    """Normalizer and pre-tokenizer; refuses those of other kinds than BERT's."""
    normal, parted = tokenizer.normalizer, tokenizer.pre_tokenizer
    if type(normal).__name__ != "BertNormalizer" or type(parted).__name__ != "BertPreTokenizer":
        raise StageError(
            f"a tokenizer with {type(normal).__name__} and {type(parted).__name__} is not put into a graph",
            hint="the app form is for BERT classifiers; give the app tokenizer.json and the model apart",
        )
    return normal, parted


class _Front:
    """The nodes from text to ids."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
        if self._model["type"] != "WordPiece":
            raise StageError(f"a tokenizer of the kind {self._model['type']} is not put into a graph", hint="use ONNX")
        self._special = list(tokenizer.get_added_tokens_decoder().values())
        for token in self._special:
            if wrong := [flag for flag in PLAIN_FLAGS if getattr(token, flag)]:
                raise StageError(f"the tokenizer's piece {token.content} is {wrong[0]}", hint="use the two-step form")
        _steps(tokenizer)
        self._tokenizer = tokenizer
        self._vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        around = tokenizer.encode("").ids
        inside = tokenizer.encode("a", add_special_tokens=False).ids
        whole = tokenizer.encode("a").ids
        start = next(place for place in range(len(whole)) if whole[place : place + len(inside)] == inside)
        self._start, self._end = around[:start], around[start:]
        self._room = max_tokens - len(around)

    def build(self, *, token_types: bool) -> None:
        self._words()
        self._pieces()
        self._ids(token_types=token_types)

    def _words(self) -> None:
        """From text to words in their normal form. Shape: [words]."""
        made_of = characters(self._tokenizer)
        spaces = _ranges(key for key, value in made_of.items() if value == " ")
        # Each expression is compiled for every text, so only whole blocks of characters stand in it.
        removed = _blocks(key for key, value in made_of.items() if value == "")
        if made_of.get("\ue000") == "":
            removed += PRIVATE
        # One of them stands for each in the table, which knows no empty value, until all are taken out together.
        gone = min((key for key, value in made_of.items() if value == "" and key > "\0"), default=None)
        alone = _blocks(key for key, value in made_of.items() if value == f" {key} ")
        ranged = {chr(code) for first, last in (*removed, *alone) for code in range(first, last + 1)}
        alphabet = {letter for piece in self._vocabulary for letter in piece}
        table = {
            key: value or str(gone)
            for key, value in made_of.items()
            if key not in ranged
            and value != " "
            and key != gone
            and (" " in value or value == "" or key in alphabet or set(value) <= alphabet)
        }
        named = [token.content for token in self._special]
        table |= {name: f" {name} " for name in named}
        names = "".join(re.escape(name) + "|" for name in named)
        kept = f"[^{_class(removed)}]" if removed else "(?s:.)"
        self._texts(
            spaces=f"[{_class(spaces)}]",
            space=" ",
            alone=f"([{_class(alone)}])" if alone else NEVER,
            alone_spaced=r" \1 ",
            letter=f"({names}(?s:.))",
            kept_letter=f"(?:{names}{kept})",
            removed=NEVER if gone is None else gone,
            nothing="",
        )
        self._tensor("zero", np.array([0]))
        self._tensor("skip_empty", np.array([True]))
        self._node("StringRegexReplace", ["text", "spaces", "space"], "plain")
        self._node("StringRegexReplace", ["plain", "alone", "alone_spaced"], "spaced")
        offsets = ("letter_begins", "letter_ends", "letter_rows")
        self._node("StringRegexSplitWithOffsets", ["spaced", "letter", "kept_letter"], "letters", *offsets)
        self._node("StringMapping", ["letters"], "normal", map="\n".join(f"{k}\t{v}" for k, v in table.items()))
        self._node("StringJoin", ["normal", "nothing", "zero"], "joined")
        self._node("StringRegexReplace", ["joined", "removed", "nothing"], "line")
        self._node("StringSplit", ["line", "space", "skip_empty"], "word_places", "words", "word_shape")

    def _pieces(self) -> None:
        """From words to ids of pieces; a word not made of known pieces is one unknown piece. Shape: [pieces]."""
        unknown = self._model["unk_token"]
        self._tensor("no_rows", np.array([], dtype=np.int64))
        for name, value in (("flat", [-1]), ("none", 0), ("one", 1), ("unknown", self._vocabulary[unknown])):
            self._tensor(name, np.array(value))
        self._node(
            "WordpieceTokenizer",
            ["words", "no_rows"],
            *("pieces", "piece_rows", "firsts", "ends"),
            vocab=json.dumps(self._vocabulary, ensure_ascii=False),
            suffix_indicator=self._model["continuing_subword_prefix"],
            unknown_token=unknown,
            max_input_chars_per_word=self._model["max_input_chars_per_word"],
        )
        table = "\n".join(f"{piece}\t{number}" for piece, number in self._vocabulary.items())
        self._node("StringToVector", ["pieces"], "columns", map=table, unk=str(self._vocabulary[unknown]))
        self._node("Reshape", ["columns", "flat"], "numbers")
        self._node("Sub", ["ends", "one"], "lasts")
        self._node("Gather", ["numbers", "lasts"], "last_numbers")
        self._node("Equal", ["last_numbers", "unknown"], "failed")
        self._node("Where", ["failed", "lasts", "firsts"], "kept_from")
        self._node("Shape", ["numbers"], "count")
        self._node("ConstantOfShape", ["count"], "zeros", value=numpy_helper.from_array(np.array([0])))
        self._node("Shape", ["firsts"], "word_count")
        self._node("ConstantOfShape", ["word_count"], "ones", value=numpy_helper.from_array(np.array([1])))
        self._node("ScatterElements", ["zeros", "firsts", "ones"], "marks")
        self._node("CumSum", ["marks", "none"], "place")
        self._node("Sub", ["place", "one"], "word")
        self._node("Gather", ["kept_from", "word"], "bound")
        self._node("Squeeze", ["count"], "size")
        self._node("Range", ["none", "size", "one"], "position")
        self._node("GreaterOrEqual", ["position", "bound"], "kept")
        self._node("Compress", ["numbers", "kept"], "all_ids", axis=0)

    def _ids(self, *, token_types: bool) -> None:
        """From ids to the inputs of the model: cut, with the special pieces around them. Shape: [1, tokens]."""
        for name, values in (("room", [max(0, self._room)]), ("start", self._start), ("end", self._end)):
            self._tensor(name, np.array(values, dtype=np.int64))
        self._node("Slice", ["all_ids", "zero", "room", "zero"], "cut")
        self._node("Concat", ["start", "cut", "end"], "ids", axis=0)
        self._node("Unsqueeze", ["ids", "zero"], "input_ids")
        self._node("Shape", ["input_ids"], "sizes")
        for name, value in zip(MODEL_INPUTS[1:] if token_types else MODEL_INPUTS[1:2], (1, 0), strict=False):
            self._node("ConstantOfShape", ["sizes"], name, value=numpy_helper.from_array(np.array([value])))

    def _texts(self, **named: str) -> None:
        for name, value in named.items():
            self._tensor(name, np.array([value], dtype=object))

    def _tensor(self, name: str, value: NDArray[Any]) -> None:
        self.tensors.append(numpy_helper.from_array(value, _own(name)))

    def _node(self, operator: str, inputs: list[str], *outputs: str, **attributes: Any) -> None:
        taken, given = [_own(name) for name in inputs], [_own(name) for name in outputs]
        domain = CONTRIB if operator.startswith(("String", "Wordpiece")) else ""
        name = f"app/{operator}/{outputs[0]}"
        self.nodes.append(helper.make_node(operator, taken, given, name, domain=domain, **attributes))


def _own(name: str) -> str:
    """The name of a value of ours, which no value of the model has."""
    return name if name in OPEN else f"app.{name}"


def _answer() -> list[NodeProto]:
    return [
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        helper.make_node("ArgMax", ["logits"], ["app.best"], axis=-1, keepdims=0),
        helper.make_node("Gather", ["app.labels", "app.best"], ["label"]),
    ]


def _ranges(characters: Iterable[str]) -> list[tuple[int, int]]:
    """Code points that follow one another, as first and last."""
    found: list[tuple[int, int]] = []
    for code in sorted(map(ord, characters)):
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    return found


def _blocks(characters: Iterable[str]) -> list[tuple[int, int]]:
    return [(first, last) for first, last in _ranges(characters) if last - first >= BLOCK - 1]


def _class(ranges: Iterable[tuple[int, int]]) -> str:
    """What stands in a class of an RE2 expression."""
    return "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges)
