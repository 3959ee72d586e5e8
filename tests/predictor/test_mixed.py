"""The mixed model: parts that rows share are found, and leaving a model out by the formula is leaving it out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.predictor.mixed import Cell, Mixed, Spreads, quantile
from edgedistill.predictor.speed import rank

SPREADS = Spreads(form=0.3, board_form=0.1, model=0.1, model_board=0.05, model_form=0.05, noise=0.05, size=0.1)


def cell(board: str, form: str, model: str, seen: float = 0.0, size: float = 0.0) -> Cell:
    return Cell(board=board, form=form, model=model, expected=0.0, spread=1.0, size=size, seen=seen)


def made(seed: int = 0) -> tuple[Cell, ...]:
    rng = np.random.default_rng(seed)
    boards, forms = {"a": 0.8, "b": -0.5, "c": 0.1}, {"x": 0.2, "y": -0.2}
    return tuple(
        cell(board, form, str(model), of_board + of_form + rng.uniform(-0.05, 0.05), size=model / 4)
        for board, of_board in boards.items()
        for form, of_form in forms.items()
        for model in range(6)
    )


def test_one_row_is_shrunken_by_its_own_doubt() -> None:
    # One row of 1.0: all that a new model shares with it is board, form and both together.
    fitted = Mixed((cell("a", "x", "m", 1.0),), SPREADS)
    shared = 1.0 + 0.3**2 + 0.1**2
    own = shared + 0.1**2 + 0.05**2 + 0.05**2 + 0.05**2
    (mean,), (deviation,) = fitted.predict([cell("a", "x", "new")])
    assert mean == pytest.approx(shared / own)
    assert deviation**2 == pytest.approx(own - shared**2 / own)


def test_a_board_without_rows_keeps_what_is_expected_of_it_and_its_whole_spread() -> None:
    (mean,), (deviation,) = Mixed(made(), SPREADS).predict([cell("d", "z", "new")])
    assert mean == pytest.approx(0.0, abs=1e-9)
    assert deviation == pytest.approx(math.sqrt(1 + 0.3**2 + 0.1**2 + 0.1**2 + 2 * 0.05**2 + 0.05**2))


def test_more_rows_of_a_board_leave_less_doubt() -> None:
    cells = made()
    few, many = (Mixed(some, SPREADS).predict([cell("a", "x", "new")])[1][0] for some in (cells[:2], cells))
    assert many < few


@pytest.mark.parametrize("seed", range(3))
def test_leaving_a_model_out_by_the_formula_is_fitting_without_it(seed: int) -> None:
    cells = made(seed)
    errors, deviations = Mixed(cells, SPREADS).left_out(lambda one: one.model)
    for model in {one.model for one in cells}:
        ours = [i for i, one in enumerate(cells) if one.model == model]
        rest = Mixed(tuple(one for one in cells if one.model != model), SPREADS)
        means, doubts = rest.predict([cells[i] for i in ours])
        for place, i in enumerate(ours):
            assert errors[i] == pytest.approx(cells[i].seen - means[place], abs=1e-6)
            assert deviations[i] == pytest.approx(doubts[place], rel=1e-6)


def test_a_row_far_off_hardly_moves_the_others() -> None:
    cells = made()
    odd = (*cells, cell("a", "x", "odd", seen=-3.0))
    (usual,), (still,) = (Mixed(some, SPREADS).predict([cell("a", "x", "new")])[0] for some in (cells, odd))
    assert still == pytest.approx(usual, abs=0.1)


def test_no_rows_at_all_leave_what_was_expected() -> None:
    (mean,), (deviation,) = Mixed((), SPREADS).predict([cell("a", "x", "new")])
    assert mean == 0.0
    assert deviation > 1.0


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=12), st.integers(0, 3))
def test_doubt_is_positive_and_finite_whatever_was_seen(seen: list[float], boards: int) -> None:
    cells = tuple(cell(str(i % (boards + 1)), "xy"[i % 2], str(i % 4), value) for i, value in enumerate(seen))
    fitted = Mixed(cells, SPREADS)
    means, deviations = fitted.predict([*cells, cell("new", "x", "new")])
    assert np.isfinite(means).all()
    assert (deviations >= SPREADS.noise).all()
    assert (fitted.left_out(lambda one: one.model)[1] > 0).all()


def test_the_quantile_holds_the_share_that_is_asked_for() -> None:
    values = np.arange(1.0, 11.0)
    assert [quantile(values, level) for level in (0.05, 0.5, 0.9, 0.91, 1.0)] == [1, 5, 9, 10, 10]


def test_fewer_models_need_a_larger_share_of_their_errors() -> None:
    assert rank(0.9, 25, 100) == pytest.approx(0.9 * (1 + 1 / 50))
    assert rank(0.9, 2, 2) == 1.0
    assert 0.9 < rank(0.9, 100, 1000) < rank(0.9, 10, 100)
