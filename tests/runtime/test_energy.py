"""What tells joules: each board's own words and files, as they come."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistill.runtime import energy
from edgedistill.runtime.energy import Counter, Gauge
from tests.runtime.test_conditions import tree

PMIC = """\
 3V7_WL_SW_A current(0)=0.09759300A
   3V3_SYS_A current(1)=0.07807440A
  VDD_CORE_A current(7)=1.20940000A
 3V7_WL_SW_V volt(8)=3.72023600V
   3V3_SYS_V volt(9)=3.31221300V
  VDD_CORE_V volt(15)=0.91061160V
      EXT5V_V volt(24)=5.09580000V
       BATT_V volt(25)=0.00000000V
"""
DUMPSYS = """\
Current Battery Service state:
  AC powered: false
  USB powered: {powered}
  Max charging voltage: 5000000
  Charge counter: 3141000
  status: 3
  level: 71
  voltage: 4000
  temperature: 281
  technology: Li-ion
"""


def rapl(root: Path, zone: str, **files: str) -> None:
    tree(root, **{f"sys__class__powercap__{zone}__{name}": content for name, content in files.items()})


def test_rapl_adds_packages_and_memory_and_survives_a_turn_of_its_counter(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", name="package-0", energy_uj="262100000000", max_energy_range_uj="262143328850")
    rapl(tmp_path, "intel-rapl:0:0", name="core", energy_uj="5", max_energy_range_uj="262143328850")
    rapl(tmp_path, "intel-rapl:0:1", name="dram", energy_uj="1000000", max_energy_range_uj="65712999613")
    rapl(tmp_path, "intel-rapl:1", name="psys", energy_uj="7", max_energy_range_uj="262143328850")
    found = energy.find(tmp_path)
    assert isinstance(found, Counter)
    assert found.source == "RAPL, dram and package-0"
    before = found.read()
    assert before == [262100.0, 1.0]
    rapl(tmp_path, "intel-rapl:0", energy_uj="6671150")
    rapl(tmp_path, "intel-rapl:0:1", energy_uj="3500000")
    assert found.joules(before, found.read()) == pytest.approx(43.32885 + 6.67115 + 2.5)


def test_a_counter_that_may_not_be_read_says_who_may(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", name="package-0", energy_uj="")
    found = energy.find(tmp_path)
    assert isinstance(found, str)
    assert "by root only" in found


def test_a_counter_that_went_silent_or_stood_still_tells_no_joules() -> None:
    counter = Counter(source="", read=list, wraps=(None,))
    assert counter.joules([1.0], [None]) is None
    assert counter.joules([1.0], [1.0]) is None


def test_a_raspberrys_rails_are_multiplied_and_those_without_a_current_left_out() -> None:
    expected = 0.097593 * 3.720236 + 0.0780744 * 3.312213 + 1.2094 * 0.9106116
    assert energy.pmic_watts(PMIC) == pytest.approx(expected)
    assert energy.pmic_watts('error=1 error_msg="Command not registered"') is None
    assert energy.pmic_watts(None) is None


def test_a_raspberry_is_asked_by_its_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {("vcgencmd", "pmic_read_adc"): PMIC}
    monkeypatch.setattr(energy, "asked", lambda command: said.get(tuple(command)))
    assert energy.find(tmp_path) == energy.NOTHING  # no board's model: nobody is asked
    tree(tmp_path, **{"proc__device-tree__model": "Raspberry Pi 5 Model B Rev 1.0\0"})
    found = energy.find(tmp_path)
    assert isinstance(found, Gauge)
    assert found.watts() == pytest.approx(energy.pmic_watts(PMIC))


def ina(root: Path, chip: str = "ina3221", **files: str) -> None:
    tree(
        root,
        **{f"sys__class__hwmon__hwmon1__{name}": content for name, content in files.items()}
        | {
            "sys__class__hwmon__hwmon1__name": chip,
            "sys__class__hwmon__hwmon0__name": "pwmfan",
        },
    )


def test_a_jetsons_whole_board_is_one_channel(tmp_path: Path) -> None:
    ina(tmp_path, in1_label="VDD_IN", in1_input="5080", curr1_input="1200")
    ina(tmp_path, in2_label="VDD_CPU_GPU_CV", in2_input="5072", curr2_input="400", curr4_input="9", in4_label="NC")
    found = energy.find(tmp_path)
    assert isinstance(found, Gauge)
    assert found.source == "INA sensor, VDD_IN"
    assert found.watts() == pytest.approx(5.08 * 1.2)


def test_rails_of_a_board_without_such_a_channel_are_added_and_a_dead_one_is_not_0(tmp_path: Path) -> None:
    ina(tmp_path, in1_label="CPU", in1_input="5000", curr1_input="1000", in2_label="GPU", in2_input="5000")
    ina(tmp_path, curr2_input="500")
    found = energy.find(tmp_path)
    assert isinstance(found, Gauge)
    assert found.watts() == pytest.approx(7.5)
    (tmp_path / "sys/class/hwmon/hwmon1/curr2_input").unlink()
    assert found.watts() is None


def test_a_sensor_that_tells_power_is_believed(tmp_path: Path) -> None:
    ina(tmp_path, chip="ina226", power1_input="3725000")
    found = energy.find(tmp_path)
    assert isinstance(found, Gauge)
    assert found.watts() == pytest.approx(3.725)


@pytest.mark.parametrize(
    ("current", "voltage"), [("-812000", "4105000"), ("812000", "4105000"), ("812", "4105"), ("-812", "4105000")]
)
def test_a_battery_tells_watts_in_any_sign_and_unit(current: str, voltage: str, tmp_path: Path) -> None:
    battery = "sys__class__power_supply__battery__"
    told = {"type": "Battery", "status": "Discharging", "current_now": current, "voltage_now": voltage}
    tree(tmp_path, **{battery + name: content for name, content in told.items()})
    found = energy.find(tmp_path)
    assert isinstance(found, Gauge)
    assert found.watts() == pytest.approx(0.812 * 4.105)
    tree(tmp_path, **{f"{battery}status": "Charging"})
    said = energy.find(tmp_path)
    assert isinstance(said, str)
    assert "charging" in said


def test_a_phone_that_hides_its_files_is_asked_for_its_charge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [DUMPSYS.format(powered="false")]
    monkeypatch.setattr(energy, "asked", lambda command: said[-1] if command == energy.DUMPSYS else None)
    tree(tmp_path, system__bin__dumpsys="")
    found = energy.find(tmp_path)
    assert isinstance(found, Counter)
    before = found.read()
    said.append(said[-1].replace("3141000", "3140000"))
    assert found.joules(before, found.read()) == pytest.approx(1e-3 * 3600 * 4.0)  # 1 mAh at 4 V
    said.append(said[-1].replace("voltage: 4000", "voltage: 3980"))  # it sags under load, which is no work
    assert found.joules(before, found.read()) == pytest.approx(1e-3 * 3600 * 3.99)
    said.append(DUMPSYS.format(powered="false").replace("voltage: 4000", "voltage: 3980"))
    assert found.joules(before, found.read()) is None
    said.append("")
    assert found.joules(before, found.read()) is None
    said.append(DUMPSYS.format(powered="true"))
    assert "unplug it" in str(energy.find(tmp_path))


def test_the_mean_of_readings_is_weighted_by_time() -> None:
    assert energy.mean([(0, 2.0), (1, 4.0), (3, 4.0)]) == pytest.approx((3 + 8) / 3)
    assert energy.mean([(0, 2.0)]) is None
