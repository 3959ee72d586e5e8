"""What `edgedistill export` shows fits a terminal of 80 columns, and says why a file does not hold."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from edgedistill import catalog, predictor
from edgedistill.bundle.app import App
from edgedistill.bundle.card import export_card
from edgedistill.export.fit import Fit
from edgedistill.pipeline import Made, record
from edgedistill.pipeline.exporting.candidates import Candidate
from edgedistill.terminal import export_tables


def candidate(recipe: str, *, passed: bool = True, best: bool = False) -> Candidate:
    return Candidate(
        recipe=recipe,
        size_bytes=123_456_789,
        quality=0.98765,
        speed=1234.567,
        passed=passed,
        reason="accuracy 0.9123, before 0.9345; 0.0100 may be lost",
        best=best,
    )


def made(kind: str = "classifier") -> Made:
    return Made(
        bundle=Path("dist/my-long-intents-raspberrypi-zero2w"),
        kind=kind,  # type: ignore[arg-type]
        target="raspberrypi-zero2w",
        recipe="onnx-int8-static-entropy",
        metric="token accuracy",
        judged_on="1,000 texts that come with edgedistill",
        reference=0.9345,
        parity={"kl": 0.001},
        candidates=(candidate("onnx-int8-dynamic, 16 in float32", passed=False), candidate("onnx-fp32", best=True)),
        fit=Fit(parts={"runtime": 55e6}, storage=1e6, memory_available=1e9, storage_available=1e9),
        latency=None,
        on_target=(),
        lint=(),
        sensitivity=(),
        command='chat "your question"' if kind == "decoder" else 'predict "your text"',
        notes=(),
        app=App(file="app.onnx", size_bytes=10, rows=1000, traps=8, max_difference=1e-7, requires={"numpy": "2"}),
    )


def test_no_cell_is_broken_in_80_columns_and_reasons_are_whole() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=80)
    for part in export_tables(made()):
        console.print(part)
    shown = screen.getvalue().splitlines()
    (refused,) = (line for line in shown if "in float32" in line and "MB" in line)
    assert refused.split()[-1] == "no"
    (line,) = (line for line in shown if line.strip().startswith("onnx-fp32"))
    assert line.split()[-1] == "best"
    words = " ".join(" ".join(shown).split())
    assert "16 in float32 does not hold: accuracy 0.9123, before 0.9345; 0.0100 may be lost." in words
    assert "whose 95 % intervals overlap count as equal" in words
    assert "The same label for each of 1000 rows and 8 texts" in words


def test_a_card_says_how_the_bundle_is_fed() -> None:
    of_classifier, of_decoder = (export_card("x", "a board", record(made(kind))) for kind in ("classifier", "decoder"))
    assert "python -m runtime predict - < texts.txt" in of_classifier
    assert "predict -" not in of_decoder
    (talks,) = (part.split("```")[0] for part in of_decoder.split("```json\n")[1:])
    question, conversation = json.loads(talks)
    assert isinstance(question, str)
    assert [turn["role"] for turn in conversation] == ["system", "user"]


def test_a_decoder_shows_what_it_will_do_on_the_board_with_its_intervals() -> None:
    board = catalog.device("raspberrypi5")
    sizes = predictor.Decoder(body=1e9, active=1e9, table=1e8, tied=True)
    found = replace(made("decoder"), writing=predictor.decoder(board, sizes, "Q4_0"))
    screen = io.StringIO()
    for part in export_tables(found):
        Console(file=screen, width=200).print(part)
    said = screen.getvalue()
    assert re.search(
        r"Predicted for the board, as 90 % intervals: writing, prompt of 256 [\d.]+ tokens/s to [\d.]+", said
    )
    assert "first token, prompt of 256" in said
    assert "Writing: published rows of this board." in said
    card = export_card("name", board.title, json.loads(json.dumps(record(found), default=str)))
    assert "| predicted, prompt @ tokens | value | 90 % interval | unit |" in card
    assert re.search(r"\| decode@256 \| [\d.]+ \| [\d.]+ to [\d.]+ \| tokens/s \|", card)


def test_a_decoder_that_does_not_fit_into_memory_has_rough_ranges_on_screen_and_card() -> None:
    board = replace(catalog.device("raspberrypi5"), ram_usable_bytes=1e8)
    sizes = predictor.Decoder(body=1e9, active=1e9, table=1e8, tied=True)
    found = replace(made("decoder"), writing=predictor.decoder(board, sizes, "Q4_0"))
    screen = io.StringIO()
    for part in export_tables(found):
        Console(file=screen, width=200).print(part)
    assert "Predicted for the board, as rough ranges: writing, prompt of 256" in screen.getvalue()
    card = export_card("name", board.title, json.loads(json.dumps(record(found), default=str)))
    assert "| predicted, prompt @ tokens | value | rough range | unit |" in card
    assert "90 % interval" not in screen.getvalue() + card


def test_nothing_predicted_is_nothing_shown() -> None:
    screen = io.StringIO()
    for part in export_tables(made()):
        Console(file=screen, width=200).print(part)
    assert "Predicted for the board" not in screen.getvalue()
    assert "predicted, prompt" not in export_card("name", "board", json.loads(json.dumps(record(made()), default=str)))
