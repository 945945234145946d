"""Each stream's share of a door that many may knock at, and each sender's part of it."""

from __future__ import annotations

MIN_RATE_HZ = 20.0
"""Every stream may be sent this often, however rarely it is expected to."""
OVER_RATE = "over_rate"
"""Why a message was refused that its stream's share had no room for."""
SETTLED_NS = 1_000_000_000
"""A sender that has been silent for so long has its whole part back, and no part of the others'."""


class Share:
    """A token bucket (Tanenbaum, Computer Networks, 5.4): refills at `rate_hz`, holds a second's worth. One thread."""

    def __init__(self, rate_hz: float, now_ns: int, size: float | None = None) -> None:
        """Full at `now_ns` (monotonic). `size`: what may pass at once, unless a second's worth."""
        self.rate_hz = rate_hz
        self._size = max(1.0, rate_hz) if size is None else size
        self._left = self._size
        self.seen_ns = now_ns

    def take(self, now_ns: int, cost: float = 1.0) -> bool:
        """Whether one more message may pass at `now_ns`: where at least 1 is left, of which it takes `cost`. Time that
        runs backwards refills nothing.
        """
        passed_s = max(0, now_ns - self.seen_ns) / 1e9
        self._left = min(self._size, self._left + passed_s * self.rate_hz)
        self.seen_ns = max(self.seen_ns, now_ns)
        if self._left < 1:
            return False
        self._left -= cost
        return True

    def spend(self, cost: float) -> None:
        """So much more was taken, as it turned out; what is left may be less than nothing."""
        self._left -= cost

    def resize(self, rate_hz: float) -> None:
        """From now on this rate, and a second's worth of it."""
        self.rate_hz = rate_hz
        self._size = max(1.0, rate_hz)


class Shares:
    """A stream's share, divided equally among those that send to it. One thread.

    A sender's part is never less than `least_hz`, so that one who sends as often as is expected is heard whatever the
    others do; who comes by many connections from this host has many parts.
    """

    def __init__(self, rate_hz: float, least_hz: float) -> None:
        self.rate_hz = rate_hz
        self.least_hz = least_hz
        self._parts: dict[object, Share] = {}
        self._divided_ns = 0

    def take(self, sender: object, now_ns: int, cost: float = 1.0) -> bool:
        """Whether one more message of `sender` may pass at `now_ns` (monotonic), see `Share.take`."""
        part = self._parts.get(sender)
        if part is None or now_ns - self._divided_ns > SETTLED_NS:
            gone = [one for one, share in self._parts.items() if now_ns - share.seen_ns > SETTLED_NS]
            for one in gone:
                del self._parts[one]
            part = self._parts.setdefault(sender, Share(self.rate_hz, now_ns))
            self._divided_ns = now_ns
            each_hz = max(self.least_hz, self.rate_hz / len(self._parts))
            for share in self._parts.values():
                share.resize(each_hz)
        return part.take(now_ns, cost)

    def spend(self, sender: object, cost: float) -> None:
        """What passed last has cost `sender` so much more."""
        if (part := self._parts.get(sender)) is not None:
            part.spend(cost)
