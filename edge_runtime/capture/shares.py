"""Each stream's share of a door that many may knock at: so many messages a second, so many at once."""

from __future__ import annotations


class Share:
    """A token bucket (Tanenbaum, Computer Networks, 5.4): refills at `rate_hz`, holds a second's worth. One thread."""

    def __init__(self, rate_hz: float, now_ns: int, size: float | None = None) -> None:
        """Full at `now_ns` (monotonic). `size`: what may pass at once, unless a second's worth."""
        self.rate_hz = rate_hz
        self._size = max(1.0, rate_hz) if size is None else size
        self._left = self._size
        self._seen_ns = now_ns

    def take(self, now_ns: int) -> bool:
        """Whether one more message may pass at `now_ns`. Time that runs backwards refills nothing."""
        passed_s = max(0, now_ns - self._seen_ns) / 1e9
        self._left = min(self._size, self._left + passed_s * self.rate_hz)
        self._seen_ns = max(self._seen_ns, now_ns)
        if self._left < 1:
            return False
        self._left -= 1
        return True
