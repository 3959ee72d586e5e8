"""One line a stage: nothing of it is cut, however narrow the terminal."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from edgedistill.terminal import Lines, lines

NOTE = (
    "1081 train, 310 validation, 31 labels, 7 rejected: a/folder/of/theirs/.edgedistill/outputs/rows-1f/rejected.jsonl"
)


class Terminal(io.StringIO):
    """What a terminal of 80 columns gets."""

    def isatty(self) -> bool:
        return True


def test_a_long_note_goes_on_below_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    Lines().end("rows", 0.2, cached=False, note=NOTE)
    shown = screen.getvalue().splitlines()
    assert all(len(line) <= 80 for line in shown)
    assert [line[:21].split() for line in shown] == [["rows", "0.2", "s"], *[[]] * (len(shown) - 1)]
    assert "".join(line[21:].strip() for line in shown).replace(" ", "") == NOTE.replace(" ", "")


def test_a_log_has_one_line_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    Lines().end("rows", 0.2, cached=True, note=NOTE)
    assert log.getvalue() == f"  rows       cached  {NOTE}\n"


def test_the_clocks_of_a_line_go_on_while_a_stage_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    now = [1000.0]
    monkeypatch.setattr(lines, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with Lines() as shown:
        advance = shown.begin("bench")
        now[0] += 10
        advance(10, 40, "a long cell")
        for later, told in ((0, "10.0 s|25%|30.0 s left"), (12, "22.0 s|25%|18.0 s left"), (42, "52.0 s|25%")):
            now[0] = 1010.0 + later
            screen.truncate(0)
            shown._live.refresh()
            assert all(part in screen.getvalue() for part in told.split("|"))
            assert ("left" in screen.getvalue()) == ("left" in told)


def test_a_log_says_now_and_then_where_a_long_stage_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(lines, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    advance = Lines().begin("bench")
    for step in range(1, 8):
        now[0] += 10
        advance(step, 10, f"step {step}")
    assert log.getvalue() == "  bench      30.0 s  step 3\n  bench    1:00 min  step 6\n"
