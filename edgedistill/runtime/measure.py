"""The one measuring program: the same loop times the exported file on any device, and the teacher on the host.

It returns raw samples; percentiles and intervals are the host's business. Each run is a fresh process. What it asks
the system for (`conditions`, `energy`) is asked before and after the timed part.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from . import energy
from .conditions import LEAST_S, Part
from .system import ROOT, text

Item = TypeVar("Item")
Answer = Callable[[Sequence[Any]], Any]

WINDOW = 20
STEADY_WITHIN = 0.05
MAX_WINDOWS = 15
LIMIT_S = 60.0
PLAIN = "the energy of answers that are not timed is not told"
Split = dict[str, int]


def timing(
    load: Callable[[], Answer],
    texts: Sequence[Any],
    *,
    batch_rows: int = 32,
    within: float | None = None,
    limit_s: float = LIMIT_S,
) -> dict[str, Any]:
    """Times loading, the first answer, single answers and batches.

    Args:
        load: makes the model ready and returns what answers a list of texts.
        texts: one timed call each, after as many warm-up calls as it takes for the clock to settle.
        batch_rows: rows a call when throughput is measured.
        within: all texts are answered again until the 95 % interval of the median is this narrow, as a share of the
            median to either side, and it can be told what other programs did meanwhile. None: each text once.
        limit_s: ends the repeats as well. Single answers that are timed, and the batches, have this long each.

    Returns:
        load_ms, first_answer_ms, cold_start_ms (from the start of the process to its first answer; None where the
        system does not tell), warm_up_calls, steady, latency_ms (one a call), throughput_rows_s (one a batch),
        anchors_ms (the same texts before and after, against drift), ended_by ("once", "interval" or "time"), and what
        `Part` tells of the single answers.
    """
    started = time.perf_counter_ns()
    answer = load()
    loaded = time.perf_counter_ns()
    answer(texts[:1])
    first = time.perf_counter_ns()
    cold = process_age_s()
    sample = [texts[i % len(texts)] for i in range(WINDOW)]
    calls, steady, before = warm_up(partial(_window, answer, sample), limit_s)
    with Part(energy.find()) as part:
        latency, ended_by = _repeated(lambda text: _once(answer, [text]), texts, within, limit_s)
    after = _window(answer, sample)
    batches = [texts[i : i + batch_rows] for i in range(0, len(texts) - batch_rows + 1, batch_rows)] or [texts]
    for batch in batches[:2]:
        answer(batch)
    limit = time.perf_counter() + limit_s if within is not None else math.inf
    throughput = []
    for batch in batches:
        throughput.append(len(batch) / (_once(answer, batch) / 1e3))
        if time.perf_counter() >= limit:
            break
    if within is not None:
        part.again(partial(_window, answer, sample))
    return {
        "load_ms": (loaded - started) / 1e6,
        "first_answer_ms": (first - loaded) / 1e6,
        "cold_start_ms": None if cold is None else cold * 1e3,
        "warm_up_calls": calls,
        "steady": steady,
        "latency_ms": latency,
        "throughput_rows_s": throughput,
        "anchors_ms": [before, after],
        "ended_by": ended_by,
        **part.told,
    }


def memory(load: Callable[[], Answer], texts: Sequence[Any]) -> dict[str, Any]:
    """What the model adds to a process whose engine is already imported, after answering every text.

    Returns:
        engine, model and process, each with rss, anonymous, file, swap and peak in bytes, and None where the system
        does not tell; and what `Part` tells. The model is what the process grew by; so is its peak.
    """
    with Part(PLAIN) as part:
        before = resident()
        answer = load()
        peak = _peak()
        for item in texts:
            answer([item])
            peak = max(peak, _peak())
        after = resident()
    if before is None or after is None:
        return {"engine": None, "model": None, "process": None, **part.told}
    after["peak"] = max(after["peak"], peak)
    grown = {key: after[key] - before[key] for key in after}
    return {"engine": before, "model": grown, "process": after, **part.told}


def answers(answer: Answer, texts: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """The answer to each text on its own, and what `Part` tells."""
    with Part(PLAIN) as part:
        found = [answer([item])[0] for item in texts]
    return found, part.told


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the median by order statistics: no distribution is assumed.

    The ranks are n/2 ∓ 0.98 √n, from the normal approximation of the binomial distribution (Campbell and Gardner,
    "Calculating confidence intervals for some non-parametric analyses", BMJ 296, 1988). None of fewer than 8 values.
    """
    low = math.floor(len(values) / 2 - 0.98 * math.sqrt(len(values)))
    if low < 1:
        return None
    ordered = sorted(values)
    return ordered[low - 1], ordered[-low]


