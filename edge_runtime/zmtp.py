"""What both sides of ZMTP 3 have in common (rfc.zeromq.org/spec/23), without security: greeting, frames, commands."""

from __future__ import annotations

import struct

MORE, LONG, COMMAND = 1, 2, 4
MAX_COMMAND_BYTES = 1024
"""Commands of the handshake and heartbeats are shorter."""
GREETING_BYTES = 64
GREETING = b"\xff" + bytes(8) + b"\x7f" + bytes((3, 0)) + b"NULL".ljust(20, b"\0") + bytes(32)
"""What each side sends first."""
_SIGNATURE_BYTES = 10
_VERSION_AT, _MECHANISM = 10, slice(12, 32)


class ProtocolError(Exception):
    """What came in is nothing that this peer may send; the text is a short reason."""


def frame(body: bytes, flags: int = 0) -> bytes:
    """One frame with its header."""
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return struct.pack(">BQ", flags | LONG, len(body)) + body


def command(name: bytes, data: bytes = b"") -> bytes:
    """One command frame."""
    return frame(bytes((len(name),)) + name + data, COMMAND)


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
    """The answer to a PING with this data: a time to live of two bytes, and what is to come back."""
    return command(b"PONG", data[2:18])


def split_command(body: bytes) -> tuple[bytes, bytes]:
    """Name and data."""
    name_end = 1 + body[0] if body else 1
    return body[1:name_end], body[name_end:]


def check_greeting(start: bytes) -> None:
    """Raises ProtocolError as soon as the first bytes, at most GREETING_BYTES, show another protocol, an older version
    or another security: such a peer is not waited for.
    """
    if (start and start[0] != 0xFF) or (len(start) >= _SIGNATURE_BYTES and not start[9] & 1):
        raise ProtocolError("no_zmtp")
    if len(start) > _VERSION_AT and start[_VERSION_AT] < 3:
        raise ProtocolError("old_zmtp")
    if len(start) >= GREETING_BYTES and start[_MECHANISM].rstrip(b"\0") != b"NULL":
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
