"""Joules, where a device can tell them: from a counter around the timed part, or from a gauge of its power.

A counter (RAPL of Intel and AMD, the charge of a phone's battery) is read before and after, which disturbs nothing. A
gauge (the power chip of a Raspberry Pi 5, INA sensors of Jetson boards, a phone's current) only knows the power of an
instant. Reading it at the ends would miss the work, and reading it meanwhile would disturb what is timed; so the same
work is done again for some seconds behind the timed part, while a thread reads the gauge, and the mean power is taken
for that of the timed part. What is measured, the processor alone or the whole board, stands in `source`.
"""

import math
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from .system import BOARD, ROOT, asked, number, text

GAUGED_S = 4.0
"""How long work is repeated under a gauge, and after how long it is read again."""
EVERY_S = 0.2
MILLI_AMPERES_BELOW = 20_000
"""A phone that computes takes more than 20 mA, so below that its battery speaks of milliamperes."""
MILLIVOLTS_BELOW = 100_000
CHARGING = {"Charging", "Full", "Not charging"}
"""What a battery says of a phone that hangs on a cable: what it gives then is not what the phone takes."""
WHOLE_BOARD = "VDD_IN"
"""The channel of a Jetson's sensor that everything on the module runs through."""
PMIC = ["vcgencmd", "pmic_read_adc"]
DUMPSYS = ["dumpsys", "battery"]
NOTHING = (
    "nothing here tells it: no RAPL counter in /sys/class/powercap, no power chip of a Raspberry Pi 5, no INA sensor "
    "in /sys/class/hwmon, no battery in /sys/class/power_supply"
)
NOT_MOVED = "the counter did not move while the answers were timed; give more of them, or a narrower interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """What has been spent so far.

    Attributes:
        read: joules of each part that counts, None for one that has gone silent.
        wraps: joules at which each part begins again at 0; None: never.
    """

    source: str
    read: Callable[[], list[float | None]]
    wraps: tuple[float | None, ...]

    def joules(self, before: Sequence[float | None], after: Sequence[float | None]) -> float | None:
        """What was spent between two readings, less than one turn of the counter apart. None: it cannot be told."""
        spent = 0.0
        for start, end, wrap in zip(before, after, self.wraps, strict=True):
            if start is None or end is None:
                return None
            step = end - start
            spent += step + wrap if step < 0 and wrap is not None else step
        return spent if spent > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge(Counter):
    """What a battery holds: a reading is its coulombs and its volts, and `wraps` means nothing.

    What was spent is the charge that left times the voltage. All the charge that is held times the voltage would take
    each sag of it under load for work: 20 mV of 4 Ah are 288 J.
    """

    wraps: tuple[float | None, ...] = ()

    def joules(self, before: Sequence[float | None], after: Sequence[float | None]) -> float | None:
        """The charge that left times the mean of both voltages. None: it did not fall, or it cannot be told."""
        (held, first), (left, last) = before, after
        if held is None or first is None or left is None or last is None or left >= held:
            return None
        return (held - left) * (first + last) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """The power of the instant, in watts; None where it has gone silent."""

    source: str
    watts: Callable[[], float | None]


def find(root: Path = ROOT) -> Counter | Gauge | str:
    """What tells joules on this device, or the reason why nothing does."""
    for look in (rapl, pmic, ina, battery):
        found = look(root)
        if found is not None:
            return found
    return NOTHING


def rapl(root: Path = ROOT) -> Counter | str | None:
    """Packages of processors, and the memory beside them. Cores are parts of a package; "psys" holds it all again."""
    zones = []
    for folder in sorted((root / "sys/class/powercap").glob("*-rapl:*")):
        name = text(folder / "name") or ""
        if name.startswith("package") or name == "dram":
            zones.append((folder, name))
    if not zones:
        return None
    files = [folder / "energy_uj" for folder, _ in zones]
    if any(number(file) is None for file in files):
        return f"{files[0]} may be read by root only; run as root, or: sudo chmod a+r /sys/class/powercap/*/energy_uj"

    def read() -> list[float | None]:
        return [None if (value := number(file)) is None else value / 1e6 for file in files]

    ranges = [number(folder / "max_energy_range_uj") for folder, _ in zones]
    return Counter(
        source=f"RAPL, {' and '.join(sorted({name for _, name in zones}))}",
        read=read,
        wraps=tuple(None if most is None else most / 1e6 for most in ranges),
    )


def pmic(root: Path = ROOT) -> Gauge | None:
    """The power chip of a Raspberry Pi 5. What USB devices take does not run through it."""
    if text(root / BOARD) is None or pmic_watts(asked(PMIC)) is None:
        return None
    return Gauge(source="Raspberry Pi 5 power chip, all its rails", watts=lambda: pmic_watts(asked(PMIC)))


def pmic_watts(said: str | None) -> float | None:
    """Volts times amperes of every rail that `vcgencmd pmic_read_adc` tells both of: "1V1_SYS_A current(2)=0.18A"."""
    read = {
        (rail, unit): float(value)
        for rail, unit, value in re.findall(r"(\S+)_([AV]) (?:current|volt)\(\d+\)=([\d.]+)[AV]", said or "")
    }
    rails = [rail for rail, unit in read if unit == "A" and (rail, "V") in read]
    return sum(read[rail, "A"] * read[rail, "V"] for rail in rails) if rails else None


def ina(root: Path = ROOT) -> Gauge | None:
    """INA sensors: of Jetson modules, and of boards that people have put one on."""
    chips = [
        chip
        for chip in sorted((root / "sys/class/hwmon").glob("hwmon*"))
        if (text(chip / "name") or "").startswith("ina")
    ]
    rails = {f"{chip.name} {rail}": read for chip in chips for rail, read in _rails(chip).items()}
    whole = {name: read for name, read in rails.items() if name.endswith(WHOLE_BOARD)}
    taken = whole or rails
    if not taken:
        return None

    def watts() -> float | None:
        found = [read() for read in taken.values()]
        return None if None in found else sum(value for value in found if value is not None)

    return Gauge(source=f"INA sensor, {', '.join(name.partition(' ')[2] for name in taken)}", watts=watts)


def _rails(chip: Path) -> dict[str, Callable[[], float | None]]:
    """What reads the watts of each rail of a chip: hwmon tells millivolts and milliamperes, or microwatts."""
    found: dict[str, Callable[[], float | None]] = {}
    for current in sorted(chip.glob("curr*_input")):
        channel = current.name.removeprefix("curr").removesuffix("_input")
        label = text(chip / f"in{channel}_label") or f"channel {channel}"
        voltage = chip / f"in{channel}_input"
        if label != "NC" and text(voltage) is not None:
            found[label] = partial(_product, current, voltage)
    power = chip / "power1_input"
    if not found and text(power) is not None:
        found["power1"] = partial(_product, power)
    return found


def battery(root: Path = ROOT) -> Counter | Gauge | str | None:
    """A phone's battery: its current where the file may be read, else what `dumpsys` says of its charge."""
    for folder in sorted((root / "sys/class/power_supply").glob("*")):
        if text(folder / "type") == "Battery" and battery_watts(folder) is not None:
            if text(folder / "status") in CHARGING:
                return "the battery is charging, so it does not tell what the device takes; unplug it"
            return Gauge(source="battery, whole device", watts=partial(battery_watts, folder))
    said = dumpsys(asked(DUMPSYS)) if os.access(root / "system/bin/dumpsys", os.F_OK) else None
    if said is None:
        return None
    if said[2]:
        return "the phone is charging, so its battery does not tell what it takes; unplug it and connect over Wi-Fi"

    def left() -> list[float | None]:
        now = dumpsys(asked(DUMPSYS))
        return [None, None] if now is None else [now[0], now[1]]

    return Charge(source="battery's charge, whole phone", read=left)


