"""Inputs from other processes over ZeroMQ (they push): sensor values, sentences, JPEG frames, sound."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable
from pathlib import Path
from typing import ClassVar, NamedTuple

import msgspec
from msgspec import Struct

from edge_runtime import config, sockets
from edge_runtime.admit import MAX_JPEG_BYTES, Refusal
from edge_runtime.capture.door import Door, Heard, Visitor
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.sender import Arrived, Limits
from edge_runtime.capture.shares import MIN_RATE_HZ, OVER_RATE, Shares
from edge_runtime.capture.slow_lane import SlowLane
from edge_runtime.capture.source import Source
from edge_runtime.clock import wall_ns
from edge_runtime.keyring import Keyring
from edge_runtime.wire import MAX_INPUT_BYTES, InputMessage, decode_input

log = logging.getLogger("edge_runtime.capture")

LIMITS = Limits((MAX_INPUT_BYTES, MAX_JPEG_BYTES), MAX_JPEG_BYTES)
LEAST_PART = 1.25
"""Of what the bundle expects of a stream: so often each sender of it is heard, however many there are."""


LIGHT_NS = 8_000_000
"""A frame that may take longer to decode than this goes to the slow lane."""
LIGHT_MS = 500.0
"""Milliseconds of decoding a second on the door's own thread, for all senders together; what a sender has beyond its
part of that goes to the slow lane too."""


class _Frame(NamedTuple):
    """A frame that may pass and is still to be decoded."""

    header: InputMessage
    stamp: int
    data: bytes | memoryview
    visitor: Visitor

    @property
    def size(self) -> int:
        return len(self.data)


class ZmqSource(Source):
    """Listens for ZeroMQ's PUSH sockets. Whatever arrives is admitted, or refused and counted; nothing raises, nothing
    ends it.

    Senders are heard in turn, and each pays for what it sends: see `Door`. A stream that gets more than `rate_limit`
    times what the bundle expects of it loses the surplus, counted as `over_rate` (0 = no limit): first of those who
    send the most, see `Shares`. Frames that take long to decode, and those of a sender whose frames have taken long,
    are decoded in a lane of their own, see `SlowLane`; what has no room there is `over_rate` too.
    """

    ends: ClassVar[bool] = False
    passive: ClassVar[bool] = True

    def __init__(
        self,
        intake: Intake,
        bind: str,
        rate_limit: float = 0.0,
        mode: int = sockets.PRIVATE,
        group: str = "",
        agreement_ns: int | None = None,
        keys: Path | None = None,
    ) -> None:
        """With a folder of `keys` only its clients get in, each with its streams. Raises ConfigError, HeldError."""
        keyring = None if keys is None else Keyring(keys)
        super().__init__(f"zmq {bind}", intake)
        self._rate_limit = rate_limit
        self._agreement_ns = agreement_ns
        self._shares: dict[str, Shares] = {}
        self._light = Shares(LIGHT_MS, 0.0)
        self._slow = SlowLane[_Frame](self.name, self._admit, self._refuse_slow)
        self._listener = sockets.listen(bind, "source bind", mode, group)
        self.endpoint = self._listener.endpoint
        self._door = Door(self._listener.socket, LIMITS, intake.clock, intake.sleep, keyring)

    def serves(self, settings: Struct, reads: object) -> bool:
        """By the endpoint alone: it reads nothing of the streams, and the limit can change while it runs."""
        if self._failure is not None or not isinstance(settings, config.ZmqSource):
            return False
        own = self.settings
        if not isinstance(own, config.ZmqSource) or (own.mode, own.group, own.keys) != (
            settings.mode,
            settings.group,
            settings.keys,
        ):
            return False
        return settings.bind in {own.bind, self.endpoint}

    def hand_over(self, intake: Intake) -> None:
        """See Source."""
        super().hand_over(intake)
        if isinstance(self.claimed, config.ZmqSource):
            self._rate_limit = self.claimed.rate_limit
            self._agreement_ns = self.claimed.agreement_ns

    def _run(self) -> None:
        while not self.stopping.is_set():
            self._deliver_all(self._door.hear())
            for reason, count in self._door.take_ended().items():
                for _ in range(count):
                    self._intake.unrouted(f"connection_{reason}", self.endpoint)

    def _deliver_all(self, heard: list[Heard]) -> None:
        """What came together: frames last, since they call for decisions, and of each sender's the newest."""
        frames: dict[tuple[object, str], _Frame] = {}
        for visitor, messages in heard:
            start_ns = time.thread_time_ns()
            for came in messages:
                try:
                    self._deliver(visitor, came, frames)
                except Exception as error:  # whatever one message does, the next one is heard
                    self._escaped(error)
            self._door.charge(visitor, time.thread_time_ns() - start_ns)
        works = [(self._intake.work_ns(one.header.stream, one.data), one) for one in frames.values()]
        for work_ns, frame in sorted(works, key=lambda one: one[0]):
            sender = frame.visitor.key
            if work_ns <= LIGHT_NS and self._light.take(sender, time.monotonic_ns(), cost=0.0):
                start_ns = time.thread_time_ns()
                self._admit(frame)
                self._light.spend(sender, (time.thread_time_ns() - start_ns) / 1e6)
            else:
                self._put_slow(sender, frame)

    def _put_slow(self, sender: Hashable, frame: _Frame) -> None:
        taken, earlier = self._slow.put(sender, frame.header.stream, frame)
        if not taken:
            self._refuse_slow(frame)
        if earlier is not None:
            self._intake.replaced(earlier.header.stream)

    def _admit(self, frame: _Frame) -> None:
        """On this thread or the slow lane's."""
        try:
            self._intake.put(frame.header.stream, frame.data, frame.stamp, frame.header.id)
        except Exception as error:
            self._escaped(error)

    def _refuse_slow(self, frame: _Frame) -> None:
        self._intake.refuse(frame.header.stream, Refusal(OVER_RATE, "its sender's pictures take too long to decode"))

    def _escaped(self, error: Exception) -> None:
        self._intake.unrouted(f"error_{type(error).__name__}", str(error))

    def _deliver(self, visitor: Visitor, came: Arrived, frames: dict[tuple[object, str], _Frame]) -> None:
        """To the intake; a frame of which the newest counts to `frames`."""
        if came.refused is not None:
            self._intake.unrouted(came.refused, came.detail)
            return
        try:
            message = decode_input(came.parts[0])
        except msgspec.DecodeError as error:
            self._intake.unrouted("malformed", str(error))
            return
        stream = message.stream
        if visitor.client is not None and not visitor.client.may_send(stream):
            self._intake.refuse(stream, Refusal("not_allowed", f"{visitor.client.name} may not send it"))
            return
        if not self._within_share(stream, visitor.key):
            return
        stamp = self._stamp(message, came.at_ns)
        if isinstance(stamp, Refusal):
            self._intake.refuse(stream, stamp)
        elif len(came.parts) == 2:
            frame = _Frame(message, stamp, came.parts[1], visitor)
            if not self._intake.newest_only(stream):
                self._intake.put(stream, frame.data, stamp, message.id)
                return
            waiting = frames.get((visitor.key, stream))
            if waiting is not None:
                self._intake.replaced(stream)
            if waiting is None or waiting.stamp <= stamp:
                frames[visitor.key, stream] = frame
        elif (message.values is None) == (message.text is None):
            self._intake.unrouted("malformed", f"{stream}: needs `values` or `text`, not both")
        elif message.values is not None:
            self._intake.sample(stream, message.values, stamp, message.id)
        elif message.text is not None:
            self._intake.text(stream, message.text, message.lang, stamp, message.id)

    def _within_share(self, stream: str, sender: object) -> bool:
        expected_hz = self._intake.expected_hz(stream) if self._rate_limit else None
        if expected_hz is None:
            return True
        rate_hz, least_hz = max(MIN_RATE_HZ, self._rate_limit * expected_hz), LEAST_PART * expected_hz
        shares = self._shares.get(stream)
        if shares is None or (shares.rate_hz, shares.least_hz) != (rate_hz, least_hz):
            shares = self._shares[stream] = Shares(rate_hz, least_hz)
        if shares.take(sender, self._intake.clock.now_ns()):
            return True
        self._intake.refuse(stream, Refusal(OVER_RATE, f"more than {rate_hz:g} a second, or one sender's part of it"))
        return False

    def _stamp(self, message: InputMessage, arrived_ns: int) -> int | Refusal:
        """When `message` was captured, as far as its sender says so in a way that can be used; else when it arrived."""
        if message.captured_ns is not None:
            return message.captured_ns
        if message.captured_wall is not None and self._agreement_ns is not None:
            now_ns = self._intake.clock.now_ns()  # first: a pause between the two makes it older, not younger
            try:
                age_ns = self._intake.clock.wall_ns() - wall_ns(message.captured_wall) + self._agreement_ns
            except ValueError as error:
                return Refusal("bad_timestamp", f"captured_wall: {error}")
            # Clocks that disagree more than they were said to show here only where they show the future.
            return now_ns - age_ns if age_ns < 0 else min(now_ns - age_ns, arrived_ns)
        if self._intake.needs_stamp(message.stream):
            return Refusal("no_stamp", "this stream's messages must say when they were captured")
        return arrived_ns

    def _close(self) -> None:
        self._door.close()
        self._listener.close()
        for frame in self._slow.close():
            self._intake.replaced(frame.header.stream)
