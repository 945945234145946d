"""The publishing side of ZMTP 3 (rfc.zeromq.org/spec/23): bytes in, bytes and subscriptions out.

No socket is touched here, and whatever comes in costs bounded memory: a frame of a subscriber holds a prefix of a
topic, so one longer than MAX_FRAME_BYTES ends the conversation at its header, and prefixes beyond MAX_PREFIXES are
left out.
"""

from __future__ import annotations

import struct

from edge_runtime.keyring import Client
from edge_runtime.zmtp import (
    COMMAND,
    GREETING_BYTES,
    LONG,
    MORE,
    Mechanism,
    Null,
    ProtocolError,
    check_greeting,
    frame,
    pong,
    ready,
    split_command,
)

MAX_FRAME_BYTES = 1024
"""Topics are shorter; commands of the handshake and heartbeats too."""
MAX_PREFIXES = 64
"""One subscriber's subscriptions at a time."""

SUBSCRIBERS = (b"SUB", b"XSUB")


def message(topic: bytes, payload: bytes) -> bytes:
    """A message of two frames, as it goes over the wire without security."""
    return frame(topic, MORE) + frame(payload)


OWN, STRANGER = b"PUB", "no_subscriber"
READY = ready(OWN)


class Conversation:
    """What one subscriber has said so far. Send `greeting` first; then feed what comes and send what that gives."""

    def __init__(self, mechanism: Mechanism | None = None) -> None:
        """No `mechanism`: no security."""
        self.prefixes: frozenset[bytes] = frozenset()
        """What it is subscribed to."""
        self._mechanism = mechanism or Null(OWN, SUBSCRIBERS, STRANGER)
        self._greeted = False
        self._waiting = b""
        self._inside = False

    @property
    def greeting(self) -> bytes:
        return self._mechanism.greeting

    @property
    def open(self) -> bool:
        """Whether the handshake is done."""
        return self._mechanism.open

    @property
    def client(self) -> Client | None:
        """Who it is, where keys say so."""
        return self._mechanism.client

    def seal(self, topic: bytes, payload: bytes) -> bytes:
        """A message of two frames, as this subscriber can read it, once it is open. One call at a time, `feed`
        included."""
        return self._mechanism.seal((MORE, topic), (0, payload))

    def feed(self, data: bytes) -> tuple[bytes, frozenset[bytes]]:
        """What to answer, and the prefixes that were subscribed to with `data` (anew, perhaps).

        Raises ProtocolError, after which the conversation is over. Holds at most `data` and one frame.
        """
        waiting, answer = self._waiting + data, b""
        fresh: set[bytes] = set()
        prefixes = set(self.prefixes)
        at = 0
        if not self._greeted:
            check_greeting(waiting[:GREETING_BYTES], self._mechanism.name)
            if len(waiting) < GREETING_BYTES:
                self._waiting = waiting
                return b"", frozenset()
            at, answer = GREETING_BYTES, self._mechanism.begin()
            self._greeted = True
        while (header := _header(waiting, at)) is not None:
            flags, start, size = header
            if start + size > len(waiting):
                break
            body = waiting[start : start + size]
            at = start + size
            if not self.open:
                if not flags & COMMAND:
                    raise ProtocolError("no_handshake")
                answer += self._mechanism.handshake(body)
                continue
            flags, meant = self._mechanism.unseal(flags, body)
            body = bytes(meant)
            if flags & COMMAND:
                answer += self._command(body, prefixes, fresh)
            else:
                if not self._inside and body[:1] in (b"\x00", b"\x01"):
                    _subscribe(body[1:], body[0] == 1, prefixes, fresh)
                self._inside = bool(flags & MORE)
        self._waiting = waiting[at:]
        self.prefixes = frozenset(prefixes)
        return answer, frozenset(fresh & prefixes)

    def _command(self, body: bytes, prefixes: set[bytes], fresh: set[bytes]) -> bytes:
        name, data = split_command(body)
        if name == b"PING":
            return self._mechanism.seal((COMMAND, pong(data)))
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
