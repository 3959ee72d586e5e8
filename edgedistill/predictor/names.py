"""What published rows call things, read into facts: quantizations, checkpoints, engines, boards.

Nobody spells them alike: "Q4_K_M", "q4_k_m", "Q4_K - Medium" and "Ollama default (Q4_K_M)" are one quantization.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgedistill.catalog import read_toml

CHECKPOINTS = Path(__file__).with_name("checkpoints.toml")
Q6_K, Q8_0 = 6.5625, 8.5
"""Bits of a weight, scales included. llama.cpp writes the head in the first, or the second where that does not fit."""
BLOCK = 256
"""Weights of a block of a k-quant: a matrix whose rows are no multiple of it is written in another form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How the weights of a file are written.

    Attributes:
        kind: the form of most of its blocks, which decides what kernels read it: "q4_k" of Q4_K_M and Q4_K_S.
        bits: of a weight of a layer on average, scales included.
        head: bits of a weight of the head; `table` of the input table where that is not the head.
    """

    kind: str
    bits: float
    head: float
    table: float

    @property
    def narrow(self) -> bool:
        """Whether its blocks have fewer than 4 bits a weight, scales not counted."""
        return self.kind.startswith(("q2", "q3", "iq1", "iq2", "iq3", "tq"))


_FORMS: dict[str, Quantization] = {
    name: Quantization(kind=kind, bits=bits, head=head, table=table)
    for name, kind, bits, head, table in (
        # Mixtures: bits of a weight of a layer on average, (file - head - table) / weights of published files.
        ("q2_k", "q2_k", 2.9, Q6_K, 2.5625),
        ("q3_k_s", "q3_k", 3.44, Q6_K, 3.4375),
        ("q3_k_m", "q3_k", 3.8, Q6_K, 3.4375),
        ("q3_k_l", "q3_k", 4.1, Q6_K, 3.4375),
        ("q4_k_s", "q4_k", 4.55, Q6_K, 4.5),
        ("q4_k_m", "q4_k", 4.82, Q6_K, 4.5),
        ("q5_k_s", "q5_k", 5.52, Q6_K, 5.5),
        ("q5_k_m", "q5_k", 5.67, Q6_K, 5.5),
        ("q6_k", "q6_k", Q6_K, Q6_K, Q6_K),
        # Of one form throughout, but for the head.
        ("q4_0", "q4_0", 4.5, Q6_K, 4.5),
        ("q4_1", "q4_0", 5.0, Q6_K, 5.0),
        ("q5_0", "q5_0", 5.5, Q6_K, 5.5),
        ("q5_1", "q5_0", 6.0, Q6_K, 6.0),
        ("q8_0", "q8_0", Q8_0, Q8_0, Q8_0),
        ("iq4_xs", "iq4", 4.25, Q6_K, 4.25),
        ("iq4_nl", "iq4", 4.5, Q6_K, 4.5),
        ("mxfp4", "mxfp4", 4.25, Q8_0, Q8_0),
        ("f16", "f16", 16.0, 16.0, 16.0),
        ("f32", "f32", 32.0, 32.0, 32.0),
        # Below 3 bits; the rest of such files is in wider forms.
        ("iq3", "iq3", 3.4, Q6_K, 3.4375),
        ("iq2", "iq2", 2.4, 5.5, 2.5625),
        ("iq1", "iq1", 1.8, 5.5, 2.5625),
        ("tq2", "tq2", 2.1, Q6_K, 4.5),
        ("tq1", "tq1", 1.7, Q6_K, 4.5),
    )
}
_ALIKE = (
    (r"b?f(?:p)?16", "f16"),
    (r"fp?32", "f32"),
    (r"q8(?:_0)?(?:_[48]_[48])?", "q8_0"),
    (r"q4_0_[48]_[48]", "q4_0"),  # the rows interleaved in the file, and not when it is loaded
    (r"q2_k_\w+", "q2_k"),
    (r"q([345])_k(?:_xl)?", r"q\1_k_m"),
    (r"q6_k_\w+", "q6_k"),
    (r"(iq[123]|tq[12])_\w+", r"\1"),
)
_QUANTIZATION = re.compile(
    r"(?<![a-z0-9])(?:q[2-6]_k(?:_(?:xl|[sml]))?|q[458]_[01](?:_[48]_[48])?|q8|iq[1-4]_[a-z]+|tq[12]_0|mxfp4"
    r"|b?f16|f32|fp16|fp32)(?![a-z0-9])"
)


def quantization(text: str) -> Quantization | None:
    """The form of llama.cpp that a text names, or None: a name of another engine, or none at all.

    "Ollama default" names none: it was Q4_0 until the middle of 2024 and is Q4_K_M since.
    """
    small = re.sub(r"[\s\-]+", "_", text.lower().replace("medium", "m").replace("small", "s").replace("large", "l"))
    found = _QUANTIZATION.search(small)
    if found is None:
        return None
    name = found.group()
    for pattern, known in _ALIKE:
        if re.fullmatch(pattern, name):
            name = re.sub(pattern, known, name)
            break
    return _FORMS.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """What a decoder reads and computes for a token, in weights.

    Attributes:
        body: weights of its layers, those of all experts counted.
        active: those of them that a token reads.
        table: vocabulary × width: the head reads it whole for every token.
        tied: the head is the input table; else there are two.
        looked_up: weights of further tables of which a token takes a row.
        width: of the residual stream; None where nobody says.
        known: from its config.json; else from the number in its name.
    """

    body: float
    active: float
    table: float
    tied: bool
    looked_up: float = 0.0
    width: int | None = None
    known: bool = True

    def bytes_read(self, form: Quantization) -> float:
        """Weights that every token reads from memory, in bytes."""
        return self.active * form.bits / 8 + self.head_bytes(form)

    def looked_up_bytes(self, form: Quantization) -> float:
        """What a token takes a few rows of: an input table that is not the head, and tables of layers."""
        return (self.looked_up * self._head(form) + (0.0 if self.tied else self.table * form.table)) / 8

    def head_bytes(self, form: Quantization) -> float:
        """The table of the head."""
        return self.table * self._head(form) / 8

    def file_bytes(self, form: Quantization) -> float:
        """All weights, those of every expert among them."""
        return self.bytes_read(form) + (self.body - self.active) * form.bits / 8 + self.looked_up_bytes(form)

    def falls_back(self, form: Quantization) -> bool:
        """Whether its width has no whole blocks of a k-quant, so that llama.cpp writes another form."""
        return form.kind.endswith("_k") and self.width is not None and self.width % BLOCK != 0

    def _head(self, form: Quantization) -> float:
        return max(form.head, Q8_0) if self.width is not None and self.width % BLOCK else max(form.head, form.bits)


_DROPPED = re.compile(
    r"[-_](instruct|chat|it|base|gguf|qat|latest|text|unsloth|v\d[\d.]*|20\d\d|25\d\d|q\d\w*)(?=[-_]|$)|\([^)]*\)"
)
_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([mb])(?![a-z])")
_ACTIVE = re.compile(r"(?<![a-z0-9])a(\d+(?:\.\d+)?)b(?![a-z])")


def plain(name: str) -> str:
    """A checkpoint's name without spelling, tuning and version: names that give one text share their weights' sizes."""
    text = re.sub(r"[\s:_/]+", "-", name.strip().lower().rsplit("/", 1)[-1]).replace("-instruct-", "-")
    while (shorter := _DROPPED.sub("", text)) != text:
        text = shorter
    return re.sub(r"-+", "-", text).strip("-")


def network(name: str) -> str:
    """What a checkpoint's weights are read by: names that give one text are one network, however it was trained.

    Speeds of one tell those of the other, so a model is only left out where its network is. Of a name that is not in
    our table it is the name, whatever stands between its parts.
    """
    text = plain(name)
    for pattern, _, known in _table():
        if pattern.fullmatch(text):
            return known
    return re.sub(r"[^a-z0-9.]", "", text)


def decoder(name: str, parameters_m: float | None = None) -> Decoder | None:
    """The sizes of a checkpoint: from our table, else from the number given or the one in its name.

    Args:
        parameters_m: millions of weights, as a row gives them.

    Returns:
        None when there is neither a number nor an entry.
    """
    text = plain(name)
    for pattern, found, _ in _table():
        if pattern.fullmatch(text):
            return found
    total = parameters_m * 1e6 if parameters_m else _size(text)
    if total is None:
        return None
    # Width grows with the cube root of the size, and today's vocabularies have some 128,000 pieces.
    table = 128_000 * 2048 * (total / 1.2e9) ** (1 / 3)
    table = min(table, 0.4 * total)
    tied = total < 4.5e9
    body = total - table * (1 if tied else 2)
    experts = _ACTIVE.search(text)
    active = min(body, float(experts.group(1)) * 1e9) if experts else body
    return Decoder(body=body, active=active, table=table, tied=tied, known=False)


def _size(text: str) -> float | None:
    found = _SIZE.search(text)
    return float(found.group(1)) * (1e9 if found.group(2) == "b" else 1e6) if found else None


@cache
def _table() -> tuple[tuple[re.Pattern[str], Decoder, str], ...]:
    """Names, sizes and network of each entry."""
    entries = read_toml(CHECKPOINTS)["checkpoint"]
    assert isinstance(entries, list)  # noqa: S101 - the file is our own
    found = []
    for entry in entries:
        table, looked_up, tied = entry["table"] * 1e6, entry.get("looked_up", 0) * 1e6, entry.get("tied", False)
        body = entry["parameters"] * 1e6 - looked_up - table * (1 if tied else 2)
        found.append(
            (
                re.compile(entry["name"]),
                Decoder(
                    body=body,
                    active=entry.get("active", body / 1e6) * 1e6,
                    table=table,
                    tied=tied,
                    looked_up=looked_up,
                    width=entry.get("width"),
                ),
                entry.get("network", entry["name"]),
            )
        )
    return tuple(found)
