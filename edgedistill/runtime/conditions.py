"""What a device tells while it is measured: its clock, heat and throttling, and what else kept its cores busy.

All of it is read from the system's files, or from a program of the board's maker, before and after the timed part and
never inside it. What a device does not tell is None, never 0.
"""

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .energy import NOT_MOVED, Counter, Gauge, gauged
from .system import BOARD, ROOT, asked, number, text

CORE = re.compile(r"cpu|soc|core|pkg|tsens|big|little", re.IGNORECASE)
"""Thermal zones of a processor, by what boards, laptops and phones call them."""
LEAST_S = 0.25
"""Of a timed part whose foreign load is told: the system counts in hundredths of a second."""
THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""Bits of `vcgencmd get_throttled`; 16 higher they say that it happened since the board was started. Source: "vcgencmd"
in the documentation of Raspberry Pi OS."""
EARLIER = 16


class Part:
    """The timed part of a measurement, as a context manager.

    Args:
        meter: of its energy, or the reason why there is none.
        root: of the system's files.

    Attributes:
        told: when it is over: seconds; cpu_share (of this process; 1.0 is one core); conditions before and after;
            energy_j with energy_source or energy_reason; foreign_cores (how many cores were busy with other programs,
            or taken away by the machine's host); waited_share (of the time, that the thread of this process that waited
            longest was ready and had no core).
    """

    def __init__(self, meter: Counter | Gauge | str, root: Path = ROOT) -> None:
        self._meter = meter
        self._root = root
        self.told: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._conditions = snapshot(self._root)
        self._joules = self._meter.read() if isinstance(self._meter, Counter) else []
        self._before = self._now()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        after, before = self._now(), self._before
        seconds = max(1e-9, after["clock"] - before["clock"])
        own = after["own"] - before["own"]
        self.told = {
            "seconds": seconds,
            "cpu_share": own / seconds,
            "foreign_cores": foreign_cores(before["busy"], after["busy"], own, seconds),
            "waited_share": waited(before["waits"], after["waits"], seconds),
            **self._spent(),
            "conditions": [self._conditions, snapshot(self._root)],
        }

    def again(self, work: Callable[[], object]) -> None:
        """Does the same work again under a gauge, where the device has one: its power is taken for that of the part."""
        if isinstance(self._meter, Gauge) and (watts := gauged(self._meter, work)) is not None:
            del self.told["energy_reason"]
            self.told |= {"energy_j": watts * self.told["seconds"], "energy_source": self._meter.source}

    def _spent(self) -> dict[str, Any]:
        if isinstance(self._meter, Counter):
            joules = self._meter.joules(self._joules, self._meter.read())
            why = {"energy_reason": NOT_MOVED} if joules is None else {"energy_source": self._meter.source}
            return {"energy_j": joules, **why}
        silent = f"{self._meter.source} was not asked for" if isinstance(self._meter, Gauge) else self._meter
        return {"energy_j": None, "energy_reason": silent}

    def _now(self) -> dict[str, Any]:
        children = os.times()
        return {
            "waits": waits(self._root),
            "busy": busy_s(text(self._root / "proc/stat")),
            "own": time.process_time() + children.children_user + children.children_system,
            "clock": time.perf_counter(),
        }


def snapshot(root: Path = ROOT) -> dict[str, Any]:
    """clock_hz, max_clock_hz and governor of the fastest core, temperature_c, throttled."""
    return {**clock(root), "temperature_c": temperature_c(root), "throttled": throttled(root)}


def clock(root: Path = ROOT) -> dict[str, Any]:
    """Of the core that may run fastest: phones and many boards have slow ones beside it, and big ones do the work."""
    cores = []
    for folder in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"):
        now, most = number(folder / "scaling_cur_freq"), number(folder / "cpuinfo_max_freq")
        cores.append((most or 0.0, now or 0.0, text(folder / "scaling_governor")))
    if cores:
        most, now, governor = max(cores, key=lambda core: core[:2])
        return {"clock_hz": now * 1e3 or None, "max_clock_hz": most * 1e3 or None, "governor": governor}
    mhz = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return {"clock_hz": max(map(float, mhz)) * 1e6 if mhz else None, "max_clock_hz": None, "governor": None}


def temperature_c(root: Path = ROOT) -> float | None:
    """Of the hottest zone of the processor; of the hottest of all where none is named for it."""
    zones = []
    for folder in root.glob("sys/class/thermal/thermal_zone*"):
        value = number(folder / "temp")
        if value is None:
            continue
        degrees = value / 1e3 if abs(value) >= 1e3 else value  # some phones tell degrees, and not thousandths
        if 0 < degrees < 150:  # zones that are switched off say -40 or 0
            zones.append((bool(CORE.search(text(folder / "type") or "")), degrees))
    return max(zones)[1] if zones else None


def throttled(root: Path = ROOT) -> list[str] | None:
    """Why the processor may not run as fast as it could; [] says that it may."""
    said = asked(["vcgencmd", "get_throttled"]) if text(root / BOARD) is not None else None
    if said is not None and (names := throttled_names(said)) is not None:
        return names
    states = [
        (text(folder / "type") or "", number(folder / "cur_state"))
        for folder in root.glob("sys/class/thermal/cooling_device*")
    ]
    known = [(kind, state) for kind, state in states if state is not None and re.search("cpu|processor", kind, re.I)]
    return sorted({f"cooled: {kind}" for kind, state in known if state > 0}) if known else None


def throttled_names(said: str) -> list[str] | None:
    """What `vcgencmd get_throttled` means: "throttled=0x50005" is four things."""
    found = re.search(r"throttled=0x([0-9a-fA-F]+)", said)
    if found is None:
        return None
    bits = int(found[1], 16)
    now = [name for bit, name in THROTTLED.items() if bits >> bit & 1]
    return now + [f"{name} earlier" for bit, name in THROTTLED.items() if bits >> (bit + EARLIER) & 1]


def busy_s(stat: str | None) -> float | None:
    """Seconds that all cores together were busy since the start, from /proc/stat; what the machine's host took is in.

    Columns are user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already (proc_stat(5)).
    """
    found = re.match(r"cpu\s+([\d ]+)", stat or "")
    if found is None:
        return None
    ticks = [int(part) for part in found[1].split()]
    return (sum(ticks[:8]) - sum(ticks[3:5])) / os.sysconf("SC_CLK_TCK")


def foreign_cores(before: float | None, after: float | None, own_s: float, seconds: float) -> float | None:
    """How many cores were busy with other programs in a timed part, from what `busy_s` told at its ends.

    Args:
        own_s: processor time of what is measured. None of a part shorter than `LEAST_S`.
    """
    if before is None or after is None or seconds < LEAST_S:
        return None
    return max(0.0, after - before - own_s) / seconds


def waits(root: Path = ROOT, process: int | str = "self") -> dict[str, int] | None:
    """Nanoseconds that each thread of a process was ready and had no core: the second figure of schedstat."""
    found = {}
    for file in root.glob(f"proc/{process}/task/*/schedstat"):
        if parts := (text(file) or "").split():
            found[file.parent.name] = int(parts[1])
    return found or None


def waited(before: Mapping[str, int] | None, after: Mapping[str, int] | None, seconds: float) -> float | None:
    """The share of the time that the thread waited that waited longest. An engine is as late as its last thread."""
    if before is None or after is None:
        return None
    longest = max(told - before.get(thread, 0) for thread, told in after.items())
    return min(1.0, max(0.0, longest / 1e9 / seconds))
