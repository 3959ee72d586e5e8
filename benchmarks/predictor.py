"""How far predicted speeds of decoders are from published ones.

`python benchmarks/predictor.py --rows CSV [--fit CSV]`.

Both files have the columns that `edgedistill.predictor.rows.COLUMNS` names, one value a row. Every model is predicted
from rows of other networks only, for a model under another name, or trained once more, is as fast: without --fit from
the other rows of the file, with it from the file named there. What counts are rows of llama.cpp with confidence A and 4
bits or more, decoding and reading a prompt; the other rows are predicted as well, by the same fit, and shown beside as
an outer check. So are the figures with only rows of the same name left out.

--write puts the constants of the fit where the package reads them. The last line is JSON: median_ape, coverage90, n.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edgedistill import catalog
from edgedistill.errors import EdgeDistillError
from edgedistill.predictor import fitted, fitting, rows, speed
from edgedistill.predictor.law import METRICS
from edgedistill.predictor.rows import Rows, Speed
from edgedistill.predictor.speed import Predicted
from edgedistill.types import Device

WORST = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads, predicts, prints; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="published rows to predict")
    parser.add_argument("--fit", type=Path, help="published rows to fit on; the rows themselves without it")
    parser.add_argument("--write", action="store_true", help=f"write {fitted.FILE.name} of the package")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except EdgeDistillError as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return error.exit_code


def _run(options: argparse.Namespace) -> int:
    wanted = rows.read(options.rows)
    known = rows.read(options.fit) if options.fit else wanted
    devices = catalog.devices()
    files = [wanted] if known is wanted else [known, wanted]
    judged = [one for one in wanted.speeds if one.judged]
    basis = [one for one in known.speeds if one.judged]
    found = speed.predict(judged, basis, files, devices)
    figures = _figures(found)
    print(f"{len(found)} rows of llama.cpp, confidence A, 4 bits and more; each model predicted from other networks\n")
    for title, key in (("metric", _metric), ("board", _board), ("quantization", _form), ("rests on", _basis)):
        _table(title, found, key)
    _worst(found)
    _outer(wanted, basis, files, devices)
    by_name = _figures(speed.predict(judged, basis, files, devices, _model))
    if by_name["n"]:
        print(
            "\nwith only rows of the same name left out, so that a network may be known by another: "
            "{median_ape:.1%}, {coverage90:.1%} covered".format(**by_name)
        )
    boards = _without_each_board(judged, basis, files, devices)
    if boards["n"]:
        print(
            "\nwithout any row of their board, as a check: {median_ape:.1%}, {coverage90:.1%} covered".format(**boards)
        )
    _left_out(wanted)
    parts = {name: _figures([one for one in found if one.speed.metric == name]) for name in METRICS}
    if options.write:
        _write(known, devices, figures)
    print(
        json.dumps(
            figures | parts | {"left_out": sum(wanted.left_out.values()), "by_name": by_name, "unseen_board": boards}
        )
    )
    return 0


def _figures(found: Sequence[Predicted]) -> dict[str, float | None]:
    return {
        "median_ape": round(statistics.median(one.error for one in found), 4) if found else None,
        "coverage90": round(statistics.fmean(one.covered for one in found), 4) if found else None,
        "n": len(found),
    }


def _model(one: Speed) -> str:
    return one.model


def _metric(one: Predicted) -> str:
    return one.speed.metric


def _board(one: Predicted) -> str:
    return one.speed.board


def _form(one: Predicted) -> str:
    return one.speed.form.kind


def _basis(one: Predicted) -> str:
    return one.basis


def _engine_and_form(one: Predicted) -> str:
    return f"{one.speed.engine}, {one.speed.confidence}, {one.speed.form.kind}"


def _table(title: str, found: Sequence[Predicted], key: Callable[[Predicted], str]) -> None:
    print(f"| {title} | rows | median error | 90th percentile | in the 90 % interval | its width, × either way |")
    print("| --- | --- | --- | --- | --- | --- |")
    groups: dict[str, list[Predicted]] = {}
    for one in found:
        groups.setdefault(key(one), []).append(one)
    for name, some in sorted(groups.items(), key=lambda item: -len(item[1])):
        errors = sorted(one.error for one in some)
        width = statistics.median(one.high / one.value for one in some)
        covered = statistics.fmean(one.covered for one in some)
        far = errors[min(len(errors) - 1, int(0.9 * len(errors)))]
        print(f"| {name} | {len(some)} | {statistics.median(errors):.1%} | {far:.1%} | {covered:.1%} | {width:.2f} |")
    print()


def _worst(found: Sequence[Predicted]) -> None:
    print("The rows that are furthest off:")
    for one in sorted(found, key=lambda one: -one.error)[:WORST]:
        row = one.speed
        print(
            f"  line {row.line}: {row.device}, {row.model} {row.quant}, {row.metric} {row.value:g} tok/s, "
            f"predicted {one.value:.3g} ({one.low:.3g} to {one.high:.3g})"
        )


def _outer(wanted: Rows, basis: Sequence[Speed], files: Sequence[Rows], devices: Iterable[Device]) -> None:
    others = [one for one in wanted.speeds if not one.judged]
    if others:
        print(f"\n{len(others)} other rows, which the fit does not see, predicted as if they were llama.cpp:")
        _table("engine, confidence, form", speed.predict(others, basis, files, devices), _engine_and_form)


def _without_each_board(
    judged: Sequence[Speed], basis: Sequence[Speed], files: Sequence[Rows], devices: Iterable[Device]
) -> dict[str, float | None]:
    """Without profiles too: some of them were made from these rows."""
    found: list[Predicted] = []
    for board in sorted({one.board for one in judged}):
        ours, rest = [one for one in judged if one.board == board], [one for one in basis if one.board != board]
        found += speed.predict(ours, rest, files, [])
    return _figures(found)


def _left_out(wanted: Rows) -> None:
    print(f"\nleft out: {sum(wanted.left_out.values())} speeds that cannot be predicted")
    for reason, count in sorted(wanted.left_out.items(), key=lambda item: (-item[1], item[0])):
        print(f"  {count}: {reason}")


def _write(known: Rows, devices: Iterable[Device], figures: dict[str, float | None]) -> None:
    basis = [one for one in known.speeds if one.judged]
    facts = {
        "written": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rows": len(basis),
        "models": len({one.model for one in basis}),
        "networks": len({one.network for one in basis}),
        "boards": len({one.board for one in basis}),
        "by": "python benchmarks/predictor.py --rows CSV --write",
        **{key: value for key, value in figures.items() if key != "n"},
    }
    fitted.FILE.write_text(fitting.text(fitting.fit(known, devices), facts=facts), encoding="utf-8")
    print(f"written: {fitted.FILE}")


if __name__ == "__main__":
    sys.exit(main())
