"""The world as a process: publishes what the car senses, drives by the decisions that come back, in real time."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import cv2
import msgspec
import zmq
from rich.console import Console

from edge_runtime import sockets
from edge_runtime.errors import UserError
from edge_runtime.wire import SCHEMA
from edge_runtime.world.car import LABELS
from edge_runtime.world.commands import Sentence, Split
from edge_runtime.world.score import Score, score_table, write_score
from edge_runtime.world.sensors import RANGE_CHANNELS
from edge_runtime.world.simulation import Sensed, Simulation
from edge_runtime.world.view import View, to_jpeg

FRAME_HZ = 30
FRAME_NS = 1_000_000_000 // FRAME_HZ
WAIT_S = 10.0
"""The car waits this long for the first decision; then its clock starts without one."""
_QUEUE = 64
"""Messages kept for a runtime that is slow or not there; more are counted as unsent."""
_GIVE_UP_NS = 250_000_000
"""Farther behind than this, the world slows down rather than catch up."""
MODALITIES = ("camera", "range", "text")


class _Heard(msgspec.Struct):
    """The part of a decision that drives the car (the rest of `wire.DecisionMessage` is ignored)."""

    label: str
    seq: int
    published_ns: int
    source: str = "model"


@dataclass(frozen=True)
class Plan:
    """What `drive` is asked for."""

    inputs: str
    decisions: str
    seed: int = 1
    duration_s: float = 75.0
    unplug: frozenset[str] = frozenset()
    unplug_at_s: float = 20.0
    score: Path | None = None
    split: Split = "train"
    keys: Path | None = None
    """This client's file, where the runtime's endpoints ask for one."""


@dataclass
class _Counts:
    sent: Counter[str] = field(default_factory=Counter)
    unsent: int = 0
    received: int = 0
    safe: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    late: int = 0


class Link:
    """The two sockets. Sends never block; what cannot be sent at once is counted and gone."""

    def __init__(self, inputs: str, decisions: str, keys: Path | None = None) -> None:
        """`keys`: this client's file, where the endpoints ask for one. Raises UserError."""
        self.counts = _Counts()
        self._context = zmq.Context()
        self._push = self._context.socket(zmq.PUSH)
        self._push.setsockopt(zmq.SNDHWM, _QUEUE)
        # Nothing is kept for a runtime that is not there yet: it shall start with the present.
        self._push.setsockopt(zmq.IMMEDIATE, 1)
        self._push.setsockopt(zmq.LINGER, 0)
        self._sub = self._context.socket(zmq.SUB)
        self._sub.setsockopt(zmq.LINGER, 0)
        self._sub.setsockopt(zmq.SUBSCRIBE, b"decision.")
        self._decoder = msgspec.json.Decoder(_Heard)
        self._last: tuple[int, int] | None = None
        for socket, endpoint in ((self._push, inputs), (self._sub, decisions)):
            try:
                sockets.connect(socket, endpoint, keys)
            except UserError:
                self.close()
                raise

    def send(self, stream: str, fields: dict[str, object], *frames: bytes) -> None:
        """One message, with the time of capture (now) in its header."""
        header = {"schema": SCHEMA, "stream": stream, "captured_ns": time.monotonic_ns(), **fields}
        try:
            self._push.send_multipart([msgspec.json.encode(header), *frames], zmq.NOBLOCK)
        except zmq.Again:
            self.counts.unsent += 1
        else:
            self.counts.sent[stream] += 1

    def send_values(self, stream: str, values: Mapping[str, float]) -> None:
        """One reading of a stream of sensors."""
        self.send(stream, {"values": values})

    def newest_label(self) -> str | None:
        """The label of the newest decision since the last call; None if there was none."""
        label: str | None = None
        while True:
            try:
                parts = self._sub.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return label
            try:
                heard = self._decoder.decode(parts[-1])
            except msgspec.DecodeError:
                continue
            if heard.label not in LABELS or (heard.seq, heard.published_ns) == self._last:
                # A repeat is the last value sent again for a new subscriber: not a new decision.
                continue
            self._last = (heard.seq, heard.published_ns)
            self.counts.received += 1
            self.counts.safe += heard.source == "safe"
            self.counts.labels[heard.label] += 1
            label = heard.label

    def close(self) -> None:
        """Close both sockets at once."""
        self._context.destroy(linger=0)


