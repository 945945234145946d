"""Detections as Foxglove draws them over a camera's picture: its `foxglove.ImageAnnotations`
(https://docs.foxglove.dev/docs/sdk/schemas/image-annotations). Pure; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct, UnsetType

from edge_runtime.kinds.record import Time
from edge_runtime.messages import Detection
from edge_runtime.specs import CameraStream
from edge_runtime.streams import StreamSpec, streams_of
from edge_runtime.wire import DecisionMessage

LINE_LOOP = 2
"""Of Foxglove's `PointsAnnotationType`."""


class Point(Struct, frozen=True):
    """Pixels from the left and from the top."""

    x: float
    y: float


class Colour(Struct, frozen=True):
    """0 to 1 each."""

    r: float
    g: float
    b: float
    a: float


class Outline(Struct, frozen=True):
    """Foxglove's `PointsAnnotation`: a box."""

    timestamp: Time
    type: int
    points: tuple[Point, ...]
    outline_color: Colour
    outline_colors: tuple[Colour, ...]
    fill_color: Colour
    thickness: float


class Words(Struct, frozen=True):
    """Foxglove's `TextAnnotation`."""

    timestamp: Time
    position: Point
    text: str
    font_size: float
    text_color: Colour
    background_color: Colour


class Circle(Struct, frozen=True):
    """Foxglove's `CircleAnnotation`; none is drawn."""

    timestamp: Time
    position: Point
    diameter: float
    thickness: float
    fill_color: Colour
    outline_color: Colour


class ImageAnnotations(Struct, frozen=True):
    """What is drawn over one picture."""

    circles: tuple[Circle, ...]
    points: tuple[Outline, ...]
    texts: tuple[Words, ...]


_GREEN, _CLEAR, _WHITE, _DARK = Colour(0, 0.9, 0.3, 1), Colour(0, 0, 0, 0), Colour(1, 1, 1, 1), Colour(0, 0, 0, 0.6)


def detections_of(decision: DecisionMessage) -> tuple[Detection, ...] | None:
    """What its heads have seen; None where none of them has looked."""
    heads = () if isinstance(decision.heads, UnsetType) else decision.heads.values()
    looked = [one.detections for one in (decision, *heads) if not isinstance(one.detections, UnsetType)]
    return tuple(thing for things in looked for thing in things) if looked else None


class Marked(Struct, frozen=True):
    """What is to be drawn over a camera's picture."""

    camera: str
    captured_ns: int
    """Of the picture."""
    things: tuple[Detection, ...]


def marked(decision: DecisionMessage, streams: Mapping[str, StreamSpec]) -> Marked | None:
    """What the heads of a decision on `streams` have seen. Of several cameras nobody could say whose it is."""
    cameras = list(streams_of(streams, CameraStream))
    things = detections_of(decision)
    if things is None or len(cameras) != 1:
        return None
    taken_ns = decision.captured_ns + round(decision.latency_ms.queue * 1e6)
    age_ms = decision.inputs[cameras[0]].age_ms or 0.0
    return Marked(cameras[0], taken_ns - round(age_ms * 1e6), things)


def drawn(things: tuple[Detection, ...], size: tuple[int, int], at: Time) -> ImageAnnotations:
    """A box and a line of words for each thing, in pixels of a picture whose width and height are `size`, captured at
    `at`."""
    return ImageAnnotations((), tuple(_outlines(things, size, at)), tuple(_words(things, size, at)))


def _outlines(things: tuple[Detection, ...], size: tuple[int, int], at: Time) -> Iterator[Outline]:
    width, height = size
    for thing in things:
        left, top, right, bottom = thing.box
        corners = ((left, top), (right, top), (right, bottom), (left, bottom))
        points = tuple(Point(x * width, y * height) for x, y in corners)
        yield Outline(at, LINE_LOOP, points, _GREEN, (), _CLEAR, max(1.0, width / 400))


def _words(things: tuple[Detection, ...], size: tuple[int, int], at: Time) -> Iterator[Words]:
    width, height = size
    for thing in things:
        number = "" if isinstance(thing.track, UnsetType) else f" #{thing.track}"
        zones = "" if isinstance(thing.zones, UnsetType) or not thing.zones else f" {', '.join(thing.zones)}"
        text = f"{thing.label} {thing.score:.2f}{number}{zones}"
        position = Point(thing.box[0] * width, thing.box[1] * height)
        yield Words(at, position, text, max(10.0, width / 50), _WHITE, _DARK)
