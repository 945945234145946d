"""Publish as packets over a Unix socket, for programs on this host that act on decisions: no thread in between.

A packet is the topic, a zero byte and the UTF-8 JSON: the bytes of the two frames that ZeroMQ's subscribers get. The
socket is of type SOCK_SEQPACKET: a packet arrives whole or not at all, in order, and a receiver that goes is noticed.
"""

from __future__ import annotations

import errno
import logging
import socket

from edge_runtime import sockets
from edge_runtime.publish.sink import Published, Sink

log = logging.getLogger("edge_runtime.publish")

MAX_RECEIVERS = 16
SOCKET_BYTES = 64 << 10
"""What the kernel keeps for a receiver that does not read (it takes twice that, its own notes included)."""
SEPARATOR = b"\0"
"""Between topic and JSON, neither of which can hold one."""


class PacketPublisher(Sink):
    """Listens for receivers, which connect and read. `publish` never waits: a receiver that has not read what the
    kernel keeps for it misses the packet, which is counted, and nobody else notices.

    A new receiver gets the last decision and status at once. At most MAX_RECEIVERS; one more is turned away. What
    receivers send is not read.
    """

    def __init__(self, bind: str, mode: int = 0o666, group: str = "") -> None:
        """Raises ConfigError, HeldError where somebody listens there already."""
        self._listener = sockets.listen(bind, "sink bind", mode, group, kind=socket.SOCK_SEQPACKET)
        self.endpoint = self._listener.endpoint
        self._listener.socket.setblocking(False)
        self._receivers: list[socket.socket] = []
        self._last: dict[bytes, bytes] = {}
        self._missed = 0
        self._turned_away = False

    @property
    def missed(self) -> int:
        return self._missed

    def publish(self, item: Published) -> None:
        packet = self._last[item.topic] = item.topic + SEPARATOR + item.payload
        for receiver in tuple(self._receivers):
            self._send(receiver, packet)

    def serve(self) -> None:
        while True:
            try:
                receiver, _ = self._listener.socket.accept()
            except OSError:  # nobody waits, it has gone again, or the process has no file descriptor left
                return
            if len(self._receivers) < MAX_RECEIVERS:
                self._welcome(receiver)
            else:
                receiver.close()
                if not self._turned_away:
                    log.warning(
                        "publish %s: more than %d receivers; others are turned away", self.endpoint, MAX_RECEIVERS
                    )
                self._turned_away = True

    def close(self) -> None:
        self._listener.close()
        for receiver in self._receivers:
            receiver.close()  # what was sent can still be read
        self._receivers.clear()

    def _welcome(self, receiver: socket.socket) -> None:
        receiver.setblocking(False)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        receiver.shutdown(socket.SHUT_RD)
        self._receivers.append(receiver)
        for packet in self._last.values():
            self._send(receiver, packet)

    def _send(self, receiver: socket.socket, packet: bytes) -> None:
        try:
            receiver.send(packet, socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EMSGSIZE, errno.ENOBUFS):
                self._missed += 1
            else:  # it has gone
                receiver.close()
                if receiver in self._receivers:
                    self._receivers.remove(receiver)
                self._turned_away = False
