from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.clock import MAX_SLEEPS, RealClock, SleepWatch, rfc3339, wall_ns


class Clocks:
    """One clock stands still while the machine sleeps; every reading takes the next of `pauses`."""

    def __init__(self, ahead_ns: int = 0, pauses: list[int] | None = None) -> None:
        self.now, self.boot, self.pauses = 10**9, 10**9 + ahead_ns, pauses or []

    def sleep(self, ns: int) -> None:
        self.boot += ns

    def now_ns(self) -> int:
        self._pause()
        return self.now

    def boot_ns(self) -> int:
        self._pause()
        return self.boot

    def wall_ns(self) -> int:
        return self.boot

    def _pause(self) -> None:
        ns = self.pauses.pop() if self.pauses else 0
        self.now += ns
        self.boot += ns


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**10), max_size=60))
def test_no_pause_between_two_readings_is_taken_for_sleep(ahead_ns: int, pauses: list[int]) -> None:
    watch = SleepWatch(clocks := Clocks(ahead_ns, pauses))
    while clocks.pauses:
        assert watch.look() == 0


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**5), max_size=60), st.integers(1_000_000, 10**13))
def test_sleep_is_told_once_and_never_as_more_than_it_was(ahead_ns: int, pauses: list[int], slept_ns: int) -> None:
    watch = SleepWatch(clocks := Clocks(ahead_ns, pauses))
    watch.look()
    before_ns = clocks.now
    clocks.sleep(slept_ns)
    told = watch.look()
    assert slept_ns - 400_000 <= told <= slept_ns
    assert watch.look() == told
    # What was captured before counts as that much older, and what comes after as it is.
    assert watch.aged(before_ns) == before_ns - told
    assert watch.awake_ns is not None
    assert watch.aged(watch.awake_ns + 1) == watch.awake_ns + 1


def test_the_host_s_clocks() -> None:
    clock = RealClock()
    assert abs(clock.now_ns() - time.monotonic_ns()) < 10**9
    assert clock.boot_ns() >= clock.now_ns() - 10**6
    assert SleepWatch(clock).look() == 0


@pytest.mark.parametrize("pause_ns", [0, 300])
def test_a_difference_from_before_the_start_is_no_sleep(pause_ns: int) -> None:
    watch = SleepWatch(Clocks(3600 * 10**9, [pause_ns] * 9))
    assert watch.look() == 0


def test_several_sleeps_add_up_for_what_is_older_than_all_and_their_number_is_bounded() -> None:
    watch = SleepWatch(clocks := Clocks())
    for _ in range(100):
        clocks.now += 10**9
        clocks.boot += 10**9
        clocks.sleep(3 * 10**9)
        watch.look()
    assert watch.look() == 300 * 10**9
    assert watch.aged(0) == -MAX_SLEEPS * 3 * 10**9
    assert watch.aged(clocks.now - 1_500_000_000) == clocks.now - 1_500_000_000 - 6 * 10**9


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:01Z", 10**9),
        ("2023-11-14T22:13:20.123456+00:00", 1_700_000_000_123_456_000),
        ("2023-11-15T00:13:20+02:00", 1_700_000_000_000_000_000),
    ],
)
def test_wall_time_is_read(text: str, ns: int) -> None:
    assert wall_ns(text) == ns


@pytest.mark.parametrize("text", ["", "yesterday", "2023-11-14", "2023-11-14T22:13:20", "9" * 128])
def test_what_is_no_wall_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        wall_ns(text)


def test_every_look_narrows_down_what_sleep_can_be_told_from() -> None:
    watch = SleepWatch(clocks := Clocks(0, [10_000_000] * 3))  # read far apart at first
    assert watch.look() == 0
    clocks.pauses = [10_000_000] * 3
    assert watch.look() == 0
    clocks.sleep(1_000_000)
    assert watch.look() == 1_000_000
    clocks.sleep(1)
    assert watch.look() == 1_000_001


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000_123_999_999, "2023-11-14T22:13:20.123Z"),
        (1_700_000_000_999_000_000, "2023-11-14T22:13:20.999Z"),
        (1_700_000_001_000_000_000, "2023-11-14T22:13:21.000Z"),
    ],
)
def test_wall_time_is_written_to_the_millisecond(ns: int, text: str) -> None:
    assert rfc3339(ns) == text
    assert wall_ns(text) == ns // 1_000_000 * 1_000_000


def test_the_wall_clock_is_the_host_s() -> None:
    assert abs(RealClock().wall_ns() - time.time_ns()) < 10**9
