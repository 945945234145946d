from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.clock import rfc3339
from edge_runtime.health import RateMeter, Thermometer, WallClockWatch, resident_mb

S = 1_000_000_000


def test_a_rate_follows_the_last_seconds() -> None:
    meter = RateMeter(window_ns=5 * S)
    for second in range(20):
        rate = meter.update(second * S, 30 * second)
    assert rate == pytest.approx(30)
    for second in range(20, 30):
        rate = meter.update(second * S, 30 * 19)
    assert rate == 0


def test_jumps_of_the_wall_clock_are_counted_and_slewing_is_not() -> None:
    wall_ns = 10**18
    watch = WallClockWatch(0, wall_ns)
    for second in range(1, 101):
        wall_ns += S + 500_000  # NTP's fastest slew
        watch.look(second * S, wall_ns)
    assert watch.jumps == 0
    watch.look(100 * S, wall_ns - 3600 * S)
    assert watch.jumps == 1


def test_the_hottest_zone_counts_and_broken_ones_are_skipped(tmp_path: Path) -> None:
    assert Thermometer(tmp_path).read() is None
    for zone, text in enumerate(("41000", "55500", "off")):
        (tmp_path / f"thermal_zone{zone}").mkdir()
        (tmp_path / f"thermal_zone{zone}" / "temp").write_text(text)
    assert Thermometer(tmp_path).read() == 55.5


def test_memory_is_plausible() -> None:
    assert 10 < resident_mb() < 10_000


def test_wall_time_is_rfc3339() -> None:
    assert rfc3339(1_700_000_000_123_000_000) == "2023-11-14T22:13:20.123Z"
