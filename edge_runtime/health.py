"""What the status message tells besides accounts and times: rates, memory, temperature, clock jumps."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from edge_runtime.clock import Clock

WALL_JUMP_NS = 100_000_000
"""A larger step than this, and than this much for every second since the last look, is a jump: nothing slews faster
(adjtimex(2) by 0.5 ms a second, chrony(8) by 83 ms unless told otherwise)."""


class RateMeter:
    """Messages a second over the last few seconds of a growing count. Loop thread only."""

    def __init__(self, window_ns: int = 5_000_000_000) -> None:
        self._window_ns = window_ns
        self._marks: deque[tuple[int, int]] = deque()

    @property
    def measured(self) -> bool:
        """Whether it has looked for about as long as its window is."""
        return len(self._marks) > 1 and 5 * (self._marks[-1][0] - self._marks[0][0]) >= 4 * self._window_ns

    def update(self, now_ns: int, count: int) -> float:
        """The rate, given that `count` messages were seen by `now_ns`."""
        self._marks.append((now_ns, count))
        while len(self._marks) > 2 and now_ns - self._marks[1][0] >= self._window_ns:
            self._marks.popleft()
        first_ns, first_count = self._marks[0]
        return (count - first_count) * 1e9 / (now_ns - first_ns) if now_ns > first_ns else 0.0


class WallClockWatch:
    """Counts jumps of the wall clock against the host's own. Loop thread only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_ns, self._low_ns, self._high_ns = self._bounds()
        self.jumps = 0

    def look(self) -> None:
        """Compare once more. Neither a pause between two readings, nor slewing since the last look, nor sleep of the
        machine is a jump.
        """
        now_ns, low_ns, high_ns = self._bounds()
        slewed_ns = WALL_JUMP_NS * max(1, now_ns - self._last_ns) // 1_000_000_000
        allowed_ns = max(WALL_JUMP_NS, slewed_ns)
        if low_ns - self._high_ns > allowed_ns or self._low_ns - high_ns > allowed_ns:
            self.jumps += 1
        self._last_ns, self._low_ns, self._high_ns = now_ns, low_ns, high_ns

    def _bounds(self) -> tuple[int, int, int]:
        """Now, and the least and the most by which the wall clock may be ahead of the clock that sleeps not."""
        before_ns = self._clock.boot_ns()
        wall_ns = self._clock.wall_ns()
        after_ns = self._clock.boot_ns()
        return after_ns, wall_ns - after_ns, wall_ns - before_ns


def resident_mb() -> float:
    """Resident memory of this process in MiB (Linux; 0 elsewhere)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


class Thermometer:
    """The hottest thermal zone, in degrees Celsius; None where the board has no readable zone."""

    def __init__(self, root: Path = Path("/sys/class/thermal")) -> None:
        self._zones = sorted(root.glob("thermal_zone*/temp"))

    def read(self) -> float | None:
        readings = []
        for zone in self._zones:
            try:
                readings.append(int(zone.read_text()) / 1000.0)
            except (OSError, ValueError):
                continue  # a zone may be powered down
        return max(readings, default=None)