def narrow(values: Sequence[float], within: float) -> bool:
    """Whether the interval of the median reaches no further than a share of it to either side."""
    found = interval(values)
    return found is not None and found[1] - found[0] <= 2 * within * statistics.median(values)


def _repeated(
    once: Callable[[Item], float], items: Sequence[Item], within: float | None, limit_s: float
) -> tuple[list[float], str]:
    """All items, again and again, so that each counts alike: the limit of time ends only the first pass among them.

    A pass that would not end in time is not begun.
    """
    found: list[float] = []
    started = time.perf_counter()
    for passes in count(1):
        for item in items:
            found.append(once(item))
            if within is not None and passes == 1 and time.perf_counter() - started >= limit_s:
                return found, "time"
        if within is None:
            break
        spent = time.perf_counter() - started
        if spent >= LEAST_S and narrow(found, within):
            return found, "interval"
        if spent * (passes + 1) / passes > limit_s:
            return found, "time"
    return found, "once"


def _once(answer: Answer, texts: Sequence[Any]) -> float:
    started = time.perf_counter_ns()
    answer(texts)
    return (time.perf_counter_ns() - started) / 1e6


def _window(answer: Answer, sample: Sequence[Any]) -> list[float]:
    return [_once(answer, [text]) for text in sample]


def warm_up(window: Callable[[], list[float]], limit_s: float) -> tuple[int, bool, list[float]]:
    """Calls until the medians of two windows in a row agree; the same work every time, so only the clock varies.

    Args:
        window: does it, and says what each call took.
        limit_s: a slow device warms up no longer than this, but for two windows.

    Returns:
        How many calls, whether the clock settled, and the last window.
    """
    limit = time.perf_counter() + limit_s
    before, calls = math.nan, 0
    for number in count(1):
        taken = window()
        now, calls = statistics.median(taken), calls + len(taken)
        if abs(now - before) <= STEADY_WITHIN * before:
            return calls, True, taken
        if number >= MAX_WINDOWS or (number > 1 and time.perf_counter() >= limit):
            break
        before = now
    return calls, False, taken


def process_age_s() -> float | None:
    """Seconds since this process was started, to a hundredth."""
    try:
        with open("/proc/self/stat", encoding="utf-8") as file:
            started = int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def resident(root: Path = ROOT, process: int | str = "self") -> Split | None:
    """Bytes of a process in memory, split: anonymous memory is its own, file memory can be read again from disk.

    Old systems have no smaps_rollup; its status says nearly the same, with counts that lag by some pages.
    """
    folder = root / f"proc/{process}"
    status, rollup = _kib(text(folder / "status")), _kib(text(folder / "smaps_rollup"))
    if rollup:
        rss, anonymous, swap = rollup["Rss"], rollup["Anonymous"], rollup["Swap"]
    elif "RssAnon" in status:
        rss, anonymous, swap = status["VmRSS"], status["RssAnon"], status["VmSwap"]
    else:
        return None
    peak = max(_highest(status), rss + swap)
    return {"rss": rss, "anonymous": anonymous, "file": rss - anonymous, "swap": swap, "peak": peak}


def _peak() -> int:
    return _highest(_kib(text(ROOT / "proc/self/status")))


def _highest(status: Split) -> int:
    """The most that was ever in memory, or is there and in swap: VmHWM forgets pages that were swapped out.

    It counts from when this program was started, where `ru_maxrss` also counts what its parent held before that.
    """
    return max(status.get("VmHWM", 0), status.get("VmRSS", 0) + status.get("VmSwap", 0))


def _kib(told: str | None) -> Split:
    """The lines of a file in /proc that end in kB, in bytes."""
    lines = [line.split() for line in (told or "").splitlines()]
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if len(line) == 3 and line[2] == "kB"}