class Drive:
    """One drive in real time."""

    def __init__(self, plan: Plan, link: Link) -> None:
        self._plan, self._link = plan, link
        self._simulation = Simulation(plan.seed, plan.split)
        self._view = View(self._simulation.town, plan.seed)
        self._stopped = False
        self._frame = 0

    def stop(self) -> None:
        """End at the next frame. From any thread or a signal handler."""
        self._stopped = True

    def run(self) -> Score:
        """Wait for the first decision, drive, and give the account."""
        cv2.setNumThreads(1)
        first = self._wait()
        self._go(first)
        counts = self._link.counts
        return msgspec.structs.replace(
            self._simulation.score(),
            decisions_received=counts.received,
            safe_decisions=counts.safe,
            labels={label: counts.labels[label] for label in LABELS},
            messages_sent=dict(sorted(counts.sent.items())),
            messages_unsent=counts.unsent,
            late_frames=counts.late,
        )

    def _wait(self) -> str | None:
        """Publish from the parked car until a decision comes, for `WAIT_S` at most."""
        due = time.monotonic_ns()
        end = due + int(WAIT_S * 1e9)
        label: str | None = None
        opening = self._simulation.collect()
        while not self._stopped and due < end:
            for _ in range(2):
                self._publish(self._simulation.idle())
            self._picture()
            due = self._pace(due)
            if (label := self._link.newest_label()) is not None:
                break
        self._publish(opening)
        return label

    def _go(self, label: str | None) -> None:
        due = time.monotonic_ns()
        if label is None:
            # Nobody decides: from here on the car's own fail-safe counts.
            self._simulation.car.failsafe = False
            self._simulation.car.label_at = self._simulation.t
        while not self._stopped and self._simulation.t < self._plan.duration_s:
            self._publish(self._simulation.step(1.0 / FRAME_HZ, label))
            if time.monotonic_ns() < due + FRAME_NS:
                self._picture()
            else:
                # The physics keeps up; the picture of a moment that has passed is not drawn.
                self._link.counts.late += 1
            due = self._pace(due)
            label = self._link.newest_label()

    def _pace(self, due: int) -> int:
        """Sleep until the next frame is due; returns when the one after is."""
        due += FRAME_NS
        left = due - time.monotonic_ns()
        if left > 0:
            time.sleep(left / 1e9)
        elif left < -_GIVE_UP_NS:
            return time.monotonic_ns()
        return due

    def _plugged(self, modality: str) -> bool:
        return modality not in self._plan.unplug or self._simulation.t < self._plan.unplug_at_s

    def _publish(self, items: Iterable[Sensed]) -> None:
        for item in items:
            if isinstance(item, Sentence):
                if self._plugged("text"):
                    self._link.send("text", {"text": item.text, "lang": item.lang})
            elif RANGE_CHANNELS[0] not in item.values or self._plugged("range"):
                self._link.send_values(item.stream, item.values)

    def _picture(self) -> None:
        if not self._plugged("camera"):
            return
        self._link.send("camera.front", {"id": str(self._frame)}, to_jpeg(self._view.draw(self._simulation)))
        self._frame += 1


def drive(plan: Plan, connect: Callable[[Plan], Link] | None = None) -> Score:
    """Drive until the time is up or SIGTERM/SIGINT; write the score, or print it without a file. Main thread only.

    `connect` gives the link; unless given, all goes over ZeroMQ.
    """
    link = Link(plan.inputs, plan.decisions, plan.keys) if connect is None else connect(plan)
    try:
        world = Drive(plan, link)

        def end(number: int, frame: FrameType | None) -> None:
            world.stop()

        before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            score = world.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    finally:
        link.close()
    if plan.score is not None:
        write_score(score, plan.score)
    else:
        Console(stderr=True).print(score_table(score))
    return score
