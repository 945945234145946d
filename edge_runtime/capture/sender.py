"""One connection that messages come in by: the pulling side of ZMTP 3 (rfc.zeromq.org/spec/23).

Bytes are received straight to where they are needed, and nothing that a sender does costs memory without a bound: a
frame that is too long, or a message of too many, is refused at its header and its bytes are let go as they come.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections import deque
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from edge_runtime import zmtp
from edge_runtime.keyring import Client
from edge_runtime.zmtp import COMMAND, LONG, MORE, Mechanism, Null, ProtocolError

SMALL_BYTES = 16 << 10
"""Received at once of frames that are shorter than this: some hundred small messages."""
LARGE_BYTES = 1 << 20
"""Received at once of one long frame."""
MAX_SURPLUS_PARTS = 64
"""A sender that puts some frames too many into a message loses the message; one that goes on loses its connection."""
MAX_MARKS = 64
OWN, OTHERS, STRANGER = b"PULL", (b"PUSH",), "no_pusher"
_HEADER_BYTES = 9
_LENGTH = struct.Struct(">Q")


class Limits(NamedTuple):
    """How long the frames of a message may be, one by one; there are no more of them."""

    parts: tuple[int, ...]
    """Bytes of each."""
    longest: int
    """A frame beyond this ends the connection; what is between is let go."""


class Arrived(NamedTuple):
    """A whole message, or why there is none."""

    parts: tuple[bytes | memoryview, ...]
    at_ns: int
    """No later than its first byte arrived here, by the receiver's clock."""
    refused: str | None = None
    """`malformed` (too many frames) or `too_big`."""
    detail: str = ""


