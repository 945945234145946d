"""What both sides of ZMTP 3 have in common (rfc.zeromq.org/spec/23): greeting, frames, commands, and what a security
mechanism is. The one without security is here, the other one in `curve`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from typing import Protocol

from edge_runtime.keyring import Client, Keyring

MORE, LONG, COMMAND = 1, 2, 4
MAX_COMMAND_BYTES = 1024
"""Commands of the handshake and heartbeats are shorter."""
GREETING_BYTES = 64
_SIGNATURE_BYTES = 10
_VERSION_AT, _MECHANISM = 10, slice(12, 32)


def greeting(mechanism: bytes, as_server: bool = False) -> bytes:
    """What each side sends first."""
    return b"\xff" + bytes(8) + b"\x7f" + bytes((3, 0)) + mechanism.ljust(20, b"\0") + bytes((as_server,)) + bytes(31)


GREETING = greeting(b"NULL")


class ProtocolError(Exception):
    """What came in is nothing that this peer may send; the text is a short reason."""


def frame(body: bytes, flags: int = 0) -> bytes:
    """One frame with its header."""
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return struct.pack(">BQ", flags | LONG, len(body)) + body


def command_body(name: bytes, data: bytes = b"") -> bytes:
    """What is in a command's frame."""
    return bytes((len(name),)) + name + data


def command(name: bytes, data: bytes = b"") -> bytes:
    """One command frame."""
    return frame(command_body(name, data), COMMAND)


def properties(**named: bytes) -> bytes:
    """The metadata of a READY command; `_` in a name stands for `-`."""
    out = b""
    for name, value in named.items():
        key = name.replace("_", "-").encode()
        out += bytes((len(key),)) + key + struct.pack(">I", len(value)) + value
    return out


def ready(socket_type: bytes) -> bytes:
    """The command that ends the handshake."""
    return command(b"READY", properties(Socket_Type=socket_type))


def pong(data: bytes) -> bytes:
    """The body of the answer to a PING with this data: a time to live of two bytes, and what is to come back."""
    return command_body(b"PONG", data[2:18])


def split_command(body: bytes) -> tuple[bytes, bytes]:
    """Name and data."""
    name_end = 1 + body[0] if body else 1
    return body[1:name_end], body[name_end:]


def check_greeting(start: bytes, mechanism: bytes = b"NULL") -> None:
    """Raises ProtocolError as soon as the first bytes, at most GREETING_BYTES, show another protocol, an older version
    or another security than `mechanism`: such a peer is not waited for.
    """
    if (start and start[0] != 0xFF) or (len(start) >= _SIGNATURE_BYTES and not start[9] & 1):
        raise ProtocolError("no_zmtp")
    if len(start) > _VERSION_AT and start[_VERSION_AT] < 3:
        raise ProtocolError("old_zmtp")
    if len(start) >= GREETING_BYTES and start[_MECHANISM].rstrip(b"\0") != mechanism:
        raise ProtocolError("other_security")


def socket_type(metadata: bytes) -> bytes:
    """Of a READY command's data; empty where it names none."""
    at = 0
    while at < len(metadata):
        name_end = at + 1 + metadata[at]
        name = metadata[at + 1 : name_end]
        if name_end + 4 > len(metadata):
            break
        (size,) = struct.unpack_from(">I", metadata, name_end)
        value_at = name_end + 4
        if value_at + size > len(metadata):
            break
        if name.lower() == b"socket-type":
            return metadata[value_at : value_at + size]
        at = value_at + size
    return b""


class Mechanism(Protocol):
    """The security of one connection, this side's. One thread but for `seal`, which has its caller's lock."""

    name: bytes
    greeting: bytes
    open: bool
    """Whether the handshake is done."""
    client: Client | None
    """Who it is, where keys say so."""
    overhead: int
    """Bytes that a frame of a message is longer by on the wire."""

    def begin(self) -> bytes:
        """What to answer to the other side's greeting."""
        ...

    def handshake(self, body: bytes) -> bytes:
        """What to answer to a command before it is open. Raises ProtocolError."""
        ...

    def unseal(self, flags: int, body: bytes | memoryview) -> tuple[int, bytes | memoryview]:
        """The flags and the body that were meant, of a frame when it is open. Raises ProtocolError."""
        ...

    def seal(self, *frames: tuple[int, bytes]) -> bytes:
        """Frames (flags, body) as they go over the wire."""
        ...


class Null:
    """No security: everybody who speaks is heard."""

    name = b"NULL"
    greeting = GREETING
    client: Client | None = None
    overhead = 0

    def __init__(self, own: bytes, others: Collection[bytes], stranger: str) -> None:
        """This side's socket type, those that may come, and the reason that others hear."""
        self.open = False
        self._own, self._others, self._stranger = own, others, stranger

    def begin(self) -> bytes:
        """See Mechanism."""
        return ready(self._own)

    def handshake(self, body: bytes) -> bytes:
        """See Mechanism."""
        name, data = split_command(body)
        if name != b"READY" or socket_type(data) not in self._others:
            raise ProtocolError(self._stranger)
        self.open = True
        return b""

    def unseal(self, flags: int, body: bytes | memoryview) -> tuple[int, bytes | memoryview]:
        """See Mechanism."""
        return flags, body

    def seal(self, *frames: tuple[int, bytes]) -> bytes:
        """See Mechanism."""
        return b"".join(frame(body, flags) for flags, body in frames)


def mechanisms(
    own: bytes, others: Collection[bytes], stranger: str, keyring: Keyring | None
) -> Callable[[], Mechanism]:
    """What makes a new connection's mechanism: CURVE where there is a `keyring`."""
    if keyring is None:
        return lambda: Null(own, others, stranger)
    from edge_runtime.curve import CurveServer

    return lambda: CurveServer(own, others, stranger, keyring)
