"""What befalls pictures: blurred, dark, noisy, frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from build_engines.modalities.faults import Change, Fault, Moments, each_message
from calibration.moments import LabelledSet, RawMessage
from edge_runtime.admit import Refusal, decode_jpeg
from edge_runtime.messages import Frame


def picture_faults(name: str) -> dict[str, Fault]:
    """Faults of the camera `name`."""
    pictures = {"blurred": _blur, "dark": _dark, "noisy": _noise}
    faults = {fault: each_message(name, partial(_picture, function)) for fault, function in pictures.items()}
    return faults | {"frozen": lambda moments: frozen(moments, name)}


def _picture(function: Callable[[NDArray[np.uint8], np.random.Generator], Any]) -> Change:
    """A change of a message's picture."""

    def change(raw: RawMessage, rng: np.random.Generator) -> RawMessage:
        image = _image(raw.content)
        if image is None:
            return raw
        values = np.clip(function(image.astype(np.uint8), rng), 0, 255).astype(np.uint8)
        return replace(raw, held=cv2.imencode(".jpg", values, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes())

    return change


def _image(content: Any) -> NDArray[np.uint8] | None:
    """The picture in a camera's content, [height, width, 3]; None where there is none."""
    if isinstance(content, Frame):
        return content.image
    if isinstance(content, np.ndarray):
        return content
    decoded = decode_jpeg(content)
    return None if isinstance(decoded, Refusal) else decoded


def _blur(image: NDArray[np.uint8], rng: np.random.Generator) -> Any:
    return cv2.GaussianBlur(image, (0, 0), max(0.8, 0.02 * image.shape[1]))


def _dark(image: NDArray[np.uint8], rng: np.random.Generator) -> Any:
    return 0.25 * image


def _noise(image: NDArray[np.uint8], rng: np.random.Generator) -> Any:
    return image + rng.normal(0.0, 25.0, image.shape)


def frozen(moments: Moments, stream: str) -> Iterator[LabelledSet]:
    """The camera shows an old picture as new: the first of its recording; in groups of one moment, the last picture
    seen before of another label."""
    old: dict[str, Any] = {}
    for _, part in groupby(moments, key=lambda moment: moment.group):
        group = list(part)
        first = next((raw.content for entry in group for raw in entry.messages if raw.stream == stream), None)
        if first is None:
            yield from group  # no picture at all: nothing that could freeze, and nothing to be shown later
            continue
        if len(group) == 1:
            shown = next((content for label, content in reversed(old.items()) if label != group[0].label), first)
            old.pop(group[0].label, None)
            old[group[0].label] = first
        else:
            shown = first
        for moment in group:
            messages = (replace(raw, held=shown) if raw.stream == stream else raw for raw in moment.messages)
            yield replace(moment, messages=tuple(messages))
