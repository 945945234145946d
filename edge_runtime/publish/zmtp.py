"""The publishing side of ZMTP 3 (rfc.zeromq.org/spec/23), without security: bytes in, bytes and subscriptions out.

No socket is touched here, and whatever comes in costs bounded memory: a frame of a subscriber holds a prefix of a
topic, so one longer than MAX_FRAME_BYTES ends the conversation at its header, and prefixes beyond MAX_PREFIXES are
left out.
"""

from __future__ import annotations

import struct
from enum import Enum, auto

from edge_runtime.zmtp import (
    COMMAND,
    GREETING_BYTES,
    LONG,
    MORE,
    ProtocolError,
    check_greeting,
    frame,
    pong,
    ready,
    socket_type,
    split_command,
)

MAX_FRAME_BYTES = 1024
"""Topics are shorter; commands of the handshake and heartbeats too."""
MAX_PREFIXES = 64
"""One subscriber's subscriptions at a time."""

SUBSCRIBERS = (b"SUB", b"XSUB")


def message(topic: bytes, payload: bytes) -> bytes:
    """A message of two frames, as it goes over the wire."""
    return frame(topic, MORE) + frame(payload)


READY = ready(b"PUB")


class _Phase(Enum):
    GREETING = auto()
    HANDSHAKE = auto()
    OPEN = auto()


class Conversation:
    """What one subscriber has said so far. Send GREETING first; then feed what comes and send what that gives."""

    def __init__(self) -> None:
        self.prefixes: frozenset[bytes] = frozenset()
        """What it is subscribed to."""
        self._phase = _Phase.GREETING
        self._waiting = b""
        self._inside = False

    @property
    def open(self) -> bool:
        """Whether the handshake is done."""
        return self._phase is _Phase.OPEN

    def feed(self, data: bytes) -> tuple[bytes, frozenset[bytes]]:
        """What to answer, and the prefixes that were subscribed to with `data` (anew, perhaps).

        Raises ProtocolError, after which the conversation is over. Holds at most `data` and one frame.
        """
        waiting, answer = self._waiting + data, b""
        fresh: set[bytes] = set()
        prefixes = set(self.prefixes)
        at = 0
        if self._phase is _Phase.GREETING:
            check_greeting(waiting[:GREETING_BYTES])
            if len(waiting) < GREETING_BYTES:
                self._waiting = waiting
                return b"", frozenset()
            at, answer = GREETING_BYTES, READY
            self._phase = _Phase.HANDSHAKE
        while (header := _header(waiting, at)) is not None:
            flags, start, size = header
            if start + size > len(waiting):
                break
            body = waiting[start : start + size]
            at = start + size
            if flags & COMMAND:
                answer += self._command(body, prefixes, fresh)
            elif self._phase is not _Phase.OPEN:
                raise ProtocolError("no_handshake")
            else:
                if not self._inside and body[:1] in (b"\x00", b"\x01"):
                    _subscribe(body[1:], body[0] == 1, prefixes, fresh)
                self._inside = bool(flags & MORE)
        self._waiting = waiting[at:]
        self.prefixes = frozenset(prefixes)
        return answer, frozenset(fresh & prefixes)

    def _command(self, body: bytes, prefixes: set[bytes], fresh: set[bytes]) -> bytes:
        name, data = split_command(body)
        if self._phase is _Phase.HANDSHAKE:
            if name != b"READY" or socket_type(data) not in SUBSCRIBERS:
                raise ProtocolError("no_subscriber")
            self._phase = _Phase.OPEN
        elif name == b"PING":
            return pong(data)
        elif name == b"SUBSCRIBE":
            _subscribe(data, True, prefixes, fresh)
        elif name == b"CANCEL":
            _subscribe(data, False, prefixes, fresh)
        elif name == b"ERROR":
            raise ProtocolError("error")
        return b""


def _header(waiting: bytes, at: int) -> tuple[int, int, int] | None:
    """Flags, where the body starts, its size; None while the header is not whole."""
    left = len(waiting) - at
    if left < 1:
        return None
    flags = waiting[at]
    if flags & ~(MORE | LONG | COMMAND):
        raise ProtocolError("no_frame")
    if flags & LONG:
        if left < 9:
            return None
        size, start = struct.unpack_from(">Q", waiting, at + 1)[0], at + 9
    else:
        if left < 2:
            return None
        size, start = waiting[at + 1], at + 2
    if size > MAX_FRAME_BYTES:
        raise ProtocolError("too_big")
    return flags, start, size


def _subscribe(prefix: bytes, on: bool, prefixes: set[bytes], fresh: set[bytes]) -> None:
    if not on:
        prefixes.discard(prefix)
    elif prefix in prefixes or len(prefixes) < MAX_PREFIXES:
        prefixes.add(prefix)
        fresh.add(prefix)
