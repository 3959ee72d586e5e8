"""Each published speed of a decoder from those of other networks: what `law` leaves open, found by `mixed`.

The context is left out: the rows write 64 to 128 tokens from an empty one. What each choice is worth, and what was
tried and dropped, is in benchmarks/LOG.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgedistill.errors import InputError
from edgedistill.predictor.law import (
    ASSUMED,
    COPIED,
    INT8_SHARE,
    LEVEL,
    MATRIX_ISA,
    METRICS,
    NORMAL,
    SIZE,
    THREADS,
    UNKNOWN,
    Expected,
    Metric,
    of_form,
    of_profile,
    parted,
    width,
)
from edgedistill.predictor.mixed import Cell, Mixed, Spreads, quantile
from edgedistill.predictor.rows import Rows, Speed
from edgedistill.types import Device

MOST = 5000
"""Rows that are fitted at once: it takes a matrix of rows × rows."""
# Chosen by hand near the largest likelihood of the published rows, rounded up: models to come differ more than these.
SPREADS: Mapping[Metric, Spreads] = {
    "decode": Spreads(form=0.2, board_form=0.08, model=0.1, model_board=0.04, model_form=0.04, noise=0.05, size=0.05),
    "prefill": Spreads(form=0.3, board_form=0.1, model=0.15, model_board=0.05, model_form=0.08, noise=0.05, size=0.05),
}
COPY_TO_READ = 1.3
"""Bytes that all cores read, against what one core copies and fills (tinymembench), from a Pi 5, a Pi 4 and an N100."""
OF_ANY = {"decode": 20e9, "prefill": 200e9}
"""Expected of a board of which nothing is known: the middle of the twelve that rows are from."""
PROFILES: Mapping[str, str] = {
    "bcm2712": "raspberrypi5",
    "bcm2711": "raspberrypi4",
    "bcm2837": "raspberrypi3",
    "bcm2710a1": "raspberrypi-zero2w",
    "orin nano": "jetson-orin-nano",
    "snapdragon 8 gen 2": "android-high",
    "snapdragon 765g": "android-mid",
    "snapdragon 660": "android-low",
    "a15 bionic": "iphone",
    "intel n100": "x86-n100",
}
"""The profile of a chip. A class of phones is the slowest chip in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boards:
    """What is known of boards beside the speed of decoders.

    Attributes:
        profiles: of the catalogue, by board.
        memory: bytes a second on one core, and `int8` 10⁹ operations a second of all, by board.
        threads: the most that any row uses, by board.
    """

    profiles: Mapping[str, Device]
    memory: Mapping[str, float]
    int8: Mapping[str, float]
    threads: Mapping[str, int]

    @classmethod
    def known(cls, devices: Iterable[Device], files: Sequence[Rows]) -> Boards:
        """Of the catalogue and of all files together: none of this is a speed that is predicted."""
        by_name = {device.name: device for device in devices}
        threads: dict[str, int] = {}
        for speed in (speed for rows in files for speed in rows.speeds):
            threads[speed.board] = max(threads.get(speed.board, 1), speed.threads or 1)
        profiles = {board: by_name[name] for board, name in PROFILES.items() if name in by_name}
        return cls(
            profiles=profiles,
            memory={board: value for rows in files for board, value in rows.memory.items()},
            int8={board: value for rows in files for board, value in rows.int8.items()},
            threads=threads | {board: device.cores for board, device in profiles.items()},
        )

    def expected(self, board: str, metric: Metric) -> Expected:
        """Of a board: from its profile, else from what others measured on it, else of any board."""
        if board in self.profiles:
            return of_profile(self.profiles[board], metric)
        if metric == "decode" and board in self.memory:
            return Expected(
                value=COPY_TO_READ * self.memory[board], spread=COPIED, why="what one core copies and fills"
            )
        if metric == "prefill" and board in self.int8:
            return Expected(value=INT8_SHARE[True] * self.int8[board] * 1e9, spread=ASSUMED, why="ResNet-50 in int8")
        return Expected(value=OF_ANY[metric], spread=UNKNOWN, why="nothing: any board")

    def grouped(self, board: str) -> bool:
        """Whether llama.cpp has kernels for several rows at once there; of a board without profile, that is likely."""
        return board not in self.profiles or bool(MATRIX_ISA & set(self.profiles[board].isa))

    def share(self, speed: Speed) -> float:
        """Of the board's cores that a row uses; 1 where nobody says."""
        return min(1.0, (speed.threads or 10**6) / self.threads.get(speed.board, 1))


def work(speed: Speed, read_bytes: Mapping[tuple[str, str], float]) -> float:
    """What a token costs: bytes that decoding reads, or operations of a prompt (Pope et al., 2022, section 2.1)."""
    if speed.metric == "prefill":
        return 2 * speed.decoder.active
    return read_bytes.get((speed.model, speed.quant)) or speed.decoder.bytes_read(speed.form)


