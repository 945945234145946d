"""The clock that messages are stamped and decisions are timed by.

Ordering and ages use integer nanoseconds of one monotonic clock (`CLOCK_MONOTONIC`: the same in every process of
this host, untouched by wall-clock jumps). It stands still while the machine sleeps: `SleepWatch` tells of that. Wall
time travels beside it, for people.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from functools import lru_cache
from typing import Protocol

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Where there is no such clock, sleep is not seen."""


class Clock(Protocol):
    """What the runtime asks of a clock. Callable from any thread."""

    def now_ns(self) -> int:
        """Monotonic time in nanoseconds."""
        ...

    def wall_ns(self) -> int:
        """Wall time in nanoseconds since the Unix epoch."""
        ...

    def boot_ns(self) -> int:
        """Monotonic time in nanoseconds that goes on while the machine sleeps."""
        ...


class RealClock:
    """The host's clock."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()

    def boot_ns(self) -> int:
        return time.clock_gettime_ns(_BOOT)


class SleepWatch:
    """Tells how long the machine has slept, from the two clocks of which one stands still then. One thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._low_ns, self._high_ns = self._bounds()

    def slept_ns(self) -> int:
        """Nanoseconds asleep since the last call; 0 unless it is certain: the clocks are not read at one moment."""
        low_ns, high_ns = self._bounds()
        slept_ns = max(0, low_ns - self._high_ns)
        if slept_ns:
            self._low_ns, self._high_ns = low_ns, high_ns
        else:  # the difference stands still: every look narrows down what it is
            self._low_ns, self._high_ns = max(self._low_ns, low_ns), min(self._high_ns, high_ns)
        return slept_ns

    def _bounds(self) -> tuple[int, int]:
        """The least and the most by which the clock that sleeps not may be ahead of the other."""
        before_ns = self._clock.now_ns()
        boot_ns = self._clock.boot_ns()
        return boot_ns - self._clock.now_ns(), boot_ns - before_ns


def rfc3339(wall_ns: int) -> str:
    """`wall_ns` (since the epoch) as RFC 3339 UTC text with milliseconds."""
    seconds, rest_ns = divmod(wall_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest_ns // 1_000_000:03d}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    """Date and time of day in whole seconds: the same for all decisions of a second."""
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
