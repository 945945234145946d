"""What the status message tells besides accounts and times: rates, memory, temperature, clock jumps."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

WALL_JUMP_NS = 100_000_000
"""NTP slews by at most 0.5 ms a second; a larger step between two looks is a jump."""


class RateMeter:
    """Messages a second over the last few seconds of a growing count. Loop thread only."""

    def __init__(self, window_ns: int = 5_000_000_000) -> None:
        self._window_ns = window_ns
        self._marks: deque[tuple[int, int]] = deque()

    def update(self, now_ns: int, count: int) -> float:
        """The rate, given that `count` messages were seen by `now_ns`."""
        self._marks.append((now_ns, count))
        while len(self._marks) > 2 and now_ns - self._marks[1][0] >= self._window_ns:
            self._marks.popleft()
        first_ns, first_count = self._marks[0]
        return (count - first_count) * 1e9 / (now_ns - first_ns) if now_ns > first_ns else 0.0


class WallClockWatch:
    """Counts jumps of the wall clock against the monotonic one. Loop thread only."""

    def __init__(self, now_ns: int, wall_ns: int) -> None:
        self._offset_ns = wall_ns - now_ns
        self.jumps = 0

    def look(self, now_ns: int, wall_ns: int) -> None:
        offset_ns = wall_ns - now_ns
        if abs(offset_ns - self._offset_ns) > WALL_JUMP_NS:
            self.jumps += 1
        self._offset_ns = offset_ns


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
