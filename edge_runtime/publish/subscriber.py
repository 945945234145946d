"""Read decisions from Python."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType

import msgspec
import zmq

from edge_runtime import sockets
from edge_runtime.wire import DecisionMessage, StatusMessage

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5560"


class Subscriber:
    """Iterates decisions, counts gaps, and knows how stale it is. One thread.

        with Subscriber() as subscriber:
            for decision in subscriber:
                print(decision.label, decision.confidence, subscriber.lost)

    Raises TimeoutError from iteration after `timeout_s` without a decision (None = wait for ever).
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        name: str = "",
        timeout_s: float | None = None,
        stale_after_s: float = 1.0,
        high_water_mark: int = 1000,
    ) -> None:
        self.received = 0
        """Decisions received, repeats left out."""
        self.lost = 0
        """Decisions missed, by gaps in `seq`."""
        self.repeated = 0
        """Last values sent again because somebody subscribed; not given out twice."""
        self.restarts = 0
        """Times that `seq` started over: the runtime was restarted."""
        self.received_ns = 0
        """Monotonic time at which the newest decision arrived."""
        self.status: StatusMessage | None = None
        """The newest status seen while reading decisions."""
        self._timeout_s = timeout_s
        self._stale_after_ns = int(stale_after_s * 1e9)
        self._last: tuple[int, int] | None = None
        self._decision = msgspec.json.Decoder(DecisionMessage)
        self._status = msgspec.json.Decoder(StatusMessage)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, high_water_mark)
        self._socket.setsockopt(zmq.LINGER, 0)
        for kind in ("decision.", "status."):
            self._socket.subscribe(kind + name)
        sockets.connect(self._socket, endpoint)

    @property
    def stale(self) -> bool:
        """Whether no decision arrived for `stale_after_s`: what was said last must not be acted on any more."""
        return time.monotonic_ns() - self.received_ns > self._stale_after_ns

    def receive(self, timeout_s: float | None = None) -> DecisionMessage | StatusMessage | None:
        """The next decision or status, or None after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_ms = -1 if deadline is None else max(0, int(1000 * (deadline - time.monotonic())))
            # A receive with a time limit; polling first would cost a second system call per message.
            self._socket.setsockopt(zmq.RCVTIMEO, left_ms)
            try:
                # Always two frames. recv_multipart would ask the socket whether more follow, at more than their cost.
                topic = self._socket.recv()
                payload = self._socket.recv()
            except zmq.Again:
                return None
            arrived_ns = time.monotonic_ns()
            if topic.startswith(b"status."):
                self.status = self._status.decode(payload)
                return self.status
            decision = self._decision.decode(payload)
            if self._count(decision):
                self.received_ns = arrived_ns
                return decision

    def close(self) -> None:
        """Free the socket. Harmless when called again."""
        if not self._socket.closed:
            self._socket.close()
            self._context.term()

    def __iter__(self) -> Iterator[DecisionMessage]:
        while True:
            yield self._next_decision()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next_decision(self) -> DecisionMessage:
        """The next decision. A runtime that sends status only is as silent as a dead one."""
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while True:
            message = self.receive(None if deadline is None else deadline - time.monotonic())
            if isinstance(message, DecisionMessage):
                return message
            if message is None:
                raise TimeoutError(f"no decision for {self._timeout_s} s")

    def _count(self, decision: DecisionMessage) -> bool:
        """Whether `decision` is new; counts losses, repeats and restarts."""
        seq, published_ns = decision.seq, decision.published_ns
        if self._last is not None:
            last_seq = self._last[0]
            if (seq, published_ns) == self._last:
                self.repeated += 1
                return False
            if seq <= last_seq:
                self.restarts += 1
            else:
                self.lost += seq - last_seq - 1
        self._last = (seq, published_ns)
        self.received += 1
        return True
