"""The clock that messages are stamped and decisions are timed by.

Ordering and ages use integer nanoseconds of one monotonic clock (`CLOCK_MONOTONIC`: the same in every process of
this host, untouched by wall-clock jumps). Wall time travels beside it, for people.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """What the runtime asks of a clock. Callable from any thread."""

    def now_ns(self) -> int:
        """Monotonic time in nanoseconds."""
        ...

    def wall_ns(self) -> int:
        """Wall time in nanoseconds since the Unix epoch."""
        ...


class RealClock:
    """The host's clock."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()


def rfc3339(wall_ns: int) -> str:
    """`wall_ns` (since the epoch) as RFC 3339 UTC text with milliseconds."""
    seconds, rest_ns = divmod(wall_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest_ns // 1_000_000:03d}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    """Date and time of day in whole seconds: the same for all decisions of a second."""
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
