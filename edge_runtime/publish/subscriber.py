"""Read decisions from Python."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec
import zmq

from edge_runtime import endpoints, sockets
from edge_runtime.errors import ConfigError
from edge_runtime.wire import DecisionMessage, StatusMessage

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5560"
PACKET_BYTES = 256 << 10
"""More than a sink of kind `unix` can send at once."""
RETRY_S = 0.05


class _Zmq:
    """Messages of a sink of kind `zmq`."""

    def __init__(self, endpoint: str, topics: Iterable[bytes], high_water_mark: int, keys: Path | None) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, high_water_mark)
        self._socket.setsockopt(zmq.LINGER, 0)
        for topic in topics:
            self._socket.subscribe(topic)
        try:
            sockets.connect(self._socket, endpoint, keys)
        except BaseException:
            self.close()
            raise

    def receive(self, timeout_s: float | None) -> tuple[bytes, bytes] | None:
        """Topic and JSON, or None after `timeout_s`."""
        # A receive with a time limit; polling first would cost a second system call per message.
        self._socket.setsockopt(zmq.RCVTIMEO, -1 if timeout_s is None else int(1000 * timeout_s))
        try:
            # Always two frames. recv_multipart would ask the socket whether more follow, at more than their cost.
            return self._socket.recv(), self._socket.recv()
        except zmq.Again:
            return None

    def close(self) -> None:
        if not self._socket.closed:
            self._socket.close()
            self._context.term()


class _Packets:
    """Messages of a sink of kind `unix`. Connects when there is somebody to connect to, again and again."""

    def __init__(self, endpoint: str, topics: tuple[bytes, ...]) -> None:
        parsed = endpoints.parse(endpoint)
        if not isinstance(parsed, endpoints.Ipc):
            raise ConfigError(f"endpoint {endpoint!r}: expected ipc://PATH, as in the sink of kind unix")
        self._address = parsed.address
        self._topics = topics
        self._socket: socket.socket | None = None
        self._buffer = bytearray(PACKET_BYTES)

    def receive(self, timeout_s: float | None) -> tuple[bytes, bytes] | None:
        """Topic and JSON, or None after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._socket = self._socket or self._connected()
            size = 0
            if self._socket is not None:
                self._socket.settimeout(left_s)
                try:
                    size = self._socket.recv_into(self._buffer)
                except (TimeoutError, BlockingIOError):
                    return None
                except OSError:
                    pass
            if not size:  # there is no runtime, or it has gone
                self.close()
                if left_s == 0.0:
                    return None
                time.sleep(RETRY_S if left_s is None else min(RETRY_S, left_s))
                continue
            topic, _, payload = bytes(self._buffer[:size]).partition(b"\0")
            if topic.startswith(self._topics):
                return topic, payload

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket | None:
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connecting.setblocking(False)
        try:
            connecting.connect(self._address)
        except OSError:
            connecting.close()
            return None
        return connecting


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
        kind: Literal["zmq", "unix"] = "zmq",
        keys: str | Path | None = None,
    ) -> None:
        """`kind`: of the sink at `endpoint`; `keys`: this client's file, where the sink has keys. Raises ConfigError
        if that is no endpoint, or the keys cannot be used."""
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
        topics = tuple((prefix + name).encode() for prefix in ("decision.", "status."))
        self._messages: _Packets | _Zmq
        if kind == "unix":
            self._messages = _Packets(endpoint, topics)
        else:
            self._messages = _Zmq(endpoint, topics, high_water_mark, None if keys is None else Path(keys))

    @property
    def stale(self) -> bool:
        """Whether no decision arrived for `stale_after_s`: what was said last must not be acted on any more."""
        return time.monotonic_ns() - self.received_ns > self._stale_after_ns

    def receive(self, timeout_s: float | None = None) -> DecisionMessage | StatusMessage | None:
        """The next decision or status, or None after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            found = self._messages.receive(left_s)
            if found is None:
                return None
            topic, payload = found
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
        self._messages.close()

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
