"""A camera's picture as its model takes it: decoded as far as needed, fitted, scaled.

Pure, any thread; the device, training, calibration, evaluation and replay all make their pixels here. A JPEG and the
same picture as raw pixels give nearly, not exactly, the same: what came is recorded, so that a replay makes the same.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime import pictures
from edge_runtime.specs import CameraStream

LETTERBOX_LEVEL = 114
"""Grey of the bars, as the detectors that made the word common are trained with it (https://docs.ultralytics.com)."""


def pixels(spec: CameraStream, picture: bytes | memoryview | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`picture` (JPEG, PNG, BMP or WebP bytes, or [h, w, 3] uint8 BGR) as [height, width, 3] uint8 BGR.

    Raises pictures.PictureError where it cannot be decoded.
    """
    return fitted(spec, decoded(spec, picture))


def decoded(spec: CameraStream, picture: bytes | memoryview | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`picture` as [h, w, 3] uint8 BGR, as far as `fitted` needs it. Raises pictures.PictureError."""
    return picture if isinstance(picture, np.ndarray) else pictures.decode(picture, fewest(spec))


def fewest(spec: CameraStream) -> pictures.Fewest | None:
    """How much of a picture must be decoded for `fitted` to shrink it only; None where all of it is."""
    return None if spec.scaling == "whole" else partial(_scaled_size, spec)


class _Area(NamedTuple):
    left: int
    top: int
    width: int
    height: int


def fitted(spec: CameraStream, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`image` [h, w, 3] BGR, decoded, as [height, width, 3]; itself, or a view, where nothing is to be scaled."""
    kept, filled = _areas(spec, image.shape[1], image.shape[0])
    if spec.fit == "crop":
        image = image[kept.top : kept.top + kept.height, kept.left : kept.left + kept.width]
    scaled = _scaled(image, filled.width, filled.height, halving=spec.scaling == "reduced")
    if (filled.width, filled.height) == (spec.width, spec.height):
        return scaled
    boxed = np.full((spec.height, spec.width, 3), LETTERBOX_LEVEL, np.uint8)
    boxed[filled.top : filled.top + filled.height, filled.left : filled.left + filled.width] = scaled
    return boxed


def unfitted(spec: CameraStream, size: tuple[int, int], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """`boxes` [n, 4] (left, top, right, bottom, in shares of what `fitted` made) in shares of the picture that it was
    made of, whose width and height are `size`: stretching, cutting and grey bars undone. Not cut off at its edges.
    """
    kept, filled = _areas(spec, *size)
    places = boxes * (spec.width, spec.height, spec.width, spec.height)
    places = (places - (filled.left, filled.top) * 2) / ((filled.width, filled.height) * 2)
    return np.asarray((places * ((kept.width, kept.height) * 2) + (kept.left, kept.top) * 2) / (size * 2))


def _areas(spec: CameraStream, width: int, height: int) -> tuple[_Area, _Area]:
    """What is kept of a picture of `width` x `height`, and what it fills of the model's."""
    kept = _Area(0, 0, width, height)
    if spec.fit == "crop":
        kept_width = max(1, min(width, round(height * spec.width / spec.height)))
        kept_height = max(1, min(height, round(width * spec.height / spec.width)))
        kept = _Area((width - kept_width) // 2, (height - kept_height) // 2, kept_width, kept_height)
    inner_width, inner_height = _scaled_size(spec, width, height)
    return kept, _Area((spec.width - inner_width) // 2, (spec.height - inner_height) // 2, inner_width, inner_height)


def _scaled_size(spec: CameraStream, width: int, height: int) -> tuple[int, int]:
    """Width and height that a picture of `width` x `height` (or what is cropped of it) is scaled to."""
    if spec.fit != "letterbox":
        return spec.width, spec.height
    scale = min(spec.width / width, spec.height / height)
    inner_width, inner_height = round(width * scale), round(height * scale)
    return max(1, min(inner_width, spec.width)), max(1, min(inner_height, spec.height))


def _scaled(image: NDArray[np.uint8], width: int, height: int, halving: bool) -> NDArray[np.uint8]:
    """[height, width, 3]: averaged down by area, or where either side grows, interpolated.

    Averaging areas costs by the pixels averaged; halving costs a tenth of that, and comes to nearly the same. So a
    picture is halved as long as it covers what is asked for and has no odd side, whose halving would shift the edges.
    """
    if halving:
        while (
            not (image.shape[0] % 2 or image.shape[1] % 2)
            and image.shape[1] >= 2 * width
            and image.shape[0] >= 2 * height
        ):
            image = _resized(image, image.shape[1] // 2, image.shape[0] // 2, cv2.INTER_AREA)
    if image.shape[:2] == (height, width):
        return image
    # Area averaging keeps small bright things (lamps) when shrinking; it is nearest-neighbour when enlarging.
    shrinking = image.shape[0] >= height and image.shape[1] >= width
    return _resized(image, width, height, cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


def _resized(image: NDArray[np.uint8], width: int, height: int, interpolation: int) -> NDArray[np.uint8]:
    return cv2.resize(image, (width, height), interpolation=interpolation)  # type: ignore[return-value]  # of uint8 comes uint8