def network(speed: Speed) -> str:
    """What a row is left out with: every row of its network, whatever its model is called."""
    return speed.network


def cell(
    speed: Speed,
    boards: Boards,
    read_bytes: Mapping[tuple[str, str], float],
    group: Callable[[Speed], str] = network,
) -> Cell:
    """A row as the mixed model takes it; rows of one `group` are one model to it."""
    metric, cost = speed.metric, work(speed, read_bytes)
    expected = boards.expected(speed.board, metric)
    log = math.log(expected.value) + THREADS[metric] * math.log(boards.share(speed))
    back, grouped = speed.decoder.falls_back(speed.form), boards.grouped(speed.board)
    log += of_form(speed.form, metric, grouped=grouped, old=speed.old, falls_back=back)
    return Cell(
        board=speed.board,
        form=speed.form.kind,
        model=group(speed),
        expected=log,
        spread=expected.spread,
        size=math.log(cost / SIZE),
        seen=math.log(speed.value * cost),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """One row with what was predicted of it, in tokens a second, without any row of its network.

    Attributes:
        basis: what is known of the board: its rows, or what `Expected.why` says.
    """

    speed: Speed
    value: float
    low: float
    high: float
    basis: str

    @property
    def error(self) -> float:
        """Absolute and relative, of the published value."""
        return abs(self.value / self.speed.value - 1)

    @property
    def covered(self) -> bool:
        """Whether the published value lies in the interval."""
        return self.low <= self.speed.value <= self.high


def scale_of(fitted: Mixed) -> float:
    """How many deviations an interval of `LEVEL` has to each side, from errors with the model of each row left out.

    They are scaled by the errors themselves and not by the normal distribution, as in split conformal prediction
    (Lei et al., 2018): of each row, by how much its deviation must be multiplied for its interval to reach it.
    """
    if not fitted.cells:
        return NORMAL
    on: dict[str, set[str]] = {}
    for one in fitted.cells:
        on.setdefault(one.board, set()).add(one.model)
    needed = []
    for one, error, deviation in zip(fitted.cells, *fitted.left_out(lambda one: one.model), strict=True):
        known, spread = parted(float(deviation), one.spread if len(on[one.board]) == 1 else 0.0)
        needed.append(math.sqrt(max(0.0, error**2 - (NORMAL * spread) ** 2)) / known)
    models = len({one.model for one in fitted.cells})
    return quantile(np.array(needed), rank(LEVEL, models, len(needed)))


def rank(level: float, models: int, rows: int) -> float:
    """The share of errors that an interval must hold, to hold a share `level` of a new model's.

    With n independent errors it is level × (1 + 1/n). Rows of a model share a part of their error, so n lies between
    the number of models and that of rows; it is taken as their geometric mean, which held 90 % of the rows of models
    that were kept from the fit.
    """
    return min(1.0, level * (1 + 1 / math.sqrt(max(1, models * rows))))


def predict(
    wanted: Sequence[Speed],
    known: Sequence[Speed],
    files: Sequence[Rows],
    devices: Iterable[Device],
    group: Callable[[Speed], str] = network,
) -> list[Predicted]:
    """Each row from those of all other networks.

    Args:
        wanted: rows to predict; `known`: rows to fit on, which may be the same.
        files: that both come from, for facts of boards and of models' files.
        group: rows that are left out together, here and where the width of the intervals is found.

    Raises:
        InputError: more rows than can be fitted at once.
    """
    boards = Boards.known(devices, files)
    read_bytes = {key: value for rows in files for key, value in rows.read_bytes.items()}
    found: list[Predicted] = []
    if len(known) > MOST:
        raise InputError(f"{len(known)} rows to fit on, and {MOST} is the most", hint="fit on fewer boards or models")
    for metric in METRICS:
        cells = [cell(speed, boards, read_bytes, group) for speed in known if speed.metric == metric]
        ours = [(speed, cell(speed, boards, read_bytes, group)) for speed in wanted if speed.metric == metric]
        for model in sorted({one.model for _, one in ours}):
            fitted = Mixed(tuple(one for one in cells if one.model != model), SPREADS[metric])
            scale = scale_of(fitted)
            rows = [(speed, one) for speed, one in ours if one.model == model]
            logs, deviations = fitted.predict([one for _, one in rows])
            seen = {one.board for one in fitted.cells}
            for (speed, one), log, deviation in zip(rows, logs, deviations, strict=True):
                known_board = one.board in seen
                half = width(*parted(float(deviation), 0.0 if known_board else one.spread), scale)
                basis = "its rows" if known_board else boards.expected(one.board, metric).why
                found.append(_predicted(speed, math.exp(log - one.size) / SIZE, half, basis))
    return sorted(found, key=lambda one: one.speed.line)


def _predicted(speed: Speed, value: float, half: float, basis: str) -> Predicted:
    low, high = value * math.exp(-half), value * math.exp(half)
    return Predicted(speed=speed, value=value, low=low, high=high, basis=basis)
