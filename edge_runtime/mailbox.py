"""Hand messages of one stream from its source threads to the loop, bounded, and count every one of them.

Conservation: captured = decided + dropped (by reason) + in flight, where in flight is what really lies in the box or
in the loop's history waiting for its decision, not a difference of the other three.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edge_runtime.messages import Message

RELOAD = "reload"
"""Why a message was dropped that still waited when another session took over."""


@dataclass(frozen=True, slots=True)
class Counts:
    """A stream's account at one moment."""

    captured: int
    decided: int
    dropped: dict[str, int]
    in_flight: int


@dataclass(slots=True, eq=False)
class Account:
    """One stream's counters. The next session's mailbox goes on with them. Hold `lock` to use them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    captured: int = 0
    decided: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    news: Counter[str] = field(default_factory=Counter)
    """Dropped since somebody last asked."""
    next_seq: int = 0
    parts: Counter[str] = field(default_factory=Counter)
    """Parts of messages that were left out (a channel's reading), by reason; the messages themselves were taken."""

    def drop(self, reason: str, count: int = 1) -> None:
        self.dropped[reason] += count
        self.news[reason] += count


class Mailbox:
    """A bounded box that keeps the `keep` messages captured last; the others are counted as `replaced`."""

    def __init__(self, keep: int, wake: Callable[[], None] | None = None, account: Account | None = None) -> None:
        """`account`: go on with these counters."""
        self._account = account or Account()
        self._waiting: deque[Message] = deque()
        self._keep = keep
        self._wake = wake
        self._retired = False
        self.announced_ns: int | None = None
        """Capture time of the message that is in the making, if one is."""

    def put(self, make: Callable[[int], Message]) -> None:
        """Admit the message that `make(seq)` gives. Any thread; wakes the loop if this stream triggers it."""
        account = self._account
        with account.lock:
            self.announced_ns = None
            account.captured += 1
            if self._retired:
                account.drop(RELOAD)
                return
            message = make(account.next_seq)
            account.next_seq += 1
            # By capture time: what comes late must not replace what is newer.
            place = len(self._waiting)
            while place and self._waiting[place - 1].captured_ns > message.captured_ns:
                place -= 1
            self._waiting.insert(place, message)
            if len(self._waiting) > self._keep:
                self._waiting.popleft()
                account.drop("replaced")
        if self._wake is not None:
            self._wake()

    def announce(self, captured_ns: int) -> None:
        """A message captured then is in the making. Any thread; the loop, which wakes, gets ready for it meanwhile."""
        self.announced_ns = captured_ns
        if self._wake is not None:
            self._wake()

    def refuse(self, reason: str) -> None:
        """Count a message that was captured but not admitted. Any thread."""
        with self._account.lock:
            self.announced_ns = None
            self._account.captured += 1
            self._account.drop(reason)

    def refuse_part(self, reason: str) -> None:
        """Count a part of a message that is admitted without it. Any thread."""
        with self._account.lock:
            self._account.parts[reason] += 1

    @property
    def refused_parts(self) -> dict[str, int]:
        """Parts of admitted messages that were left out, by reason. Any thread."""
        with self._account.lock:
            return dict(self._account.parts)

    def take(self) -> list[Message]:
        """All waiting messages in order of capture time; the caller must settle each. Loop thread."""
        with self._account.lock:
            taken = list(self._waiting)
            self._waiting.clear()
            return taken

    def drop_until(self, captured_ns: int, reason: str) -> None:
        """Drop what waits and was captured up to then. Loop thread."""
        with self._account.lock:
            while self._waiting and self._waiting[0].captured_ns <= captured_ns:
                self._waiting.popleft()
                self._account.drop(reason)

    def settle(self, decided: int, dropped: Counter[str]) -> None:
        """Close the account of messages taken earlier. Loop thread."""
        with self._account.lock:
            self._account.decided += decided
            self._account.dropped += dropped
            self._account.news += dropped

    def retire(self, pending: int) -> None:
        """No decision will be made any more on what lies here, nor on the `pending` messages taken earlier, nor on what
        a source thread may still put: all count as dropped by `reload`. Loop thread.
        """
        with self._account.lock:
            self._retired = True
            if left := len(self._waiting) + pending:
                self._account.drop(RELOAD, left)
            self._waiting.clear()

    def new_drops(self) -> Mapping[str, int]:
        """Messages dropped since the last call, by reason. Loop thread."""
        if not self._account.news:
            return {}
        with self._account.lock:
            news, self._account.news = self._account.news, Counter()
            return news

    def counts(self, pending: int) -> Counts:
        """The account, given how many taken messages the loop still holds. Loop thread."""
        account = self._account
        with account.lock:
            return Counts(account.captured, account.decided, dict(account.dropped), len(self._waiting) + pending)

    @property
    def captured(self) -> int:
        """Messages seen so far. Any thread."""
        return self._account.captured
