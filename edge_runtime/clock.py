"""The clock that messages are stamped and decisions are timed by.

Ordering and ages use integer nanoseconds of one monotonic clock (`CLOCK_MONOTONIC`: the same in every process of
this host, untouched by wall-clock jumps). It stands still while the machine sleeps: `SleepWatch` tells of that. Wall
time travels beside it, for people.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime, timezone
from functools import lru_cache
from typing import Protocol

import msgspec

MAX_SLEEPS = 8
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
    """Tells how long the machine has slept, from the two clocks of which one stands still then. Any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._high_ns = self._bounds()[1]
        """No more than by this was one clock ahead of the other while nothing slept: every look narrows it down."""
        self._slept_ns = 0
        self._sleeps: tuple[tuple[int, int], ...] = ()
        """(when it was found, how long), the last ones."""

    def look(self) -> int:
        """Nanoseconds asleep so far, as far as it is certain: the clocks are not read at one moment."""
        with self._lock:
            low_ns, high_ns = self._bounds()
            if low_ns > self._high_ns:
                asleep_ns = low_ns - self._high_ns
                self._slept_ns += asleep_ns
                self._sleeps = (*self._sleeps[-MAX_SLEEPS + 1 :], (self._clock.now_ns(), asleep_ns))
                self._high_ns = high_ns
            else:
                self._high_ns = min(self._high_ns, high_ns)
            return self._slept_ns

    @property
    def awake_ns(self) -> int | None:
        """When the last sleep was found; what was captured until then may have been captured before it."""
        return self._sleeps[-1][0] if self._sleeps else None

    def aged(self, captured_ns: int) -> int:
        """The time of capture by which what was captured at `captured_ns` is as old as it is, time asleep included."""
        return captured_ns - sum(asleep_ns for found_ns, asleep_ns in self._sleeps if captured_ns <= found_ns)

    def _bounds(self) -> tuple[int, int]:
        """The least and the most by which the clock that sleeps not may be ahead of the other."""
        before_ns = self._clock.now_ns()
        boot_ns = self._clock.boot_ns()
        return boot_ns - self._clock.now_ns(), boot_ns - before_ns


def wall_ns(text: str) -> int:
    """RFC 3339 text to nanoseconds since the epoch, to the microsecond. Raises ValueError."""
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        raise ValueError(f"{text[:40]!r} is no time as RFC 3339 writes it") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text[:40]!r} names no time zone")
    passed = moment - _EPOCH
    return ((passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds) * 1000


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def rfc3339(wall_ns: int) -> str:
    """`wall_ns` (since the epoch) as RFC 3339 UTC text with milliseconds."""
    seconds, rest_ns = divmod(wall_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest_ns // 1_000_000:03d}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    """Date and time of day in whole seconds: the same for all decisions of a second."""
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
