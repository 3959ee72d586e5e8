"""A linear mixed model of log speeds, with the variances of its parts given: what is known of one cell from others.

The log speed of a model on a board is what is expected of the board, plus parts that rows share: of the board, of the
form of the weights, of both together, of the model, of the model on this board and in this form, plus noise. Each part
is drawn around 0 with its own spread, so that a part seen in many rows is believed and one seen once is shrunken (best
linear unbiased prediction: Henderson, 1975). A model that no row has costs its spread, and so does a board.

Written as a Gaussian process its solution is one inverse, and leaving a model out needs no second fit: with A the
inverse of the covariance and g the rows of a model, the error of predicting them from all others is A_gg⁻¹ (A r)_g, and
its covariance A_gg⁻¹ (Rasmussen and Williams, 2006, section 5.4.2, for single rows).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
FAR = 2.5
"""A row more than so many deviations from what others say of it counts less: phones get hot, or run out of memory."""
ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One model in one form on one board.

    Attributes:
        expected: log speed before any row is seen, and `spread`, its standard deviation between boards.
        model: the network, for models of one network are as fast.
        size: log of the size that the speed may depend on, against a reference.
        seen: log speed; 0 in a cell that is only predicted.
    """

    board: str
    form: str
    model: str
    expected: float
    spread: float
    size: float
    seen: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spreads:
    """Standard deviations of the parts, in log speed; `size` is that of the slope over log size."""

    form: float
    board_form: float
    model: float
    model_board: float
    model_form: float
    noise: float
    size: float


@dataclass(frozen=True, slots=True)
class Mixed:
    """The model, fitted to some cells: [n] of them."""

    cells: tuple[Cell, ...]
    spreads: Spreads
    _inverse: Array = field(init=False)
    _residual: Array = field(init=False)
    _extra: Array = field(init=False)

    def __post_init__(self) -> None:
        covariance = _covariance(self.cells, self.cells, self.spreads) + np.eye(len(self.cells)) * self.spreads.noise**2
        residual = np.array([cell.seen - cell.expected for cell in self.cells])
        extra = np.zeros(len(self.cells))
        inverse = np.linalg.inv(covariance) if len(self.cells) else np.zeros((0, 0))
        for _ in range(ROUNDS):
            # What the others say of each row, from the inverse (leave one row out).
            off = np.abs(inverse @ residual) / np.sqrt(np.diag(inverse))
            share = np.minimum(1.0, (FAR / np.maximum(off, 1e-9)) ** 2)
            extra = np.maximum(extra, self.spreads.noise**2 * (1 / share - 1))
            inverse = np.linalg.inv(covariance + np.diag(extra)) if len(self.cells) else inverse
        for name, value in (("_inverse", inverse), ("_residual", residual), ("_extra", extra)):
            object.__setattr__(self, name, value)

    def predict(self, cells: Sequence[Cell]) -> tuple[Array, Array]:
        """Log speeds of cells and their standard deviations, noise included: [cells] each."""
        across = _covariance(cells, self.cells, self.spreads)
        own = np.diag(_covariance(cells, cells, self.spreads)) + self.spreads.noise**2
        mean = np.array([cell.expected for cell in cells]) + across @ (self._inverse @ self._residual)
        variance = own - np.einsum("ij,jk,ik->i", across, self._inverse, across)
        return mean, np.sqrt(np.maximum(variance, self.spreads.noise**2))

    def left_out(self, group: Callable[[Cell], str]) -> tuple[Array, Array]:
        """Each cell predicted from those of other groups: [n] errors, seen less predicted, and deviations."""
        return _left_out(self._inverse, self._residual, self._extra, [group(cell) for cell in self.cells])


def quantile(values: Array, level: float) -> float:
    """The smallest of them that at least a share `level` of them does not exceed."""
    if not len(values):
        return float("nan")
    return float(np.sort(values)[min(len(values), math.ceil(level * len(values))) - 1])


def _left_out(inverse: Array, residual: Array, extra: Array, groups: Sequence[str]) -> tuple[Array, Array]:
    pulled = inverse @ residual
    errors, deviations = np.zeros(len(groups)), np.ones(len(groups))
    for name in set(groups):
        of = np.array([one == name for one in groups])
        corner = np.linalg.inv(inverse[np.ix_(of, of)])
        errors[of] = corner @ pulled[of]
        # What was added to the noise of a row that is far off is no doubt about the prediction.
        deviations[of] = np.sqrt(np.maximum(np.diag(corner) - extra[of], 1e-12))
    return errors, deviations


def _covariance(some: Sequence[Cell], others: Sequence[Cell], spreads: Spreads) -> Array:
    """Of the true log speeds of cells, noise not counted: [some, others]."""

    def same(name: str) -> Array:
        numbers: dict[str, int] = {}
        left, right = (
            np.array([numbers.setdefault(getattr(cell, name), len(numbers)) for cell in cells], dtype=np.int64)
            for cells in (some, others)
        )
        return np.asarray(left[:, None] == right[None, :], dtype=np.float64)

    board, form, model = same("board"), same("form"), same("model")
    between = np.outer([cell.spread for cell in some], [cell.spread for cell in others])
    sizes = np.outer([cell.size for cell in some], [cell.size for cell in others])
    return np.asarray(
        between * board
        + spreads.form**2 * form
        + spreads.board_form**2 * board * form
        + spreads.model**2 * model
        + spreads.model_board**2 * model * board
        + spreads.model_form**2 * model * form
        + spreads.size**2 * sizes,
        dtype=np.float64,
    )
