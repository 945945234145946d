"""What a model's file itself says, by ONNX Runtime and plain NumPy: nothing of the project is used here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Said:
    """An answer: a probability for each label, or boxes."""

    shares: tuple[float, ...] = ()
    """In the order of the labels."""
    boxes: tuple[tuple[str, float, tuple[float, ...]], ...] = ()
    """Label, score, and left, top, right and bottom in shares of the picture; the surest first."""


def pixels(
    jpeg: bytes, layout: str = "NCHW", colour: str = "RGB", scale: float = 1 / 255,
    mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,),
) -> NDArray[np.float32]:  # fmt: skip
    """A picture of the model's size as the model was trained: (pixel * scale - mean) / std, in [1, ...]."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).astype(np.float64)
    if colour == "GREY":
        image = image @ np.array([0.114, 0.587, 0.299])[:, None]
    elif colour == "RGB":
        image = image[:, :, ::-1]
    image = (image * scale - np.array(mean)) / np.array(std)
    return np.ascontiguousarray(image.transpose(2, 0, 1) if layout == "NCHW" else image, np.float32)[None]


def softmax(logits: NDArray[np.generic], axis: int = -1) -> Array:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis, keepdims=True))
    shares: Array = powers / powers.sum(axis, keepdims=True)
    return shares


def sigmoid(logits: NDArray[np.generic]) -> Array:
    shares: Array = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return shares


def of_cells(
    scores: Sequence[NDArray[np.generic]], distances: Sequence[NDArray[np.generic]], size: tuple[int, int],
    strides: Sequence[int], labels: Sequence[str], threshold: float, max_overlap: float = 0.6,
) -> Said:  # fmt: skip
    """Boxes by distances from cells, each a distribution over bins (generalised focal loss, arXiv:2006.04388), as
    NanoDet and PicoDet give them, scale by scale; overlapping ones of a class suppressed."""
    width, height = size
    boxes, chances = [], []
    for stride, score, spread in zip(strides, scores, distances, strict=True):
        columns = ceil(width / stride)
        bins = spread.shape[-1] // 4
        means = softmax(spread.reshape(-1, 4, bins)) @ np.arange(bins) * stride
        for cell, (row, sides) in enumerate(zip(score.reshape(-1, len(labels)), means, strict=True)):
            x, y = (cell % columns + 0.5) * stride, (cell // columns + 0.5) * stride
            if row.max() >= threshold:
                boxes.append([x - sides[0], y - sides[1], x + sides[2], y + sides[3]])
                chances.append(row.astype(np.float64))
    found = np.array(boxes).reshape(-1, 4) / (width, height, width, height)
    return Said(boxes=tuple(suppressed(found, np.array(chances), labels, threshold, max_overlap)))


def suppressed(
    boxes: Array, chances: Array, labels: Sequence[str], threshold: float, max_overlap: float
) -> list[tuple[str, float, tuple[float, ...]]]:
    """Greedy suppression within each class, the surest first."""
    said: list[tuple[str, float, tuple[float, ...]]] = []
    for number, label in enumerate(labels):
        scores = chances[:, number] if len(chances) else np.zeros(0)
        kept: list[int] = []
        for place in np.argsort(-scores, kind="stable"):
            if scores[place] >= threshold and all(overlap(boxes[place], boxes[other]) <= max_overlap for other in kept):
                kept.append(int(place))
        said += [(label, float(scores[place]), tuple(np.clip(boxes[place], 0, 1))) for place in kept]
    return sorted(said, key=lambda one: -one[1])


def overlap(a: Sequence[float] | Array, b: Sequence[float] | Array) -> float:
    """Intersection over union."""
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - across
    return across / both if both > 0 else 0.0
