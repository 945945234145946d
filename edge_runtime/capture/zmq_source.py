"""Inputs from other processes over ZeroMQ (PULL): sensor values, sentences, JPEG frames, sound."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import ClassVar

import msgspec
import zmq
from msgspec import Struct

from edge_runtime import config, sockets
from edge_runtime.admit import MAX_JPEG_BYTES, Refusal
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.shares import Share
from edge_runtime.capture.source import Source
from edge_runtime.wire import MAX_INPUT_BYTES, InputMessage, decode_input

log = logging.getLogger("edge_runtime.capture")

RECEIVE_TIMEOUT_MS = 100
HIGH_WATER_MARK = 8
"""Messages that wait ahead of us for each sender; more wait at the sender, who stamps them or lets them go stale."""
MAX_PARTS = 2
BLOCK = 32
"""Messages taken in one go: of their frames, the newest of each stream is decoded."""
PAUSE_S = 0.002
"""After a block that may have left more waiting: a flood costs a bounded part of a core, and the loop gets its turn."""
MAX_PAUSE_S = 0.02
MIN_RATE_HZ = 20.0
"""Every stream may send this often, however rarely it is expected to."""


class ZmqSource(Source):
    """Binds a PULL socket. Whatever arrives is admitted, or refused and counted; nothing raises, nothing ends it.

    Senders are served in turn. A stream that sends more than `rate_limit` times what the bundle expects of it loses
    the surplus, counted as `over_rate` (0 = no limit).
    """

    ends: ClassVar[bool] = False
    passive: ClassVar[bool] = True

    def __init__(
        self, intake: Intake, bind: str, rate_limit: float = 0.0, mode: int = sockets.PRIVATE, group: str = ""
    ) -> None:
        super().__init__(f"zmq {bind}", intake)
        self._rate_limit = rate_limit
        self._shares: dict[str, Share] = {}
        self._junk_s = 0.0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVTIMEO, RECEIVE_TIMEOUT_MS)
        self._socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
        self._socket.setsockopt(zmq.LINGER, 0)
        # A part beyond this ends the sender's connection before it can fill our memory.
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_JPEG_BYTES)
        self._listener = sockets.bind(self._context, self._socket, bind, "source bind", mode, group)
        self.endpoint = self._listener.endpoint

    def serves(self, settings: Struct, reads: object) -> bool:
        """By the endpoint alone: it reads nothing of the streams, and the limit can change while it runs."""
        if self._failure is not None or not isinstance(settings, config.ZmqSource):
            return False
        own = self.settings
        if not isinstance(own, config.ZmqSource) or (own.mode, own.group) != (settings.mode, settings.group):
            return False
        return settings.bind in {own.bind, self.endpoint}

    def hand_over(self, intake: Intake) -> None:
        """See Source."""
        super().hand_over(intake)
        if isinstance(self.claimed, config.ZmqSource):
            self._rate_limit = self.claimed.rate_limit

    def _run(self) -> None:
        while not self.stopping.is_set():
            block = self._receive()
            start = time.monotonic()
            self._deliver_block(block)
            if self._junk_s:
                # Reading what no message may hold costs as much as its sender likes: as long a pause as it took.
                self.stopping.wait(min(MAX_PAUSE_S, self._junk_s + time.monotonic() - start))
                self._junk_s = 0.0
            elif len(block) >= HIGH_WATER_MARK:
                self.stopping.wait(PAUSE_S)

    def _receive(self) -> list[tuple[list[memoryview], int]]:
        """What has come, at most BLOCK messages, each with when it was taken; waits for the first."""
        block: list[tuple[list[memoryview], int]] = []
        flags = 0
        while len(block) < BLOCK:
            try:
                # As recv_multipart, which asks the socket about every part: that costs more than the parts.
                frame = self._socket.recv(flags, copy=False)
                parts = [frame]
                while frame.more and len(parts) <= MAX_PARTS:
                    frame = self._socket.recv(copy=False)
                    parts.append(frame)
                if frame.more:
                    self._skip()
                    flags = zmq.NOBLOCK
                    block.append(([part.buffer for part in parts], self._intake.clock.now_ns()))
                    break
            except zmq.Again:
                break
            block.append(([part.buffer for part in parts], self._intake.clock.now_ns()))
            flags = zmq.NOBLOCK
        return block

    def _skip(self) -> None:
        """Read the rest of a message that has too many parts, and let it go."""
        start = time.monotonic()
        while self._socket.recv(copy=False).more:
            pass
        self._junk_s += time.monotonic() - start

    def _deliver_block(self, block: list[tuple[list[memoryview], int]]) -> None:
        newest: dict[str, InputMessage] = {}
        opened: list[tuple[InputMessage, list[memoryview], int]] = []
        for parts, arrived_ns in block:
            try:
                message = self._open(parts)
            except Exception as error:  # whatever one message does, the next one is heard
                self._escaped(error)
                continue
            if message is not None and self._within_share(message.stream, arrived_ns):
                opened.append((message, parts, arrived_ns))
                if len(parts) == MAX_PARTS:
                    newest[message.stream] = message
        for message, parts, arrived_ns in opened:
            try:
                self._deliver(message, parts, arrived_ns, newest)
            except Exception as error:
                self._escaped(error)

    def _escaped(self, error: Exception) -> None:
        self._intake.unrouted(f"error_{type(error).__name__}", str(error))

    def _open(self, parts: list[memoryview]) -> InputMessage | None:
        if len(parts) > MAX_PARTS:
            self._intake.unrouted("malformed", "more than two frames, expected 1 or 2")
            return None
        if len(parts[0]) > MAX_INPUT_BYTES:
            self._intake.unrouted("too_big", f"{len(parts[0])} bytes of JSON, at most {MAX_INPUT_BYTES}")
            return None
        try:
            return decode_input(parts[0])
        except msgspec.DecodeError as error:
            self._intake.unrouted("malformed", str(error))
            return None

    def _within_share(self, stream: str, now_ns: int) -> bool:
        expected_hz = self._intake.expected_hz(stream) if self._rate_limit else None
        if expected_hz is None:
            return True
        rate_hz = max(MIN_RATE_HZ, self._rate_limit * expected_hz)
        share = self._shares.get(stream)
        if share is None or share.rate_hz != rate_hz:
            share = self._shares[stream] = Share(rate_hz, now_ns)
        if share.take(now_ns):
            return True
        self._intake.refuse(stream, Refusal("over_rate", f"more than {rate_hz:g} a second"))
        return False

    def _deliver(
        self, message: InputMessage, parts: list[memoryview], arrived_ns: int, newest: Mapping[str, InputMessage]
    ) -> None:
        # Its age counts from its arrival, not from when those before it were done with.
        stamp = arrived_ns if message.captured_ns is None else message.captured_ns
        if len(parts) == MAX_PARTS:
            if self._intake.newest_only(message.stream) and newest[message.stream] is not message:
                self._intake.replaced(message.stream)
            else:
                self._intake.put(message.stream, parts[1], stamp, message.id)
        elif (message.values is None) == (message.text is None):
            self._intake.unrouted("malformed", f"{message.stream}: needs `values` or `text`, not both")
        elif message.values is not None:
            self._intake.sample(message.stream, message.values, stamp, message.id)
        elif message.text is not None:
            self._intake.text(message.stream, message.text, message.lang, stamp, message.id)

    def _close(self) -> None:
        self._listener.forget()
        self._socket.close()
        self._context.term()
