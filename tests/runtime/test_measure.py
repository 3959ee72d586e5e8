"""The measuring program: when repeats end, what memory is counted as, and what a cell's file may ask for."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgedistill.runtime import cell, conditions, measure
from edgedistill.runtime.engines import Refused

ANONYMOUS, FILE = 300_000_000, 200_000_000


class Clock:
    """A device whose every answer takes as long as the next figure says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *figures: float) -> None:
        self.figures, self.calls, self.now = figures, 0, 0.0
        monkeypatch.setattr(measure.time, "perf_counter", lambda: self.now)

    def __call__(self, _: Any) -> float:
        taken = self.figures[self.calls % len(self.figures)]
        self.calls += 1
        self.now += taken / 1e3
        return taken


def test_the_interval_of_a_median_holds_it_in_95_of_100_cases() -> None:
    chance = random.Random(0)
    held = 0
    for _ in range(2000):
        low, high = measure.interval([chance.expovariate(1) for _ in range(41)]) or (math.nan, math.nan)
        held += low <= math.log(2) <= high
    assert 0.94 <= held / 2000 <= 0.975


def test_too_few_values_have_no_interval() -> None:
    assert measure.interval([1.0] * 7) is None
    assert measure.interval([*range(8)]) == (0, 7)
    assert not measure.narrow([1.0] * 7, 0.5)


def test_repeats_end_when_the_median_is_known_well_enough_and_every_text_counted_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steady = Clock(monkeypatch, 100.0, 101.0)
    assert measure._repeated(steady, "abcd", None, 60) == ([100.0, 101.0] * 2, "once")
    found, ended_by = measure._repeated(steady, "abcd", 0.02, 60)
    assert (len(found), ended_by) == (8, "interval")
    shaky = Clock(monkeypatch, 100.0, 200.0, 150.0)
    more, ended_by = measure._repeated(shaky, "abc", 0.02, 60)
    assert ended_by == "interval"
    assert len(more) > len(found)
    assert len(more) % 3 == 0


def test_repeats_end_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Clock(monkeypatch, 400.0, 900.0)
    found, ended_by = measure._repeated(slow, "abcdefgh", 0.001, 3)
    assert ended_by == "time"
    assert found == [400.0, 900.0, 400.0, 900.0, 400.0]


def test_repeats_last_until_other_programs_can_be_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = Clock(monkeypatch, 1.0)
    found, ended_by = measure._repeated(fast, "abcdefgh", 0.02, 60)
    assert ended_by == "interval"
    assert fast.now >= conditions.LEAST_S
    assert len(found) % 8 == 0


def test_a_pass_that_would_not_end_in_time_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    found, ended_by = measure._repeated(Clock(monkeypatch, 100.0, 900.0), "abcd", 0.001, 5)
    assert (len(found), ended_by) == (8, "time")  # two passes of 2 s


def test_a_slow_device_warms_up_no_longer_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Clock(monkeypatch, 1e3, 2e3, 4e3, 8e3, 16e3)
    calls, steady, last = measure.warm_up(lambda: [slow(None)], 6)
    assert (calls, steady, last) == (3, False, [4e3])


CHILD = f"""
import json, mmap, sys
from edgedistill.runtime import measure
kept = []
def load():
    kept.append(bytearray(b"x") * {ANONYMOUS})
    file = open(sys.argv[1], "rb")
    kept.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return lambda _: sum(kept[1][place] for place in range(0, len(kept[1]), 4096))
if __name__ == "__main__":
    print(json.dumps(measure.memory(load, ["once"])))
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells memory by kind")
def test_the_split_of_a_childs_memory_is_right(tmp_path: Path) -> None:
    with (tmp_path / "mapped").open("wb") as file:
        file.truncate(FILE)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "mapped"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    model, process = found["model"], found["process"]
    assert model["anonymous"] + model["swap"] == pytest.approx(ANONYMOUS, rel=0.02)
    assert model["file"] == pytest.approx(FILE, rel=0.02)
    assert model["rss"] == model["anonymous"] + model["file"]
    assert model["peak"] == pytest.approx(ANONYMOUS + FILE, rel=0.02)
    assert process["rss"] <= process["peak"] < 1.2 * (ANONYMOUS + FILE)  # and not what its parent held at some time


def test_memory_in_swap_counts_for_the_peak_and_old_systems_tell_too(tmp_path: Path) -> None:
    folder = tmp_path / "proc" / "self"
    folder.mkdir(parents=True)
    status = "Name:\tpython\nVmHWM:\t 400 kB\nVmRSS:\t 300 kB\nRssAnon:\t 200 kB\nRssFile:\t 100 kB\nVmSwap:\t 250 kB\n"
    assert measure.resident(tmp_path) is None
    (folder / "status").write_text(status)
    split = {"rss": 307200, "anonymous": 204800, "file": 102400, "swap": 256000, "peak": 563200}
    assert measure.resident(tmp_path) == split
    (folder / "smaps_rollup").write_text(
        "55f1-7ffe ---p 0 00:00 0 [rollup]\nRss: 310 kB\nAnonymous: 205 kB\nSwap: 0 kB\n"
    )
    found = measure.resident(tmp_path)
    assert found is not None
    assert (found["rss"], found["file"], found["peak"]) == (310 * 1024, 105 * 1024, 563200)
    folder.rename(folder.with_name("4711"))
    assert (measure.resident(tmp_path), measure.resident(tmp_path, 4711)) == (None, found)  # of another process


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("[1]", "no JSON object"),
        ("{", "cannot be read"),
        ('{"with": 1}', "'with'"),
        ('{"within": 0}', "within is 0"),
        ('{"within": true}', "within is True"),
        ('{"limit_s": "60"}', "limit_s"),
        ('{"batch_rows": 1.5}', "batch_rows"),
        ('{"prompt_tokens": [0]}', "prompt_tokens"),
        ('{"new_tokens": 1}', "new_tokens"),
    ],
)
def test_a_cell_that_makes_no_sense_is_refused_by_name(asked: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "cell.json").write_text(asked)
    with pytest.raises(Refused, match=r"cell\.json") as refused:
        cell.read(tmp_path / "cell.json")
    assert named in str(refused.value)
