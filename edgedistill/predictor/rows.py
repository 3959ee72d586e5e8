"""Published measurements as rows: one value each, with the board, the engine, the model and where it was read.

A file is a table with commas and the header of `COLUMNS`. Speeds of decoders are what the model is fitted on; sizes of
files, memory bandwidth and int8 throughput are facts that it may use about any board and any model.
"""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edgedistill.errors import InputError
from edgedistill.predictor import names
from edgedistill.predictor.law import METRICS, Metric
from edgedistill.predictor.names import Decoder, Quantization

COLUMNS = (
    "device",
    "soc",
    "cpu_cores_used",
    "clock_ghz",
    "runtime",
    "runtime_version",
    "backend",
    "model",
    "params_m",
    "quant",
    "threads",
    "workload",
    "metric",
    "value",
    "unit",
    "source",
    "confidence",
    "notes",
)
HINT = "its first line must name " + ", ".join(COLUMNS)
_USED = (*METRICS, "weights_buffers", "file_size", "memcpy", "memset", "latency_min")
_UNITS = {"MiB": 2.0**20, "GiB": 2.0**30, "MB": 1e6, "GB": 1e9, "MB/s": 1e6, "GB/s": 1e9}
RESNET_GOP = 8.2
"""Multiplications and additions of ResNet-50 for one image of 224 × 224, in 10⁹."""
_OLD = re.compile(r"\b20(23|24)\b|^v?0\.1\.")
"""Versions from before llama.cpp had kernels on ARM that read several rows of Q4_K to Q8_0 at once: early in 2025."""
_LLAMA = re.compile(r"llama\.cpp|ollama")
_DEFAULT = "ollama default"
_CORES = re.compile(r"\s*(\d+)(?:\s*x|\s*cores?\b|-core|P?$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One published speed of a decoder, in tokens a second.

    Attributes:
        line: of the file.
        board: the chip, or what stands for it (`board_of`).
        engine: "llama.cpp" for what runs it unchanged; else as written.
        model: the plain name; rows with one plain name are one model.
        network: what models with one architecture share, tuned or spelled otherwise: phi-3.5-mini and phi3-3.8b.
        quant: as written, in small letters.
        threads: None where the row does not say or says "all".
        old: from before llama.cpp had kernels on ARM for several rows of Q4_K to Q8_0 at once.
    """

    line: int
    metric: Metric
    device: str
    board: str
    engine: str
    model: str
    network: str
    decoder: Decoder
    form: Quantization
    quant: str
    threads: int | None
    old: bool
    confidence: str
    value: float

    @property
    def judged(self) -> bool:
        """Whether it is one of those that the predictor is judged by: llama.cpp, confidence A, 4 bits and more."""
        return self.engine == "llama.cpp" and self.confidence == "A" and not self.form.narrow


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a file holds.

    Attributes:
        read_bytes: bytes of weights that a token reads, by model and quantization, where the file says how many there
            are: a fact of the model's file, not a measurement of speed.
        memory: bytes a second of memcpy and of memset on one core, by board.
        int8: 10⁹ operations a second of all cores on ResNet-50, by board.
        left_out: how many speeds cannot be used, by reason.
    """

    speeds: tuple[Speed, ...]
    read_bytes: Mapping[tuple[str, str], float]
    memory: Mapping[str, float]
    int8: Mapping[str, float]
    left_out: Mapping[str, int]


def read(path: Path) -> Rows:
    """Reads a file of published measurements.

    Raises:
        InputError: it cannot be read, has another header or no row, or a number in it is none; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="give a table with commas, in UTF-8") from error
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    found: list[tuple[int, dict[str, str]]] = []
    try:
        missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
        if missing:
            raise InputError(f"{path} has no column {', '.join(missing)}", hint=HINT)
        for row in table:
            if None in row or None in row.values():
                raise InputError(f"{path}:{table.line_num}: it has not as many fields as the header", hint=HINT)
            found.append((table.line_num, {**row, "metric": row["metric"].strip().lower()}))
    except csv.Error as error:
        raise InputError(f"{path}:{table.line_num}: {error}", hint="put a field with a comma into quotes") from error
    if not found:
        raise InputError(f"{path} has no rows", hint="give a file with one value a row")
    return _sorted([(line, row, _value(path, line, row)) for line, row in found if row["metric"] in _USED])


def board_of(device: str, soc: str) -> str:
    """What a row's board has in common with others: its chip; where none is named, its own name."""
    both = f"{device} {soc}".lower()
    for pattern, board in _CHIPS:
        if re.search(pattern, both):
            return board
    chip = _VENDOR.sub("", re.split(r"[(@,/]", soc.lower())[0].strip())
    return " ".join((chip or device.lower().split("(")[0]).split())


_VENDOR = re.compile(r"^((qualcomm( s\w*\d[\w-]*)?|mediatek|nvidia|rockchip|google)\s+)+(?=\w)")
# Chips that are written in more than one way, or that a board's name gives away. The first that fits is it.
_CHIPS = (
    (r"bcm2710a1|rp3a0|zero ?2", "bcm2710a1"),
    (r"bcm2837|raspberry pi 3", "bcm2837"),
    (r"bcm2711|raspberry pi 4", "bcm2711"),
    (r"bcm2712|raspberry pi 5", "bcm2712"),
    (r"8 elite gen 5", "snapdragon 8 elite gen 5"),
    (r"8 elite", "snapdragon 8 elite"),
    (r"agx orin", "agx orin"),
    (r"orin nano", "orin nano"),
    (r"rk3588", "rk3588"),
    (r"rk356[68]", "rk3566"),
    (r"\bn1[05]0\b|\bn9[57]\b", "intel n100"),
    (r"cp8180", "cix cp8180"),
)


def _value(path: Path, line: int, row: Mapping[str, str]) -> float:
    """The value of a row in tokens, bytes or milliseconds."""
    text = row["value"].strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise InputError(f"{path}:{line}: value is {text!r}, not a number above 0", hint="leave such a row out")
    return value * _UNITS.get(row["unit"].strip(), 1.0)


def _sorted(found: list[tuple[int, dict[str, str], float]]) -> Rows:
    speeds: list[Speed] = []
    left_out: Counter[str] = Counter()
    copies: dict[str, list[float]] = defaultdict(list)
    for line, row, value in found:
        metric, board = row["metric"], board_of(row["device"], row["soc"])
        if metric in METRICS:
            speed = _speed(line, row, board, value)
            if isinstance(speed, Speed):
                speeds.append(speed)
            else:
                left_out[speed] += 1
        elif metric in ("memcpy", "memset"):
            copies[board].append(value)
    return Rows(
        speeds=tuple(speeds),
        read_bytes=_read_bytes(found),
        memory={board: statistics.geometric_mean(values) for board, values in copies.items()},
        int8=_int8(found),
        left_out=left_out,
    )


def _speed(line: int, row: Mapping[str, str], board: str, value: float) -> Speed | str:
    """A speed, or the reason why it is none that can be predicted."""
    if row["backend"].strip().lower() != "cpu":
        return f"not on the CPU: {row['backend'].strip() or 'no backend'}"
    old = bool(_OLD.search(row["runtime_version"]) or _OLD.search(row["notes"]) or _OLD.search(row["runtime"]))
    quant = row["quant"].strip().lower()
    form = names.quantization(("q4_0" if old else "q4_k_m") if quant == _DEFAULT else quant)
    if form is None:
        return f"quantization {row['quant'].strip() or 'not stated'} is no form of llama.cpp"
    decoder = names.decoder(row["model"], _number(row["params_m"]))
    if decoder is None:
        return f"nothing says how many weights {row['model'] or 'a model without a name'} has"
    runtime = row["runtime"].strip()
    threads = re.fullmatch(r"\s*(\d+)\s*", row["threads"]) or _CORES.match(row["cpu_cores_used"])
    return Speed(
        line=line,
        metric=cast("Metric", row["metric"]),
        device=row["device"].strip(),
        board=board,
        engine="llama.cpp" if _LLAMA.match(runtime.lower()) else runtime,
        model=names.plain(row["model"]),
        network=names.network(row["model"]),
        decoder=decoder,
        form=form,
        quant=quant,
        threads=int(threads.group(1)) or None if threads else None,
        old=old and not re.search(r"q\d_0_[48]_[48]", quant),
        confidence=row["confidence"].strip().upper(),
        value=value,
    )


def _read_bytes(found: list[tuple[int, dict[str, str], float]]) -> dict[tuple[str, str], float]:
    """What a token reads of files whose size is known.

    llama.cpp's buffers hold a tied table twice, once as the head and once as it came; a file may hold it once or twice.
    Of both readings the one closer to weights × bits is taken.
    """
    known: dict[tuple[str, str], float] = {}
    for _, row, size in found:
        form, decoder = names.quantization(row["quant"]), names.decoder(row["model"], _number(row["params_m"]))
        if row["metric"] not in ("weights_buffers", "file_size") or form is None or decoder is None:
            continue
        if decoder.active < decoder.body or row["unit"].strip() not in _UNITS:
            continue
        expected = decoder.bytes_read(form)
        once = size - decoder.looked_up_bytes(form)
        twice = once - decoder.head_bytes(form) * decoder.tied
        read = min((once, twice), key=lambda one: abs(one - expected))
        if decoder.known or abs(read - expected) < 0.5 * expected:
            known[names.plain(row["model"]), row["quant"].strip().lower()] = read
    return known


def _int8(found: list[tuple[int, dict[str, str], float]]) -> dict[str, float]:
    best: dict[str, float] = {}
    for _, row, value in found:
        if row["model"] == "ResNet-50" and row["quant"] == "int8" and row["backend"].strip() == "cpu":
            board = board_of(row["device"], row["soc"])
            best[board] = max(best.get(board, 0.0), RESNET_GOP / value * 1e3)
    return best


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
