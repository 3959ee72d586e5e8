"""The one measuring program: the same loop times the exported file on any device, and the teacher on the host.

It returns raw samples; percentiles and intervals are the host's business. Each run is a fresh process.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Answer = Callable[[Sequence[Any]], Any]
Write = Callable[[Sequence[Any]], Iterable[int]]

WINDOW = 20
STEADY_WITHIN = 0.05
MAX_WINDOWS = 15


def timing(load: Callable[[], Answer], texts: Sequence[Any], *, batch_rows: int) -> dict[str, Any]:
    """Times loading, the first answer, single answers and batches.

    Args:
        load: makes the model ready and returns what answers a list of texts.
        texts: one timed call each, after as many warm-up calls as it takes for the clock to settle.
        batch_rows: rows a call when throughput is measured.

    Returns:
        load_ms, first_answer_ms, cold_start_ms (from the start of the process to its first answer; None where the
        system does not tell), warm_up_calls, steady, latency_ms (one a text), throughput_rows_s (one a batch),
        cpu_share (of the process while single answers were timed; 1.0 is one core).
    """
    started = time.perf_counter_ns()
    answer = load()
    loaded = time.perf_counter_ns()
    answer(texts[:1])
    first = time.perf_counter_ns()
    cold = process_age_s()
    calls, steady = _warm_up(answer, texts)
    cpu, clock = time.process_time(), time.perf_counter()
    latency = [_once(answer, [text]) for text in texts]
    share = (time.process_time() - cpu) / max(1e-9, time.perf_counter() - clock)
    batches = [texts[i : i + batch_rows] for i in range(0, len(texts) - batch_rows + 1, batch_rows)] or [texts]
    for batch in batches[:2]:
        answer(batch)
    throughput = [len(batch) / (_once(answer, batch) / 1e3) for batch in batches]
    return {
        "load_ms": (loaded - started) / 1e6,
        "first_answer_ms": (first - loaded) / 1e6,
        "cold_start_ms": None if cold is None else cold * 1e3,
        "warm_up_calls": calls,
        "steady": steady,
        "latency_ms": latency,
        "throughput_rows_s": throughput,
        "cpu_share": share,
    }


def writing(load: Callable[[], Write], conversations: Sequence[Any]) -> dict[str, Any]:
    """Times loading and the answers of a model that writes, one conversation after the other, after one of them twice.

    Args:
        load: makes the model ready and returns what gives the tokens of the answers to a list of conversations.

    Returns:
        load_ms, first_token_ms and tokens_s (of the tokens after the first), one an answer. An answer of a single
        token has no tokens_s.
    """
    started = time.perf_counter_ns()
    write = load()
    loaded = time.perf_counter_ns()
    for _ in write(conversations[:1]):
        pass
    first, speed = [], []
    for conversation in conversations:
        times = [time.perf_counter(), *(time.perf_counter() for _ in write([conversation]))]
        if len(times) > 1:
            first.append((times[1] - times[0]) * 1e3)
        if len(times) > 2:
            speed.append((len(times) - 2) / (times[-1] - times[1]))
    return {"load_ms": (loaded - started) / 1e6, "first_token_ms": first, "tokens_s": speed}


def memory(load: Callable[[], Answer], texts: Sequence[Any]) -> dict[str, Any]:
    """What the model adds to a process whose engine is already imported, after answering every text.

    Returns:
        engine, model and process, each with rss, anonymous, file and swap in bytes; None where the
        system does not tell.
    """
    before = resident()
    answer = load()
    for text in texts:
        answer([text])
    after = resident()
    if before is None or after is None:
        return {"engine": None, "model": None, "process": None}
    return {"engine": before, "model": {key: after[key] - before[key] for key in after}, "process": after}


def _once(answer: Answer, texts: Sequence[Any]) -> float:
    started = time.perf_counter_ns()
    answer(texts)
    return (time.perf_counter_ns() - started) / 1e6


def _warm_up(answer: Answer, texts: Sequence[Any]) -> tuple[int, bool]:
    """Calls until the medians of two windows in a row agree; the same texts every time, so only the clock varies."""
    sample = [texts[i % len(texts)] for i in range(WINDOW)]
    before = statistics.median(_once(answer, [text]) for text in sample)
    for window in range(2, MAX_WINDOWS + 1):
        now = statistics.median(_once(answer, [text]) for text in sample)
        if abs(now - before) <= STEADY_WITHIN * before:
            return window * WINDOW, True
        before = now
    return MAX_WINDOWS * WINDOW, False


def process_age_s() -> float | None:
    """Seconds since this process was started, to a hundredth."""
    try:
        with open("/proc/self/stat", encoding="utf-8") as file:
            started = int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def resident() -> dict[str, int] | None:
    """Bytes of this process in memory, split: anonymous memory is its own, file memory can be read again from disk."""
    try:
        with open("/proc/self/smaps_rollup", encoding="utf-8") as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    kib = {line[0].rstrip(":"): int(line[1]) for line in lines if len(line) == 3 and line[2] == "kB"}
    rss, anonymous, swap = kib["Rss"] * 1024, kib["Anonymous"] * 1024, kib["Swap"] * 1024
    return {"rss": rss, "anonymous": anonymous, "file": rss - anonymous, "swap": swap}