class Sender:
    """What one connection has sent so far. One thread."""

    def __init__(
        self,
        connection: socket.socket,
        key: Hashable,
        limits: Limits,
        now_ns: int,
        mechanism: Mechanism | None = None,
    ) -> None:
        """`key` says whose connection it is; `now_ns` is no later than its first byte. No `mechanism`: no security."""
        self.socket = connection
        self._mechanism = mechanism or Null(OWN, OTHERS, STRANGER)
        self._key = key
        self.heard_ns = now_ns
        """When bytes came last."""
        self._limits = limits
        self._greeted = False
        self._buffer = bytearray(SMALL_BYTES + _HEADER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._parts: list[bytes | memoryview] = []
        self._refused: tuple[str, str] | None = None
        self._surplus = 0
        self._skip = 0
        """Bytes of a refused frame that are still to come."""
        self._more = False
        self.wants = 0
        """Bytes of a long frame that has begun, until `grant`."""
        self._large: memoryview | None = None
        self._filled = 0
        self._received = 0
        """Bytes taken from the socket so far."""
        self._marks: deque[tuple[int, int]] = deque([(0, now_ns)])
        """(offset, time): bytes from this offset on had not arrived at that time."""
        self._message_ns = now_ns

    @property
    def open(self) -> bool:
        """Whether the handshake is done."""
        return self._mechanism.open

    @property
    def client(self) -> Client | None:
        """Who it is, where keys say so."""
        return self._mechanism.client

    @property
    def key(self) -> Hashable:
        """Whose connection it is: a known client's connections are one sender's."""
        return self._key if self.client is None else ("client", self.client.name)

    @property
    def holds(self) -> int:
        """Bytes set aside for a long frame that is still coming."""
        return 0 if self._large is None else len(self._large)

    def grant(self) -> None:
        """Set aside what a long frame wants. Not zeroed: no memory is taken before bytes come."""
        begin = self._start + _HEADER_BYTES
        self._large = np.empty(self.wants, np.uint8).data
        self.wants, self._filled = 0, self._end - begin
        self._large[: self._filled] = self._view[begin : self._end]
        self._start = self._end = 0

    def was_empty(self, at_ns: int) -> None:
        """Nothing waited in the socket at `at_ns`."""
        self._mark(self._received, at_ns)

    def receive(self, now_ns: int, messages: list[Arrived], most: int = LARGE_BYTES) -> bytes:
        """Take what has come, about `most` bytes; add the messages that are whole now to `messages`. What to answer.

        Not to be called while it `wants`. `now_ns` is read before the call. Raises ProtocolError (the conversation is
        over: what was whole before the break has been added, nothing behind it counts), OSError, EOFError.
        """
        if self._large is not None:
            target = self._large[self._filled : self._filled + most]
        else:
            if self._start:  # what is left over of a frame goes to the front
                left = self._end - self._start
                self._view[:left] = self._view[self._start : self._end]
                self._start, self._end = 0, left
            target = self._view[self._end :]
        count = self.socket.recv_into(target)
        if count == 0:
            raise EOFError
        self._received += count
        self.heard_ns = now_ns
        waiting = 0 if count < len(target) else self._waiting()
        self._mark(self._received + waiting, now_ns)
        if self._large is None:
            self._end += count
            return self._parse(messages)
        self._filled += count
        if self._filled == len(self._large):
            whole, self._large = self._large, None
            return self._take(whole, messages)
        return b""

    def _parse(self, messages: list[Arrived]) -> bytes:
        """Add what is whole in the buffer to `messages`; what to answer."""
        answer = b"" if self._greeted else self._greet()
        while self._greeted and self._start < self._end:
            if self._skip:
                gone = min(self._skip, self._end - self._start)
                self._start += gone
                self._skip -= gone
                if not self._skip:
                    self._finish(messages)
                continue
            flags = self._buffer[self._start]
            if flags & ~(MORE | LONG | COMMAND):
                raise ProtocolError("no_frame")
            begin = self._start + (_HEADER_BYTES if flags & LONG else 2)
            if begin > self._end:
                break
            size = _LENGTH.unpack_from(self._buffer, self._start + 1)[0] if flags & LONG else self._buffer[begin - 1]
            if flags & COMMAND or not self.open:
                if not flags & COMMAND or size > zmtp.MAX_COMMAND_BYTES:
                    raise ProtocolError("too_big" if self.open else "no_handshake")
                if begin + size > self._end:
                    break
                answer += self._command(bytes(self._view[begin : begin + size]))
                self._start = begin + size
            else:
                said = self._part(flags, begin, size, messages)
                if said is None:
                    break
                answer += said
        return answer

    def _part(self, flags: int, begin: int, size: int, messages: list[Arrived]) -> bytes | None:
        """Take up the frame whose body begins there: what to answer; None if the rest of it is still to come."""
        if not self._parts and self._refused is None:
            self._message_ns = self._arrival(self._received - (self._end - self._start))
        self._more = bool(flags & MORE)
        number, known = len(self._parts), self._limits.parts
        if self._refused is not None or number >= len(known) or size > known[number] + self._mechanism.overhead:
            if self._mechanism.overhead:  # whether more follows can be seen in a whole frame only
                raise ProtocolError("malformed" if number >= len(known) else "too_big")
            self._refuse(number, size)
            self._start, self._skip = begin, size
            if not size:
                self._finish(messages)
            return b""
        if begin + size <= self._end:
            self._start = begin + size
            return self._take(bytes(self._view[begin : self._start]), messages)
        if size > SMALL_BYTES:
            self.wants = size
        return None

    def _greet(self) -> bytes:
        greeting = bytes(self._view[self._start : min(self._end, zmtp.GREETING_BYTES)])
        zmtp.check_greeting(greeting, self._mechanism.name)
        if len(greeting) < zmtp.GREETING_BYTES:
            return b""
        self._start += zmtp.GREETING_BYTES
        self._greeted = True
        return self._mechanism.begin()

    def _command(self, body: bytes) -> bytes:
        if not self.open:
            return self._mechanism.handshake(body)
        return self._said(*zmtp.split_command(bytes(self._mechanism.unseal(COMMAND, body)[1])))

    def _said(self, name: bytes, data: bytes) -> bytes:
        if name == b"PING":
            return self._mechanism.seal((COMMAND, zmtp.pong(data)))
        elif name == b"ERROR":
            raise ProtocolError("error")
        return b""

    def _refuse(self, number: int, size: int) -> None:
        if size > self._limits.longest:
            raise ProtocolError("too_big")
        if self._refused is None:
            if number >= len(self._limits.parts):
                self._refused = "malformed", f"more than {len(self._limits.parts)} frames"
            else:
                self._refused = "too_big", f"{size} bytes, at most {self._limits.parts[number]} are read"
            self._parts.clear()
        self._surplus += 1
        if self._surplus > MAX_SURPLUS_PARTS:
            raise ProtocolError("malformed")

    def _take(self, part: bytes | memoryview, messages: list[Arrived]) -> bytes:
        """A whole frame: it belongs to the message, or is a command and has an answer."""
        if self._mechanism.overhead:
            flags, part = self._mechanism.unseal(MORE if self._more else 0, part)
            if flags & COMMAND:
                return self._said(*zmtp.split_command(bytes(part)))
            self._more = bool(flags & MORE)
        self._parts.append(part)
        self._finish(messages)
        return b""

    def _finish(self, messages: list[Arrived]) -> None:
        """At the end of a frame: the message, if that was its last."""
        if self._more:
            return
        refused = self._refused or ()
        messages.append(Arrived(tuple(self._parts), self._message_ns, *refused))
        self._parts.clear()
        self._refused, self._surplus = None, 0

    def _waiting(self) -> int:
        """Bytes in the socket."""
        answer = fcntl.ioctl(self.socket.fileno(), termios.FIONREAD, b"\0\0\0\0")
        return int(struct.unpack("i", answer)[0])

    def _mark(self, offset: int, at_ns: int) -> None:
        """Bytes from `offset` on came after `at_ns`. Where there are too many marks one between goes: older is safe."""
        if self._marks[-1][0] == offset or len(self._marks) >= MAX_MARKS:
            self._marks.pop()
        self._marks.append((offset, at_ns))

    def _arrival(self, offset: int) -> int:
        """No later than the byte at `offset` arrived."""
        while len(self._marks) > 1 and self._marks[1][0] <= offset:
            self._marks.popleft()
        return self._marks[0][1]
