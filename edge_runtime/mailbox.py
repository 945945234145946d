"""Hand messages of one stream from its source threads to the loop, bounded, and count every one of them.

Conservation: captured = decided + dropped (by reason) + in flight, where in flight is what really lies in the box or
in the loop's history waiting for its decision, not a difference of the other three.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge_runtime.messages import Message


@dataclass(frozen=True, slots=True)
class Counts:
    """A stream's account at one moment."""

    captured: int
    decided: int
    dropped: dict[str, int]
    in_flight: int


class Mailbox:
    """A bounded box that keeps the newest `keep` messages; what they replace is counted as `replaced`."""

    def __init__(self, keep: int, wake: Callable[[], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Message] = deque()
        self._keep = keep
        self._wake = wake
        self._captured = 0
        self._decided = 0
        self._dropped: Counter[str] = Counter()
        self._news: Counter[str] = Counter()
        self._next_seq = 0

    def put(self, make: Callable[[int], Message]) -> None:
        """Admit the message that `make(seq)` gives. Any thread; wakes the loop if this stream triggers it."""
        with self._lock:
            self._captured += 1
            self._waiting.append(make(self._next_seq))
            self._next_seq += 1
            if len(self._waiting) > self._keep:
                self._waiting.popleft()
                self._dropped["replaced"] += 1
                self._news["replaced"] += 1
        if self._wake is not None:
            self._wake()

    def announce(self) -> None:
        """A message is in the making. Any thread; the loop, which wakes, gets ready for it meanwhile."""
        if self._wake is not None:
            self._wake()

    def refuse(self, reason: str) -> None:
        """Count a message that was captured but not admitted. Any thread."""
        with self._lock:
            self._captured += 1
            self._dropped[reason] += 1
            self._news[reason] += 1

    def take(self) -> list[Message]:
        """All waiting messages, oldest first; the caller must settle each. Loop thread."""
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
            return taken

    def settle(self, decided: int, dropped: Counter[str]) -> None:
        """Close the account of messages taken earlier. Loop thread."""
        with self._lock:
            self._decided += decided
            self._dropped += dropped
            self._news += dropped

    def new_drops(self) -> Mapping[str, int]:
        """Messages dropped since the last call, by reason. Loop thread."""
        if not self._news:
            return {}
        with self._lock:
            news, self._news = self._news, Counter()
            return news

    def counts(self, pending: int) -> Counts:
        """The account, given how many taken messages the loop still holds. Loop thread."""
        with self._lock:
            return Counts(self._captured, self._decided, dict(self._dropped), len(self._waiting) + pending)

    @property
    def captured(self) -> int:
        """Messages seen so far. Any thread."""
        return self._captured
