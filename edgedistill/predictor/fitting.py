"""From published rows to the constants that `fitted` reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from edgedistill.errors import InputError
from edgedistill.predictor.fitted import OTHER, Law, Level
from edgedistill.predictor.law import METRICS, Metric
from edgedistill.predictor.mixed import Cell, Mixed
from edgedistill.predictor.rows import Rows
from edgedistill.predictor.speed import PROFILES, SPREADS, Boards, cell, scale_of
from edgedistill.types import Device


def fit(rows: Rows, devices: Iterable[Device]) -> Mapping[Metric, Law]:
    """The laws of the rows that the predictor is judged by.

    Raises:
        InputError: there are none of a metric.
    """
    boards = Boards.known(devices, [rows])
    return {metric: _fit(metric, rows, boards) for metric in METRICS}


def _fit(metric: Metric, rows: Rows, boards: Boards) -> Law:
    cells = [cell(one, boards, rows.read_bytes) for one in rows.speeds if one.judged and one.metric == metric]
    if not cells:
        raise InputError(f"no row gives {metric} of llama.cpp with confidence A and 4 bits", hint="fit on more rows")
    fitted = Mixed(tuple(cells), SPREADS[metric])
    forms = [*sorted({one.form for one in cells}), OTHER]

    def ask(board: str, spread: float, size: float = 0.0) -> list[Level]:
        asked = [
            Cell(board=board, form=form, model="a model to come", expected=0.0, spread=spread, size=size)
            for form in forms
        ]
        logs, deviations = fitted.predict(asked)
        return [Level(log=float(a), deviation=float(b)) for a, b in zip(logs, deviations, strict=True)]

    seen = {one.board for one in cells}
    of_boards = {
        PROFILES[board]: ask(board, boards.expected(board, metric).spread)
        for board in sorted(seen & set(boards.profiles))
    }
    levels = ask("a board to come", 0.0)
    above, below = ask("a board to come", 0.0, 1.0), ask("a board to come", 0.0, -1.0)
    # A deviation over size x is that of the level and that of the slope: d² + 2 c x + s² x².
    spread = (above[0].deviation ** 2 + below[0].deviation ** 2) / 2 - levels[0].deviation ** 2
    return Law(
        scale=scale_of(fitted),
        slope=min(0.9, above[0].log - levels[0].log),
        slope_deviation=math.sqrt(max(0.0, spread)),
        sizes=(min(one.size for one in cells), max(one.size for one in cells)),
        boards={name: dict(zip(forms, found, strict=True)) for name, found in of_boards.items()},
        any_board=dict(zip(forms, levels, strict=True)),
    )


def text(laws: Mapping[Metric, Law], *, facts: Mapping[str, object]) -> str:
    """The file: TOML with `facts` about the fit at its top."""
    lines = [
        "# What the rows of published speeds came to, written by benchmarks/predictor.py: do not edit.",
        "# Each pair: log of the speed against what the board's profile promises, and its standard deviation.",
        "",
        "[fit]",
        *(f"{key} = {value!r}" if not isinstance(value, str) else f'{key} = "{value}"' for key, value in facts.items()),
    ]
    for metric, law in laws.items():
        lines += ["", f"[{metric}]", f"scale = {law.scale:.4f}", f"slope = {law.slope:.4f}"]
        lines.append(f"slope_deviation = {law.slope_deviation:.4f}")
        lines.append(f"sizes = [{law.sizes[0]:.4f}, {law.sizes[1]:.4f}]")
        for title, levels in [("any_board", law.any_board), *((f"boards.{k}", v) for k, v in law.boards.items())]:
            lines += ["", f"[{metric}.{title}]"]
            lines += [f"{form} = [{one.log:.4f}, {one.deviation:.4f}]" for form, one in levels.items()]
    return "\n".join(lines) + "\n"
