"""What a decoded message of ROS 2 means to a stream. Pure; any thread.

Messages are objects with a field for each of their definition's (`mcap_ros2`), sequences of bytes as `bytes`, others as
lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime import pictures
from edge_runtime.admit import Refusal, decode_picture
from edge_runtime.capture.json_place import Place

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CHANNELS = {"bgr8": 3, "8UC3": 3, "rgb8": 3, "bgra8": 4, "8UC4": 4, "rgba8": 4, "mono8": 1, "8UC1": 1}
"""Encodings of `sensor_msgs/Image` that are read, to their bytes a pixel (sensor_msgs/image_encodings.hpp)."""
LONGEST_DELAY_NS = 10_000_000_000
"""A stamp that is older than this when its message was recorded is another clock's."""


def picture_of(kind: str, message: Any) -> bytes | NDArray[np.uint8] | Refusal:
    """The picture in a message of the type `kind`: a JPEG's bytes, or [height, width, 3] uint8 BGR."""
    if kind == COMPRESSED:
        data = bytes(message.data)
        return data if data[:2] == b"\xff\xd8" else decode_picture(data)
    height, width, step, count = message.height, message.width, message.step, CHANNELS.get(message.encoding)
    if count is None:
        return Refusal("malformed", f"encoding {message.encoding!r:.40}; there are {', '.join(CHANNELS)}")
    if not 0 < height * width <= pictures.MAX_PIXELS:
        return Refusal("bad_size", f"{width}x{height}, at most {pictures.MAX_PIXELS} pixels")
    if step < width * count or len(message.data) != step * height:
        return Refusal("malformed", f"{len(message.data)} bytes for {height} rows of {step}, {width} pixels each")
    rows = np.frombuffer(bytes(message.data), np.uint8).reshape(height, step)
    image = rows[:, : width * count].reshape(height, width, count)
    if count == 1:
        return np.repeat(image, 3, axis=2)
    blue_first = image[:, :, :3] if message.encoding in ("bgr8", "8UC3", "bgra8", "8UC4") else image[:, :, 2::-1]
    return np.ascontiguousarray(blue_first)


def readings_of(channels: Mapping[str, Place], message: Any) -> dict[str, float | str | None] | Refusal:
    """Channel to its reading; never what is not there."""
    found: dict[str, float | str | None] = {}
    for name, place in channels.items():
        try:
            value = field_of(message, place)
        except LookupError:
            continue
        found[name] = value if isinstance(value, int | float | str) else type(value).__name__  # a word: no reading
    return found or Refusal("no_field")


def sentence_of(place: Place, message: Any) -> str | Refusal:
    """The sentence at `place`."""
    try:
        value = field_of(message, place)
    except LookupError:
        return Refusal("no_field")
    return value if isinstance(value, str) else Refusal("malformed", "the sentence is no text")


def field_of(message: Any, place: Place) -> Any:
    """What is at `place` in a message. Raises LookupError where nothing is."""
    value = message
    for step in place:
        if isinstance(step, int):
            if not isinstance(value, list | tuple | bytes):
                raise LookupError(step)
            value = value[step]
        elif step in getattr(type(value), "__slots__", ()):
            value = getattr(value, step)
        else:
            raise LookupError(step)
    return value


def delay_ns(message: Any, recorded_ns: int) -> int:
    """How much older than its recording a message was, by the stamp of its header; 0 where that tells nothing."""
    try:
        stamp = field_of(message, ("header", "stamp"))
        delay = recorded_ns - (stamp.sec * 1_000_000_000 + stamp.nanosec)
    except (LookupError, AttributeError):
        return 0
    return delay if 0 <= delay <= LONGEST_DELAY_NS else 0
