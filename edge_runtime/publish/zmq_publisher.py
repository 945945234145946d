"""Publish over ZeroMQ: two frames (topic, UTF-8 JSON), with the last message of each topic for new subscribers."""

from __future__ import annotations

import msgspec
import zmq

from edge_runtime import sockets
from edge_runtime.wire import DecisionMessage, StatusMessage

CLOSE_LINGER_MS = 500


class ZmqPublisher:
    """An XPUB socket. Loop thread only.

    A subscriber that reads too slowly loses its own messages beyond the high-water mark; nobody else notices. A new
    subscription makes the last message of its topics go out once more, to all: the same `seq` twice is no new decision.
    """

    def __init__(self, bind: str, high_water_mark: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.SNDHWM, high_water_mark)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._socket.setsockopt(zmq.LINGER, CLOSE_LINGER_MS)
        self._encoder = msgspec.json.Encoder()
        self._last: dict[bytes, bytes] = {}
        self.endpoint = sockets.bind(self._context, self._socket, bind, "publish.bind")
        """Where it really is bound."""

    def decision(self, message: DecisionMessage) -> None:
        self._send(b"decision." + message.name.encode(), self._encoder.encode(message))

    def status(self, message: StatusMessage) -> None:
        self._send(b"status." + message.name.encode(), self._encoder.encode(message))

    def serve(self) -> None:
        """Answer new subscriptions with the last values."""
        while True:
            try:
                request = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if request[:1] == b"\x01":
                for topic, payload in self._last.items():
                    if topic.startswith(request[1:]):
                        self._socket.send_multipart((topic, payload))

    def close(self) -> None:
        if not self._socket.closed:
            self._socket.close()
            self._context.term()

    def _send(self, topic: bytes, payload: bytes) -> None:
        # XPUB never blocks: it drops, per subscriber, at the high-water mark.
        self._socket.send(topic, zmq.SNDMORE)
        self._socket.send(payload)
        self._last[topic] = payload