def battery_watts(folder: Path) -> float | None:
    """Current times voltage. Phones agree neither on the sign of a current nor on milli and micro."""
    current, voltage = number(folder / "current_now"), number(folder / "voltage_now")
    if current is None or voltage is None:
        return None
    amperes = abs(current) / (1e3 if abs(current) < MILLI_AMPERES_BELOW else 1e6)
    return amperes * voltage / (1e3 if voltage < MILLIVOLTS_BELOW else 1e6)


def dumpsys(said: str | None) -> tuple[float, float, bool] | None:
    """Coulombs that a phone's battery holds, its volts, and whether it hangs on a cable; `dumpsys` says µAh and mV."""
    told = dict(re.findall(r"^\s*([\w ]+): (\S+)\s*$", said or "", re.MULTILINE))
    try:
        held, volts = int(told["Charge counter"]) * 3.6e-3, int(told["voltage"]) * 1e-3
    except (KeyError, ValueError):
        return None
    return held, volts, any(value == "true" for name, value in told.items() if name.endswith("powered"))


def gauged(gauge: Gauge, work: Callable[[], object]) -> float | None:
    """Mean watts while work is done again and again, by the trapezoidal rule over the readings of a thread."""
    readings: list[tuple[float, float]] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            if (watts := gauge.watts()) is not None:
                readings.append((time.perf_counter(), watts))
            over.wait(EVERY_S)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    end = time.perf_counter() + GAUGED_S
    while time.perf_counter() < end:
        work()
    over.set()
    thread.join()
    return mean(readings)


def mean(readings: Sequence[tuple[float, float]]) -> float | None:
    """Mean of values at times, by the trapezoidal rule. None where there are not two."""
    if len(readings) < 2:
        return None
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(readings))
    return area / (readings[-1][0] - readings[0][0])


def _product(*files: Path) -> float | None:
    """Milliamperes times millivolts, or microwatts, in watts."""
    factors = [number(file) for file in files]
    return None if None in factors else math.prod(factor for factor in factors if factor is not None) * 1e-6
