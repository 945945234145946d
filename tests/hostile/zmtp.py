"""ZeroMQ's wire protocol by hand (ZMTP 3.0, RFC 23), for messages that the library would not send."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
MORE, LONG, COMMAND = 1, 2, 4


def tcp(endpoint: str, timeout_s: float = 2.0) -> socket.socket:
    """A plain connection to a `tcp://HOST:PORT`, nothing said yet."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout_s)


def peer(endpoint: str, kind: str) -> socket.socket:
    """A connection that has shaken hands as a socket of `kind` ("PUSH", "SUB")."""
    link = tcp(endpoint)
    link.sendall(GREETING)
    _read(link, len(GREETING))
    ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind.encode()
    link.sendall(bytes([COMMAND, len(ready)]) + ready)
    size = _read(link, 2)[1]
    _read(link, size)
    return link


def head(size: int, flags: int = 0) -> bytes:
    """What goes before a frame of `size` bytes."""
    return struct.pack(">BQ", flags | LONG, size) if size > 255 else bytes([flags, size])


def whole(parts: list[bytes]) -> bytes:
    """A message as it goes over the wire."""
    flags = [MORE] * (len(parts) - 1) + [0]
    return b"".join(head(len(part), more) + part for part, more in zip(parts, flags, strict=True))


def waiting(link: socket.socket) -> int:
    """Bytes that were sent and have not reached the other side's socket (Linux: SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(link, termios.TIOCOUTQ, bytes(4)))[0])


def _read(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (piece := link.recv(size - len(data))):
            raise ConnectionError("the other side ended the connection")
        data += piece
    return data
