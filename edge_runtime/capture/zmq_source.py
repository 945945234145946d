"""Inputs from other processes over ZeroMQ (PULL): sensor values, sentences, JPEG frames, sound."""

from __future__ import annotations

import logging
from typing import ClassVar

import msgspec
import zmq
from msgspec import Struct

from edge_runtime import config, sockets
from edge_runtime.admit import MAX_JPEG_BYTES
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.source import Source
from edge_runtime.wire import MAX_INPUT_BYTES, InputMessage, decode_input

log = logging.getLogger("edge_runtime.capture")

RECEIVE_TIMEOUT_MS = 100
INPUT_HIGH_WATER_MARK = 1000


class ZmqSource(Source):
    """Binds a PULL socket. Whatever arrives is admitted, or refused and counted; nothing raises."""

    ends: ClassVar[bool] = False
    passive: ClassVar[bool] = True

    def __init__(self, intake: Intake, bind: str) -> None:
        super().__init__(f"zmq {bind}", intake)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVTIMEO, RECEIVE_TIMEOUT_MS)
        self._socket.setsockopt(zmq.RCVHWM, INPUT_HIGH_WATER_MARK)
        self._socket.setsockopt(zmq.LINGER, 0)
        # A part beyond this ends the sender's connection before it can fill our memory.
        self._socket.setsockopt(zmq.MAXMSGSIZE, 2 * MAX_JPEG_BYTES)
        self.endpoint = sockets.bind(self._context, self._socket, bind, "source bind")

    def serves(self, settings: Struct, reads: object) -> bool:
        """By the endpoint alone: it reads nothing of the streams."""
        if self._failure is not None or type(settings) is not type(self.settings):
            return False
        return self.settings == settings or settings == config.ZmqSource(self.endpoint)

    def _run(self) -> None:
        while not self.stopping.is_set():
            try:
                # As recv_multipart, which asks the socket about every part: that costs more than the parts.
                frames = [self._socket.recv(copy=False)]
                while frames[-1].more:
                    frames.append(self._socket.recv(copy=False))
            except zmq.Again:
                continue
            self._deliver([frame.buffer for frame in frames])

    def _deliver(self, parts: list[memoryview]) -> None:
        if len(parts) > 2:
            self._intake.unrouted("malformed", f"{len(parts)} frames, expected 1 or 2")
            return
        if len(parts[0]) > MAX_INPUT_BYTES:
            self._intake.unrouted("too_big", f"{len(parts[0])} bytes of JSON, at most {MAX_INPUT_BYTES}")
            return
        try:
            message = decode_input(parts[0])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._intake.unrouted("malformed", str(error))
            return
        if len(parts) == 2:
            self._intake.put(message.stream, parts[1], message.captured_ns, message.id)
        else:
            self._deliver_values(message)

    def _deliver_values(self, message: InputMessage) -> None:
        if (message.values is None) == (message.text is None):
            self._intake.unrouted("malformed", f"{message.stream}: needs `values` or `text`, not both")
        elif message.values is not None:
            self._intake.sample(message.stream, message.values, message.captured_ns, message.id)
        elif message.text is not None:
            self._intake.text(message.stream, message.text, message.lang, message.captured_ns, message.id)

    def _close(self) -> None:
        self._socket.close()
        self._context.term()
