"""What a device tells about itself while it is measured, from the files that boards of many kinds have."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgedistill.runtime import conditions, energy
from edgedistill.runtime.conditions import Part

LINUX = Path("/proc/self/schedstat").exists()


def tree(root: Path, **files: str) -> Path:
    """A system's files: `__` stands for `/`."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def test_a_system_that_tells_nothing_is_none_everywhere(tmp_path: Path) -> None:
    found = conditions.snapshot(tmp_path)
    assert found == dict.fromkeys(("clock_hz", "max_clock_hz", "governor", "temperature_c", "throttled"))
    with Part("no meter", tmp_path) as part:
        pass
    assert part.told["foreign_cores"] is None
    assert part.told["waited_share"] is None
    assert (part.told["energy_j"], part.told["energy_reason"]) == (None, "no meter")


def test_a_phones_clock_is_that_of_its_big_core(tmp_path: Path) -> None:
    cpu = "sys__devices__system__cpu__cpu"
    tree(
        tmp_path,
        **{f"{cpu}0__cpufreq__{name}": text for name, text in SMALL.items()},
        **{f"{cpu}7__cpufreq__{name}": text for name, text in BIG.items()},
    )
    assert conditions.clock(tmp_path) == {"clock_hz": 7.29e8, "max_clock_hz": 3.36e9, "governor": "schedutil"}


SMALL = {"scaling_cur_freq": "2016000", "cpuinfo_max_freq": "2016000", "scaling_governor": "powersave"}
BIG = {"scaling_cur_freq": "729000", "cpuinfo_max_freq": "3360000", "scaling_governor": "schedutil"}


def test_a_machine_without_scaling_tells_its_clock_in_cpuinfo(tmp_path: Path) -> None:
    tree(tmp_path, proc__cpuinfo="processor\t: 0\ncpu MHz\t\t: 1000.5\nprocessor\t: 1\ncpu MHz\t\t: 2596.148")
    assert conditions.clock(tmp_path) == {"clock_hz": 2596148000.0, "max_clock_hz": None, "governor": None}


@pytest.mark.parametrize(
    ("zones", "celsius"),
    [
        ({"cpu-thermal": "61225"}, 61.225),
        ({"battery": "70000", "cpu-1-1": "52100", "cpuss-2": "55300"}, 55.3),
        ({"acpitz": "27800", "x86_pkg_temp": "48000"}, 48.0),
        ({"soc_thermal": "45"}, 45.0),
        ({"acpitz": "27800"}, 27.8),
        ({"cpu-off": "-40000", "gpu": "31000"}, 31.0),
    ],
)
def test_the_hottest_zone_of_the_processor_is_told(zones: dict[str, str], celsius: float, tmp_path: Path) -> None:
    for number, (kind, value) in enumerate(zones.items()):
        zone = f"sys__class__thermal__thermal_zone{number}__"
        tree(tmp_path, **{f"{zone}type": kind, f"{zone}temp": value})
    assert conditions.temperature_c(tmp_path) == pytest.approx(celsius)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("throttled=0x0", []),
        ("throttled=0x50005\n", ["under-voltage", "throttled", "under-voltage earlier", "throttled earlier"]),
        (
            "throttled=0xe0008",
            ["soft temperature limit", *(f"{name} earlier" for name in list(conditions.THROTTLED.values())[1:])],
        ),
        ("VCHI initialization failed", None),
    ],
)
def test_a_raspberrys_word_on_throttling_is_taken_apart(said: str, names: list[str] | None) -> None:
    found = conditions.throttled_names(said)
    assert found == names


def test_a_processor_that_the_system_cools_is_throttled(tmp_path: Path) -> None:
    device = "sys__class__thermal__cooling_device"
    tree(tmp_path, **{f"{device}0__type": "pwm-fan", f"{device}0__cur_state": "3"})
    assert conditions.throttled(tmp_path) is None
    tree(tmp_path, **{f"{device}1__type": "thermal-cpufreq-0", f"{device}1__cur_state": "0"})
    assert conditions.throttled(tmp_path) == []
    tree(tmp_path, **{f"{device}1__cur_state": "4"})
    assert conditions.throttled(tmp_path) == ["cooled: thermal-cpufreq-0"]


def test_busy_time_leaves_out_idling_and_waiting_for_disks_and_counts_guests_once() -> None:
    hundred = os.sysconf("SC_CLK_TCK")
    #            user nice system idle iowait irq softirq steal guest guest_nice
    stat = "cpu  " + " ".join(str(hundred * n) for n in (10, 1, 5, 900, 70, 2, 3, 4, 8, 0)) + "\ncpu0 1 2 3"
    assert conditions.busy_s(stat) == pytest.approx(25)
    assert conditions.busy_s(None) is None


def test_the_thread_that_waited_longest_is_the_share() -> None:
    before, after = {"1": 10**9, "2": 0}, {"1": 10**9 + 10**8, "2": 5 * 10**8, "3": 10**8}
    assert conditions.waited(before, after, 2.0) == pytest.approx(0.25)
    assert conditions.waited(None, after, 2.0) is None


@pytest.mark.skipif(not LINUX, reason="only Linux tells")
def test_the_programs_own_work_is_no_foreign_load() -> None:
    def turn(seconds: float) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    with Part("no meter") as part:
        turn(0.26)
    told = part.told
    assert told["cpu_share"] * told["seconds"] == pytest.approx(0.26, abs=0.1)
    cores = os.cpu_count() or 1
    assert 0 <= told["foreign_cores"] <= cores + 0.2 - told["cpu_share"]
    assert 0 <= told["waited_share"] <= 1


class Falling:
    """A gauge whose power falls at every look."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.threads: set[int] = set()

    def __call__(self) -> float:
        self.at.append(time.perf_counter())
        self.threads.add(threading.get_ident())
        return 9.0 / len(self.at)


def test_a_gauge_is_read_while_the_work_is_done_again_and_never_while_it_is_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(energy, "GAUGED_S", 0.1)
    monkeypatch.setattr(energy, "EVERY_S", 0.02)
    falling = Falling()
    done: list[int] = []
    with Part(energy.Gauge(source="a gauge", watts=falling)) as part:
        pass
    assert falling.at == []
    assert part.told["energy_j"] is None
    part.again(lambda: (time.sleep(0.001), done.append(1)))
    assert part.told["energy_source"] == "a gauge"
    assert "energy_reason" not in part.told
    assert 0 < part.told["energy_j"] < 9 * part.told["seconds"]
    assert done
    assert threading.get_ident() not in falling.threads


def test_a_counter_is_read_before_and_after() -> None:
    readings: list[list[float | None]] = [[5.0], [12.5]]
    counter = energy.Counter(source="a counter", read=lambda: readings.pop(0), wraps=(None,))
    with Part(counter) as part:
        pass
    assert (part.told["energy_j"], part.told["energy_source"]) == (7.5, "a counter")
    still: Any = energy.Counter(source="a counter", read=lambda: [5.0], wraps=(None,))
    with Part(still) as part:
        pass
    assert part.told["energy_j"] is None
    assert "did not move" in part.told["energy_reason"]
