"""The source of kind `sysfs` on a tree of files such as Linux shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_runtime import config
from edge_runtime.capture import outages, sysfs_source
from edge_runtime.errors import ConfigError
from tests.capture.test_sources import Inbox
from tests.conftest import wait_for


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sysfs_source, "SYS", tmp_path)
    monkeypatch.setattr(outages, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(outages, "LONGEST_PAUSE_S", 0.1)
    files = {
        "bus/iio/devices/iio:device0/name": "other",
        "bus/iio/devices/iio:device1/name": "bme280",
        "bus/iio/devices/iio:device1/in_temp_raw": "2000",
        "bus/iio/devices/iio:device1/in_temp_offset": "50",
        "bus/iio/devices/iio:device1/in_temp_scale": "10.5",
        "bus/iio/devices/iio:device1/in_voltage3_raw": "7",
        "bus/iio/devices/iio:device1/in_voltage_scale": "2",
        "bus/iio/devices/iio:device1/in_accel_x_raw": "4",
        "bus/iio/devices/iio:device1/in_accel_scale": "0.5",
        "bus/iio/devices/iio:device1/in_pressure_input": "101.5",
        "class/hwmon/hwmon3/name": "coretemp",
        "class/hwmon/hwmon3/temp1_input": "45000",
        "class/thermal/thermal_zone0/type": "cpu-thermal",
        "class/thermal/thermal_zone0/temp": "51000",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iio:bme280/in_temp_raw", (2000 + 50) * 10.5),
        ("iio:bme280/in_voltage3_raw", 14),
        ("iio:bme280/in_accel_x_raw", 2),
        ("iio:bme280/in_pressure_input", 101.5),
        ("hwmon:coretemp/temp1_input", 45000),
        ("thermal:cpu-thermal", 51000),
    ],
)
def test_a_file_is_found_by_its_device_s_name_and_read_in_the_driver_s_unit(
    tree: Path, name: str, value: float
) -> None:
    assert sysfs_source.read(sysfs_source.find(name)) == pytest.approx(value)


def test_readings_come_at_the_rate_and_a_lost_one_costs_its_channel_only(tree: Path) -> None:
    inbox = Inbox()
    files = {"a": "thermal:cpu-thermal", "b": "iio:bme280/in_accel_x_raw"}
    source = inbox.open(config.SysfsSource("sensors", files, rate_hz=100, scale={"a": 0.001}))
    source.start()
    try:
        wait_for(lambda: inbox.captured("sensors") > 3, "samples")
        assert dict(inbox.take("sensors")[-1].values) == {"a": 51.0, "b": 2.0}  # type: ignore[attr-defined]
        zone = tree / "class/thermal/thermal_zone0"
        (zone / "temp").write_text("nonsense\n")

        def newest() -> dict[str, float]:
            taken: list[Any] = inbox.take("sensors")
            return dict(taken[-1].values) if taken else {}

        wait_for(lambda: newest() == {"b": 2.0}, "the other one alone")
        (zone / "temp").write_text("1000\n")
        zone.rename(tree / "class/thermal/thermal_zone7")  # as after another boot
        wait_for(lambda: newest() == {"a": 1.0, "b": 2.0}, "both again")
        (tree / "class/thermal/thermal_zone7/temp").unlink()
        (tree / "bus/iio/devices/iio:device1/in_accel_x_raw").unlink()
        wait_for(lambda: source.state == "waiting" and "cpu-thermal" in str(source.reason), "the outage")
        (tree / "class/thermal/thermal_zone7/temp").write_text("2000\n")
        wait_for(lambda: source.state == "running" and newest() == {"a": 2.0}, "it to be back")
    finally:
        source.stop(10.0)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x": "thermal:cpu"}, "no channel 'x'; there are a, b"),
        ({"a": "usb:x/y"}, "expected iio:NAME/FILE"),
        ({"a": "hwmon:coretemp"}, "expected iio:NAME/FILE"),
        ({"a": "hwmon:coretemp/../../secret"}, "expected iio:NAME/FILE"),
        ({"a": "iio:bme280/.."}, "expected iio:NAME/FILE"),
    ],
)
def test_rows_that_cannot_be_meant_are_one_line(files: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Inbox().open(config.SysfsSource("sensors", files))
