"""The emulated check: rows from all over the file, one check for each core, and nothing kept of one that failed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgedistill import catalog
from edgedistill.bench import target
from edgedistill.errors import EngineCrashed
from edgedistill.links import emulated
from edgedistill.store import Output, Store
from edgedistill.types import Measurement, NotMeasured, Subject

ROWS = 640
TEXTS = [str(number) for number in range(ROWS)]
BOARD = catalog.device("raspberrypi")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def host() -> NDArray[np.float32]:
    return np.stack([np.arange(ROWS), np.full(ROWS, ROWS / 2)], axis=1).astype(np.float32)


class Emulator:
    """Answers text n with the logits (n, 320); or crashes."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.crashes = False

    def __call__(self, command: Sequence[Any], **_: Any) -> str:
        texts = [int(text) for text in json.loads(Path(command[command.index("--texts") + 1]).read_text())]
        self.asked.append(texts)
        if self.crashes:
            raise EngineCrashed("Python on an emulated cortex-a76 did not finish in 1800 s")
        return json.dumps({"logits": [[text, ROWS / 2] for text in texts]})


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Emulator:
    made = Emulator()
    monkeypatch.setattr(emulated, "missing", lambda: None)
    monkeypatch.setattr(emulated, "run", made)
    return made


@pytest.fixture
def draft(tmp_path: Path) -> Output:
    return Output(path=tmp_path, sha256="bundle", cached=False, seconds=0.0)


def test_rows_from_all_over_the_file_are_compared_with_their_own_logits(
    emulator: Emulator, draft: Output, host: NDArray[np.float32], store: Store
) -> None:
    found, output = target.kept_check(draft, BOARD, TEXTS, host, store=store)
    assert output is not None
    ((first, *_, last),) = emulator.asked
    assert (len(emulator.asked[0]), first, last) == (target.TEXTS, 0, ROWS - ROWS // target.TEXTS)
    equal, difference, board = found
    assert isinstance(equal, Measurement)
    assert isinstance(difference, Measurement)
    assert (equal.values, difference.values) == ((1.0,), (0.0,))
    assert isinstance(board, NotMeasured)


def test_a_check_is_kept_for_one_core_and_the_same_rows(
    emulator: Emulator, draft: Output, host: NDArray[np.float32], store: Store
) -> None:
    other = replace(BOARD, emulated_cpu="cortex-a53")
    for board, texts in ((BOARD, TEXTS), (BOARD, TEXTS), (other, TEXTS), (BOARD, TEXTS[::-1])):
        target.kept_check(draft, board, texts, host, store=store)
    assert len(emulator.asked) == 3


def test_a_run_that_was_cut_short_is_told_and_tried_again(
    emulator: Emulator, draft: Output, host: NDArray[np.float32], store: Store
) -> None:
    emulator.crashes = True
    (failed, board), output = target.kept_check(draft, BOARD, TEXTS, host, store=store)
    assert output is None
    assert isinstance(failed, NotMeasured)
    assert failed.reason.startswith(emulated.CUT_SHORT)
    assert "did not finish in 1800 s" in failed.reason
    assert board.name == "latency"
    emulator.crashes = False
    found, output = target.kept_check(draft, BOARD, TEXTS, host, store=store)
    assert output is not None
    assert isinstance(found[0], Measurement)


def test_spans_are_the_same_where_they_start_and_end_alike(
    draft: Output, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"spans": [[0, 4, 0.9], [3, 9, 0.5], [7, 8, 0.75]]}
    monkeypatch.setattr(emulated, "missing", lambda: None)
    monkeypatch.setattr(emulated, "run", lambda *_, **__: json.dumps(found))
    (draft.path / "runtime").mkdir()
    host = np.array([[0, 4, 0.9], [3, 8, 0.5], [7, 8, 0.5]], dtype=np.float32)
    equal, difference = target.kept_equal(draft.path, "file", BOARD, [("q", "c")] * 3, host, store=store)
    assert isinstance(equal, Measurement)
    assert isinstance(difference, Measurement)
    assert equal.values == pytest.approx((2 / 3,))
    assert (difference.name, difference.values) == ("largest_score_difference", (0.25,))


def test_a_target_that_is_this_machine_has_the_figures_that_were_measured_here() -> None:
    found = (
        NotMeasured(name="answers_equal", reason="no 64-bit ARM core"),
        NotMeasured(name="latency", reason="no board is connected"),
    )
    figures = [("latency", "ms", 0.7), ("memory_model", "bytes", 9e6), ("memory_process", "bytes", 69e6)]
    shipped = Subject(
        name="exported",
        title="int8",
        engine="onnxruntime",
        file_bytes=1,
        measurements=tuple(Measurement(name=n, unit=u, kind="measured", values=(v,)) for n, u, v in figures),  # type: ignore[arg-type]
    )
    answers, latency, memory = target.at_home(found, shipped)
    assert answers == found[0]
    assert isinstance(latency, Measurement)
    assert isinstance(memory, Measurement)
    assert (latency.name, latency.median, memory.name, memory.median) == ("latency", 0.7, "memory", 69e6)
