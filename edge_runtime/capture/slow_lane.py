"""The slow lane: what takes long to admit, above all large pictures, is admitted on a thread of its own.

So nobody who sends little waits for it. Of each sender's messages for a stream the newest waits; senders take turns,
and none has more than its part of the thread's time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, Protocol, TypeVar

from edge_runtime.capture.shares import Shares

MAX_WAITING_BYTES = 64 << 20
"""Of all that waits together."""
NICENESS = 5
"""The kernel runs the loop and those who send little first, where there is not enough for all."""
LANE_MS = 1000.0
"""Milliseconds of work a second, for all senders together: the whole thread."""


class Heavy(Protocol):
    """What may wait."""

    @property
    def size(self) -> int:
        """In bytes."""
        ...


H = TypeVar("H", bound=Heavy)


class _Place(NamedTuple):
    """Whose messages for what: one waits at a time."""

    sender: Hashable
    stream: str


class SlowLane(Generic[H]):
    """`put` by one thread. Its own thread calls `admit`, or `refuse` where a sender's part is used up; neither may
    raise. It begins with the first message.
    """

    def __init__(self, name: str, admit: Callable[[H], None], refuse: Callable[[H], None]) -> None:
        self._admit = admit
        self._refuse = refuse
        self._waiting: dict[_Place, H] = {}
        """In the order in which they have their turn."""
        self._changed = threading.Condition()
        self._closed = False
        self._shares = Shares(LANE_MS, 0.0)
        self._thread = threading.Thread(target=self._run, name=f"{name} slow", daemon=True)

    def put(self, sender: Hashable, stream: str, heavy: H) -> tuple[bool, H | None]:
        """Whether there was room for `heavy`, and which one of the same sender and stream it has replaced."""
        if self._thread.ident is None:
            self._thread.start()
        place = _Place(sender, stream)
        with self._changed:
            earlier = self._waiting.get(place)
            others = sum(one.size for one in self._waiting.values()) - (earlier.size if earlier is not None else 0)
            if others + heavy.size > MAX_WAITING_BYTES:
                return False, None
            self._waiting[place] = heavy
            self._changed.notify()
        return True, earlier

    def close(self, timeout_s: float = 1.0) -> list[H]:
        """End it after what is in hand; what has waited in vain."""
        with self._changed:
            self._closed = True
            left = list(self._waiting.values())
            self._waiting.clear()
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return left

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (taken := self._next()) is not None:
            place, heavy = taken
            if not self._shares.take(place.sender, time.monotonic_ns(), cost=0.0):
                self._refuse(heavy)
                continue
            start_ns = time.thread_time_ns()
            self._admit(heavy)
            self._shares.spend(place.sender, (time.thread_time_ns() - start_ns) / 1e6)

    def _next(self) -> tuple[_Place, H] | None:
        """Whose turn it is; None at the end."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            place = next(iter(self._waiting))
            return place, self._waiting.pop(place)
