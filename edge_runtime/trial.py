"""Whether a new bundle has proven itself, judged from what the runtime publishes with it."""

from __future__ import annotations

import math
import statistics

from edge_runtime.slots import Slot, Trial
from edge_runtime.wire import DecisionMessage, StatusMessage, StreamHealth

FEWEST = 5
"""Messages, or decisions, of which a part says something."""
LONGEST = 3
"""Times the trial's length: so long it goes on where nothing speaks against it, and decisions on messages have been too
few to speak for it (a camera that hangs meanwhile); then they are enough."""
UNDECIDED = ("replaced", "superseded")
"""Reasons of drops that the messages are not to blame for."""


class Proof:
    """Of one slot, from when it began to decide. One thread."""

    def __init__(self, trial: Trial, slot: Slot, trigger: str, period_ms: float, now_ns: int) -> None:
        """`trigger` is the stream that calls for decisions, one each `period_ms`."""
        self._trial = trial
        self._digest = slot.digest
        self._trigger = trigger
        self._period_ms = period_ms
        self._end_ns = now_ns + int(trial.seconds * 1e9)
        self._latest_ns = now_ns + int(LONGEST * trial.seconds * 1e9)
        self._answered = 0
        self._latencies_ms: list[float] = []
        """Of decisions on messages."""
        self._fault: str | None = None
        self._unanswered: str | None = None
        self._marks: list[tuple[int, int]] = []
        """At each status: messages that called for a decision, and decisions on messages, so far."""

    def hear(self, message: DecisionMessage | StatusMessage) -> None:
        """Take note of what was published; what other bundles did says nothing."""
        if message.bundle.digest != self._digest:
            return
        if isinstance(message, StatusMessage):
            if (stream := message.streams.get(self._trigger)) is not None:
                self._marks.append((_due(stream), len(self._latencies_ms)))
            return
        if message.latency_ms.infer:
            self._answered += 1
            if message.latency_ms.queue > 0:
                self._latencies_ms.append(message.latency_ms.capture_to_publish)
            return
        self._unanswered = message.reason
        if message.reason is not None and message.reason.startswith("engine"):
            self._fault = message.reason

    def verdict(self, now_ns: int) -> tuple[bool, str] | None:
        """Whether it has proven itself, and if not, why; None while that is open. An engine that fails ends it."""
        if self._fault is not None:
            return False, self._fault
        if now_ns < self._end_ns:
            return None
        reason = self._nothing() or self._slow() or self._late()
        if reason is None and len(self._latencies_ms) < FEWEST and now_ns < self._latest_ns:
            return None
        return reason is None, reason or ""

    def _nothing(self) -> str | None:
        if self._answered:
            return None
        why = self._unanswered or "no decision was made"
        return f"it decided nothing by the model in {self._trial.seconds:g} s: {why}"

    def _slow(self) -> str | None:
        if len(self._marks) < 2:
            return None
        (due_before, before), (due, after) = self._marks[0], self._marks[-1]
        if due - due_before < FEWEST or after - before >= self._trial.rate * (due - due_before):
            return None
        return (
            f"it answered {after - before} of {due - due_before} messages of {self._trigger}, "
            f"{self._trial.rate:.0%} are asked for"
        )

    def _late(self) -> str | None:
        times = sorted(self._latencies_ms)
        if len(times) < FEWEST:
            return None
        limit = self._trial.latency_ms
        if limit is not None:
            p99 = times[math.ceil(0.99 * len(times)) - 1]
            return None if p99 <= limit else f"its latency is {p99:.1f} ms at p99, {limit:g} ms are allowed"
        median = statistics.median(times)
        if median <= self._period_ms:
            return None
        return f"half of its decisions take {median:.1f} ms or more; a message comes each {self._period_ms:.1f} ms"


def _due(stream: StreamHealth) -> int:
    """Messages that called for a decision: all but those that were refused."""
    refused = sum(count for reason, count in stream.dropped.items() if reason not in UNDECIDED)
    return stream.captured - refused
