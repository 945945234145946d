"""What the page is told: the newest decision, status and pictures, and what has been decided lately.

The run flow leaves references here, which costs it next to nothing and never waits. `view` and `hello` make messages
and pictures of them, on the page's own thread; nobody calls them while nobody looks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from msgspec import UNSET, Struct, UnsetType

from edge_runtime import pictures
from edge_runtime.dashboard.tail import Line, Tail
from edge_runtime.errors import UserError
from edge_runtime.messages import Frame, Message
from edge_runtime.slots import Slots
from edge_runtime.wire import DecisionMessage, StatusMessage

MAX_TURNS = 256
"""Turns of what is decided that are remembered while nobody looks."""
MAX_FRESH = 256
"""Decisions that may wait to be shown; of more the oldest are left out."""
PICTURE_WIDTH = 960
"""Pixels; a larger picture is scaled down."""
PASS_BYTES = 128 << 10
"""A camera's own JPEG of at most so many bytes is shown as it came."""
QUALITY = 75
SLOTS_S = 2.0


class Turn(Struct, frozen=True):
    """From here on it is decided otherwise than before."""

    number: int
    at_ms: float
    """Monotonic, of the runtime's host."""
    wall_time: str
    label: str
    source: Literal["model", "safe"]
    reason: str | None


class Point(Struct, frozen=True, array_like=True):
    """One decision in the charts."""

    at_ms: float
    confidence: float
    latency_ms: float | None
    """Capture to publish; None of a heartbeat, which answers no message."""


class Picture(Struct, frozen=True):
    """A camera's newest picture."""

    camera: str
    seq: int
    jpeg: bytes


class SlotView(Struct, frozen=True):
    """A bundle that is installed."""

    name: str
    version: str
    state: str
    runs: bool
    installed: str
    reason: str


class View(Struct, frozen=True, omit_defaults=True):
    """What has come since the last one; what has not changed is left out."""

    silent_s: float | None = None
    """Since the newest decision came here; None before the first."""
    shows: tuple[str, ...] = ()
    """Beside decisions and status: `pictures`, `log`, where they are at hand."""
    decision: DecisionMessage | UnsetType = UNSET
    status: StatusMessage | UnsetType = UNSET
    turns: list[Turn] = []
    points: list[Point] = []
    pictures: list[Picture] = []
    lines: list[Line] = []
    slots: list[SlotView] | UnsetType = UNSET


