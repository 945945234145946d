"""Average precision of detections, by pycocotools: COCO's own evaluation (https://cocodataset.org/#detection-eval).

One call matches every picture's detections with what is there; resamples of the pictures are then only summed anew.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from calibration.moments import TrueObject
from edge_runtime.messages import Detection

MOST = 100
"""Detections of one class in one picture that are judged, the surest: COCO's own number."""
Objects = Sequence[Sequence[TrueObject]]
Found = Sequence[Sequence[Detection]]


class Precision(Struct, frozen=True):
    """Average precision of one class."""

    ap: float
    """Mean over overlaps of 0.5 to 0.95 in steps of 0.05."""
    ap50: float
    """At an overlap of 0.5."""


class AveragePrecision:
    """Detections of N pictures beside what is in them."""

    def __init__(self, truth: Objects, found: Found, labels: Sequence[str]) -> None:
        occurring = {thing.label for picture in truth for thing in picture if not thing.crowd}
        self.labels = tuple(label for label in labels if label in occurring)
        """Those that occur in the truth: of others there is no average precision."""
        self._count = len(truth)
        self._matches: list[Any] = []
        self._evaluation = self._matched(truth, found) if self.labels else None
        if self._evaluation is not None:
            self._evaluation = self._matched(truth, self._that_count(found))

    def of(self, draw: NDArray[np.int64] | None = None) -> dict[str, Precision]:
        """Label to its average precision over all pictures, or over those in `draw` (which may name one several
        times); 0 for a label that does not occur there."""
        if self._evaluation is None:
            return {}
        with contextlib.redirect_stdout(io.StringIO()):
            table = self._summed(np.arange(self._count) if draw is None else draw)
        values = {}
        for number, label in enumerate(self.labels):
            curve = table[:, :, number, 0, 0]
            known = curve[curve > -1]
            half = curve[0][curve[0] > -1]
            values[label] = Precision(
                float(known.mean()) if known.size else 0.0, float(half.mean()) if half.size else 0.0
            )
        return values

    def occurring(self, objects: Objects, draw: NDArray[np.int64]) -> frozenset[str]:
        """Labels in the drawn pictures."""
        return frozenset(thing.label for index in draw for thing in objects[index] if not thing.crowd)

    def _that_count(self, found: Found) -> Found:
        """Without what is surely wrong and less sure than everything that is right: precision at a recall is the best
        at it or beyond, so what comes behind the last recall changes nothing, in any resample. There is much of it."""
        least = {}
        for number, label in enumerate(self.labels):
            pictures = self._matches[number * self._count : (number + 1) * self._count]
            right = [
                float(score)
                for one in pictures
                if one is not None
                for score, matched in zip(one["dtScores"], one["dtMatches"].any(axis=0), strict=True)
                if matched
            ]
            least[label] = min(right, default=float("inf"))
        return [[thing for thing in things if thing.score >= least.get(thing.label, 0.0)] for things in found]

    def _matched(self, truth: Objects, found: Found) -> Any:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        number = {label: index + 1 for index, label in enumerate(self.labels)}
        images = [{"id": index} for index in range(self._count)]
        categories = [{"id": index} for index in number.values()]

        def rows(pictures: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
            listed: list[dict[str, Any]] = []
            for index, things in enumerate(pictures):
                for thing in things:
                    if thing.label in number:
                        left, top, right, bottom = thing.box
                        width, height = right - left, bottom - top
                        listed.append(
                            {
                                "id": len(listed) + 1,
                                "image_id": index,
                                "category_id": number[thing.label],
                                "bbox": [left, top, width, height],
                                "area": width * height,
                                "iscrowd": int(getattr(thing, "crowd", False)),
                                "score": getattr(thing, "score", 0.0),
                            }
                        )
            return listed

        with contextlib.redirect_stdout(io.StringIO()):
            sides = []
            for annotations in (rows(truth), rows(found)):
                side = COCO()
                side.dataset = {"images": images, "categories": categories, "annotations": annotations}
                side.createIndex()
                sides.append(side)
            evaluation = COCOeval(*sides, "bbox")
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.maxDets = [MOST]
            evaluation.evaluate()
        self._matches = list(evaluation.evalImgs)
        return evaluation

    def _summed(self, draw: NDArray[np.int64]) -> NDArray[np.float64]:
        """[overlaps, recalls, labels, 1, 1], -1 where a label does not occur."""
        evaluation: Any = self._evaluation
        evaluation.evalImgs = [
            self._matches[label * self._count + picture] for label in range(len(self.labels)) for picture in draw
        ]
        numbers = list(range(len(draw)))
        evaluation.params.imgIds = evaluation._paramsEval.imgIds = numbers
        evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"])
