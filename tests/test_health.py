from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.clock import rfc3339
from edge_runtime.health import WALL_JUMP_NS, RateMeter, Thermometer, WallClockWatch, resident_mb

S = 1_000_000_000


def test_a_rate_follows_the_last_seconds() -> None:
    meter = RateMeter(window_ns=5 * S)
    for second in range(20):
        rate = meter.update(second * S, 30 * second)
    assert rate == pytest.approx(30)
    for second in range(20, 30):
        rate = meter.update(second * S, 30 * 19)
    assert rate == 0


def test_a_rate_is_the_count_over_the_time_between_the_oldest_look_in_the_window_and_now() -> None:
    meter = RateMeter(window_ns=2 * S)
    looks = ((0, 0), (1, 10), (2, 40), (3, 40), (4, 100), (10, 160))
    rates = [meter.update(second * S, count) for second, count in looks]
    # From 0 s while 1 s is younger than the window; then from the look that is the window's age or just beyond it.
    assert rates == pytest.approx([0.0, 10.0, 20.0, 15.0, 30.0, 10.0])
    assert RateMeter().update(5 * S, 99) == 0.0, "one look is no rate"


def test_a_rate_is_by_default_over_five_seconds() -> None:
    meter = RateMeter()
    for second in range(5):
        meter.update(second * S, 0)
    assert meter.update(5 * S, 50) == pytest.approx(10)
    assert meter.update(6 * S, 50) == pytest.approx(10)
    assert meter.update(10 * S, 50) == 0


def test_looks_at_the_same_moment_give_no_rate() -> None:
    meter = RateMeter()
    meter.update(S, 1)
    assert meter.update(S, 5) == 0.0


class Clocks:
    """Two clocks that go on together unless a test moves one; each reading may take a while."""

    def __init__(self) -> None:
        self.boot, self.wall, self.pauses = 50 * S, 10**18, [0]

    def go(self, ns: int, slewed: int = 0) -> None:
        self.boot += ns
        self.wall += ns + slewed

    def now_ns(self) -> int:
        return self.boot

    def boot_ns(self) -> int:
        self.go(self.pauses.pop() if self.pauses else 0)
        return self.boot

    def wall_ns(self) -> int:
        self.go(self.pauses.pop() if self.pauses else 0)
        return self.wall


def test_the_wall_clock_has_jumped_beyond_a_tenth_of_a_second_either_way() -> None:
    for sign in (1, -1):
        clocks = Clocks()
        watch = WallClockWatch(clocks)
        for step, jumps in ((WALL_JUMP_NS, 0), (WALL_JUMP_NS + 1, 1), (0, 1), (-2 * WALL_JUMP_NS - 1, 2)):
            clocks.go(S, slewed=sign * step)
            watch.look()
            assert watch.jumps == jumps
    assert WALL_JUMP_NS == 100_000_000


def test_jumps_of_the_wall_clock_are_counted_and_slewing_is_not() -> None:
    clocks = Clocks()
    watch = WallClockWatch(clocks)
    for _ in range(100):
        clocks.go(S, slewed=500_000)
        watch.look()
    assert watch.jumps == 0
    clocks.wall -= 3600 * S
    watch.look()
    watch.look()
    assert watch.jumps == 1
    clocks.wall += 150_000_000
    watch.look()
    assert watch.jumps == 2


def test_a_standstill_is_no_jump_of_the_wall_clock() -> None:
    clocks = Clocks()
    watch = WallClockWatch(clocks)
    for place in range(3):  # before, between and after the readings
        clocks.pauses = [S if place == at else 0 for at in (2, 1, 0)]
        watch.look()
    clocks.go(3600 * S, slewed=1_800_000_000)  # stopped for an hour, slewed as NTP does
    watch.look()
    assert watch.jumps == 0


def test_the_hottest_zone_counts_and_broken_ones_are_skipped(tmp_path: Path) -> None:
    assert Thermometer(tmp_path).read() is None
    for zone, text in enumerate(("41000", "55500", "off")):
        (tmp_path / f"thermal_zone{zone}").mkdir()
        (tmp_path / f"thermal_zone{zone}" / "temp").write_text(text)
    assert Thermometer(tmp_path).read() == 55.5


def test_memory_is_what_the_kernel_says_resident_is() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    assert resident_mb() == pytest.approx(kib / 1024, rel=0.1)


def test_where_there_is_no_proc_the_memory_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path) -> str:
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "read_text", missing)
    assert resident_mb() == 0.0


def test_wall_time_is_rfc3339() -> None:
    assert rfc3339(1_700_000_000_123_000_000) == "2023-11-14T22:13:20.123Z"


def test_after_a_long_pause_as_much_more_is_allowed_as_clocks_slew() -> None:
    for seconds, slewed, jumps in ((10, 10 * WALL_JUMP_NS, 0), (10, 10 * WALL_JUMP_NS + 1, 1), (0, WALL_JUMP_NS, 0)):
        clocks = Clocks()
        watch = WallClockWatch(clocks)
        clocks.go(seconds * S, slewed=slewed)
        watch.look()
        assert watch.jumps == jumps


def test_a_rate_is_measured_once_four_fifths_of_its_window_were_looked_at() -> None:
    meter = RateMeter(window_ns=5 * S)
    assert meter.measured is False
    for at_ns, measured in ((10 * S, False), (14 * S - 1, False), (14 * S, True), (30 * S, True)):
        meter.update(at_ns, 1)
        assert meter.measured is measured