class Feed:
    """`publish` and `took` are the run flow's to call, one thread at a time, and never wait. The rest is the page's."""

    def __init__(self, tail: Tail | None = None, slots: Path | None = None, with_pictures: bool = False) -> None:
        """`tail`: where the log is at hand; `slots`: a folder of slots, or where one might be; `with_pictures`: whether
        `took` is called."""
        self.watched = False
        """Whether somebody looks. Any thread."""
        self.slots = slots
        self._tail = tail
        self._shows = (*(("pictures",) if with_pictures else ()), *(("log",) if tail is not None else ()))
        self._decision: DecisionMessage | None = None
        self._status: StatusMessage | None = None
        self._heard_s: float | None = None
        self._said: tuple[str, str, str | None] | None = None
        # A tuple that is replaced, not a list that grows: the page's thread may read it at any time.
        self._turns: tuple[Turn, ...] = ()
        self._frames: dict[str, Frame] = {}
        self._shown: Mapping[str, Frame] = {}
        """The newest frames as of the newest decision: its boxes belong to them."""
        self._fresh: deque[DecisionMessage] = deque(maxlen=MAX_FRESH)
        self._told_decision: DecisionMessage | None = None
        self._told_status: StatusMessage | None = None
        self._told_turn = -1
        self._told_line = -1
        self._told_pictures: dict[str, Picture] = {}
        self._told_slots: list[SlotView] | None = None
        self._look_at_slots_s = 0.0

    def publish(self, message: DecisionMessage | StatusMessage) -> None:
        """The newest one."""
        if isinstance(message, StatusMessage):
            self._status = message
            return
        said = message.label, message.source, message.reason
        if said != self._said:
            self._said = said
            number = self._turns[-1].number + 1 if self._turns else 0
            turn = Turn(number, message.published_ns / 1e6, message.wall_time, *said)
            self._turns = (*self._turns[1 - MAX_TURNS :], turn)
        self._heard_s = time.monotonic()
        self._decision = message
        if self.watched:
            self._fresh.append(message)
            self._shown = dict(self._frames)

    def took(self, message: Message) -> None:
        """The run flow will decide on this."""
        if self.watched and isinstance(message, Frame):
            self._frames[message.stream] = message

    def watch(self, on: bool) -> None:
        """Somebody looks, or nobody any more: then no picture is held."""
        if self.watched == on:
            return
        self.watched = on
        self._fresh.clear()
        self._frames, self._shown = {}, {}
        self._told_pictures = {}

    def view(self) -> bytes:
        """What has come since the last call, as JSON."""
        decision, status, shown = self._decision, self._status, self._shown
        turns = [turn for turn in self._turns if turn.number > self._told_turn]
        lines = [] if self._tail is None else self._tail.lines(self._told_line)
        slots = self._slots()
        view = View(
            silent_s=self._silent_s(),
            decision=UNSET if decision is None or decision is self._told_decision else decision,
            status=UNSET if status is None or status is self._told_status else status,
            turns=turns,
            points=list(self._points()),
            pictures=list(self._pictures(shown)),
            lines=lines,
            slots=UNSET if slots is None or slots == self._told_slots else slots,
        )
        self._told_decision, self._told_status, self._told_slots = decision, status, slots
        self._told_turn = turns[-1].number if turns else self._told_turn
        self._told_line = lines[-1].number if lines else self._told_line
        return _encode(view)

    def hello(self) -> bytes:
        """All that views have told so far and that is remembered, as JSON: for who has just come, after a `view`."""
        return _encode(
            View(
                silent_s=self._silent_s(),
                shows=self._shows,
                decision=UNSET if self._told_decision is None else self._told_decision,
                status=UNSET if self._told_status is None else self._told_status,
                turns=[turn for turn in self._turns if turn.number <= self._told_turn],
                pictures=list(self._told_pictures.values()),
                lines=[]
                if self._tail is None
                else [one for one in self._tail.lines() if one.number <= self._told_line],
                slots=UNSET if self._told_slots is None else self._told_slots,
            )
        )

    def _silent_s(self) -> float | None:
        return None if self._heard_s is None else round(time.monotonic() - self._heard_s, 2)

    def _points(self) -> Iterator[Point]:
        for _ in range(len(self._fresh)):
            message = self._fresh.popleft()
            latency = message.latency_ms
            milliseconds = latency.capture_to_publish if latency.queue > 0 else None
            yield Point(message.published_ns / 1e6, message.confidence, milliseconds)

    def _pictures(self, shown: Mapping[str, Frame]) -> Iterator[Picture]:
        for camera, frame in shown.items():
            told = self._told_pictures.get(camera)
            if told is not None and told.seq == frame.seq:
                continue
            if (jpeg := preview(frame)) is not None:
                picture = self._told_pictures[camera] = Picture(camera, frame.seq, jpeg)
                yield picture

    def _slots(self) -> list[SlotView] | None:
        """Read now and then; None where there are none, or none that can be read."""
        now = time.monotonic()
        if self.slots is None or now < self._look_at_slots_s:
            return self._told_slots
        self._look_at_slots_s = now + SLOTS_S
        try:
            state = Slots(self.slots).read()
        except (UserError, OSError):
            return None
        return [
            SlotView(slot.name, slot.version, slot.state, slot is state.current, slot.installed, slot.reason)
            for slot in state.slots
        ] or None


def preview(frame: Frame) -> bytes | None:
    """`frame` as JPEG, at most PICTURE_WIDTH wide unless it came small; None where it cannot be decoded."""
    import cv2

    picture = frame.picture
    if isinstance(picture, np.ndarray):
        image = picture
    elif len(picture) <= PASS_BYTES:
        return bytes(picture)
    else:
        try:
            image = pictures.decode(picture, _smaller)
        except pictures.PictureError:
            return None
    height, width = image.shape[:2]
    if width > PICTURE_WIDTH:
        image = cv2.resize(image, _smaller(width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    done, buffer = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return buffer.tobytes() if done else None


def _smaller(width: int, height: int) -> tuple[int, int]:
    shown = min(width, PICTURE_WIDTH)
    return shown, max(1, round(height * shown / width))


def _encode(view: View) -> bytes:
    return _encoder.encode(view)


_encoder = msgspec.json.Encoder()
