"""Admission: the checks a message must pass before it may enter the run flow.

Pure functions, used by every source on the device and by offline evaluation alike. Each gives the value to keep or
a `Refusal` with the reason that is counted and published.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime import pictures
from edge_runtime.specs import CameraStream, Channel, SensorStream, TextStream

FUTURE_TOLERANCE_NS = 50_000_000
"""A sender's stamp may run ahead of ours by this much (two clock reads, no more); later ones are refused."""
MAX_STAMP_AGE_NS = 60_000_000_000
MAX_JPEG_BYTES = 8 << 20
WHITE_CHARS = 256
"""White space around a text that costs none of its characters."""
_NO_TEXT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)
"""By code point, not by category: a category depends on the Python version."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message was not admitted: `reason` is a counter's name, `detail` is for the log."""

    reason: str
    detail: str = ""


def admit_stamp(now_ns: int, captured_ns: int | None) -> int | Refusal:
    """The capture time to use: the sender's own if it is plausible on this host's monotonic clock, else arrival."""
    if captured_ns is None:
        return now_ns
    if captured_ns > now_ns + FUTURE_TOLERANCE_NS or captured_ns < now_ns - MAX_STAMP_AGE_NS:
        return Refusal("bad_timestamp", f"captured_ns is {(captured_ns - now_ns) / 1e9:+.3f} s from now")
    return min(captured_ns, now_ns)


def admit_sample(
    spec: SensorStream, values: Mapping[str, float | str | None]
) -> tuple[dict[str, float], dict[str, Refusal]] | Refusal:
    """The readings that can be used, and why the others cannot, by channel.

    A number is finite and within its channel's physical range; it may come as text or as true (1) or false (0). A
    null, a word or a channel that the stream lacks costs that channel only. Where nothing is left, the whole sample is
    refused, for the reason of its first channel.
    """
    if not values:
        return Refusal("empty")
    channels = {channel.name: channel for channel in spec.channels}
    readings: dict[str, float] = {}
    refused: dict[str, Refusal] = {}
    for name, value in values.items():
        channel = channels.get(name)
        reading = Refusal("unknown_channel") if channel is None else _reading(channel, value)
        if isinstance(reading, Refusal):
            refused[name] = reading
        else:
            readings[name] = reading
    if readings:
        return readings, refused
    name, first = next(iter(refused.items()))
    return Refusal(first.reason, f"{name} {first.detail}".strip())


def _reading(channel: Channel, raw: float | str | None) -> float | Refusal:
    if raw is None:
        return Refusal("null")
    try:
        value = float(raw)
    except (ValueError, OverflowError):
        return Refusal("not_a_number", f"= {str(raw)[:32]!r}")
    if not math.isfinite(value):
        return Refusal("not_finite", f"= {value}")
    if not channel.minimum <= value <= channel.maximum:
        return Refusal("out_of_range", f"= {value} {channel.unit}, not in {channel.minimum}..{channel.maximum}")
    return value


def admit_text(spec: TextStream, text: str) -> tuple[str, bool] | Refusal:
    """The text with outer white space off, and whether it had to be cut to `max_chars`.

    No more than the first `max_chars` and WHITE_CHARS are looked at, however much there is: behind that all is cut off.
    Empty text is refused, and what is no text in what is kept of it: control characters, halves of surrogate pairs,
    Unicode's noncharacters. Tabs and line breaks are text, and so are characters that this Python's tables do not
    know yet (newer emoji).
    """
    looked_at = text[: spec.max_chars + WHITE_CHARS]
    stripped = looked_at.strip()
    if not stripped:
        return Refusal("empty")
    admitted = stripped[: spec.max_chars]
    if match := _NO_TEXT.search(admitted):
        return Refusal("control_character", f"U+{ord(match[0]):04X}")
    return admitted, len(stripped) > spec.max_chars or len(text) > len(looked_at)


def decode_jpeg(data: bytes | memoryview, fewest: pictures.Fewest | None = None) -> NDArray[np.uint8] | Refusal:
    """Decode a JPEG to [height, width, 3] uint8 BGR, as far as `fewest` says. Releases the GIL while decoding."""
    if len(data) > MAX_JPEG_BYTES:
        return Refusal("too_big", f"{len(data)} bytes, at most {MAX_JPEG_BYTES}")
    if bytes(data[:2]) != b"\xff\xd8":
        return Refusal("not_jpeg")
    return decode_picture(data, fewest)


def decode_picture(data: bytes | memoryview, fewest: pictures.Fewest | None = None) -> NDArray[np.uint8] | Refusal:
    """Decode a JPEG, PNG, BMP or WebP to [height, width, 3] uint8 BGR, as `pictures.decode` does."""
    try:
        return pictures.decode(data, fewest)
    except pictures.PictureError as error:
        return Refusal(error.reason, error.detail)


def admit_image(spec: CameraStream, image: NDArray[np.uint8]) -> NDArray[np.uint8] | Refusal:
    """`image` if it is a colour picture of sane size and not darker than the stream allows."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        return Refusal("bad_format", f"{image.dtype}{list(image.shape)}, expected uint8 [height, width, 3]")
    height, width = image.shape[:2]
    if height < 8 or width < 8 or height * width > pictures.MAX_PIXELS:
        return Refusal("bad_size", f"{width}x{height}")
    # A sparse grid of pixels is enough to tell a dead sensor from a night scene; a live one
    # shows in its first pixels.
    grid = ((row, column) for row in range(0, height, height // 8) for column in range(0, width, width // 8))
    if spec.min_brightness > 0 and not any(max(image[place].tolist()) >= spec.min_brightness for place in grid):
        return Refusal("black")
    return image


class FreezeDetector:
    """Tells when a camera repeats itself byte for byte, which a live sensor's noise never does. Any thread."""

    def __init__(self, spec: CameraStream) -> None:
        self._limit = spec.frozen_after
        self._lock = threading.Lock()
        self._last: NDArray[np.uint8] | None = None
        self._last_jpeg: bytes | memoryview | None = None
        self._repeats = 0

    def admit(self, image: NDArray[np.uint8], jpeg: bytes | memoryview | None = None) -> Refusal | None:
        """Count `image`; a Refusal once `frozen_after` repeats of the same picture were seen.

        `jpeg`: what it was decoded from, where not all of it was: equal pixels then prove nothing by themselves.
        """
        if self._limit == 0:
            return None
        with self._lock:
            repeats = self._last is not None and _same(image, self._last)
            if repeats and jpeg is not None and self._last_jpeg is not None:
                repeats = _scans(jpeg) == _scans(self._last_jpeg)
            self._repeats = self._repeats + 1 if repeats else 0
            self._last, self._last_jpeg = image, jpeg
            return Refusal("frozen") if self._repeats >= self._limit else None


def _scans(jpeg: bytes | memoryview) -> memoryview:
    return memoryview(jpeg)[pictures.read_header(jpeg).scans_at :]


def _same(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether two pictures are equal byte for byte. One row tells live ones apart, in a few microseconds."""
    if image.shape != other.shape:
        return False
    middle = image.shape[0] // 2
    return image[middle].tobytes() == other[middle].tobytes() and np.array_equal(image, other)
