from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.clock import RealClock, SleepWatch


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
        assert watch.slept_ns() == 0


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**5), max_size=60), st.integers(1_000_000, 10**13))
def test_sleep_is_told_once_and_never_as_more_than_it_was(ahead_ns: int, pauses: list[int], slept_ns: int) -> None:
    watch = SleepWatch(clocks := Clocks(ahead_ns, pauses))
    watch.slept_ns()
    clocks.sleep(slept_ns)
    told = watch.slept_ns()
    assert slept_ns - 400_000 <= told <= slept_ns
    assert watch.slept_ns() == 0


def test_the_host_s_clocks() -> None:
    clock = RealClock()
    assert abs(clock.now_ns() - time.monotonic_ns()) < 10**9
    assert clock.boot_ns() >= clock.now_ns() - 10**6
    assert SleepWatch(clock).slept_ns() == 0


@pytest.mark.parametrize("pause_ns", [0, 300])
def test_a_difference_from_before_the_start_is_no_sleep(pause_ns: int) -> None:
    watch = SleepWatch(Clocks(3600 * 10**9, [pause_ns] * 9))
    assert watch.slept_ns() == 0
