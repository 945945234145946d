"""Boxes in a picture: [n, 4] left, top, right, bottom. Pure; any thread."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]
MOST_CONSIDERED = 1000
"""Of the pairs of box and class that reach their limit the surest: those behind them change nothing that is said."""


class Picked(NamedTuple):
    """What is left of a detector's candidates, the surest first; of equal ones that which came first."""

    boxes: Boxes
    """[n, 4], as the candidates'."""
    classes: NDArray[np.int64]
    """[n]"""
    scores: NDArray[np.float64]
    """[n]"""


def pick(output: NDArray[np.float32], limits: NDArray[np.float64], overlap: float, most: int) -> Picked:
    """At most `most` of the candidates `output` [N, 4 + C] (a box, then a score for each class).

    A candidate counts for every class whose score reaches the class's limit ([C], inclusive). Of two of one class whose
    boxes overlap (intersection over union) by more than `overlap` the surer one is kept: OpenCV's non-maximum
    suppression; 1 keeps both.
    """
    rows, classes = np.nonzero(output[:, 4:] >= limits.astype(np.float32))
    scores = output[rows, 4 + classes].astype(np.float64)
    order = np.argsort(-scores, kind="stable")[:MOST_CONSIDERED]
    boxes, classes, scores = output[rows[order], :4].astype(np.float64), classes[order], scores[order]
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, classes, scores = boxes[real], classes[real], scores[real]
    if overlap < 1 and len(boxes) > 1:
        sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        import cv2  # where it is missing, what needs no detector goes on

        kept = cv2.dnn.NMSBoxesBatched(sides.tolist(), scores.tolist(), classes.tolist(), -1.0, overlap)
        at = np.sort(np.asarray(kept, np.int64).ravel())
        boxes, classes, scores = boxes[at], classes[at], scores[at]
    return Picked(boxes[:most], classes[:most].astype(np.int64), scores[:most])


def overlaps(some: Boxes, others: Boxes) -> Boxes:
    """Intersection over union of each of `some` [n, 4] with each of `others` [m, 4]: [n, m]."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (some, others)]
    either = areas[0][:, None] + areas[1][None, :] - both
    return np.asarray(np.divide(both, either, out=np.zeros_like(both), where=either > 0))
