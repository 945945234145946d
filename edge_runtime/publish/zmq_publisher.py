"""Publish over ZeroMQ: two frames (topic, UTF-8 JSON), with the last message of each topic for new subscribers."""

from __future__ import annotations

import zmq

from edge_runtime import sockets
from edge_runtime.publish.sink import Published, Sink

CLOSE_LINGER_MS = 500


class ZmqPublisher(Sink):
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
        self._last: dict[bytes, bytes] = {}
        self.endpoint = sockets.bind(self._context, self._socket, bind, "publish.bind")
        """Where it really is bound."""

    def publish(self, item: Published) -> None:
        # XPUB never blocks: it drops, per subscriber, at the high-water mark.
        self._socket.send(item.topic, zmq.SNDMORE)
        self._socket.send(item.payload)
        self._last[item.topic] = item.payload

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
