"""Things in a camera's picture: each with its class, its score and its box."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import numpy as np
from msgspec import UNSET, Meta
from msgspec.structs import replace
from numpy.typing import NDArray

from edge_runtime.boxes import Picked, pick
from edge_runtime.heads.kind import HeadKind
from edge_runtime.heads.labels import label_problems
from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState, Step
from edge_runtime.messages import Detection, Frame, Verdict
from edge_runtime.pixels import unfitted
from edge_runtime.specs import CameraStream
from edge_runtime.streams import StreamSpec
from edge_runtime.tracking import Box, Seen, follow
from edge_runtime.zones import zones_of

NOTHING, UNDECIDED = "none", "undecided"
"""The `label` where nothing was seen; a safe label that says that nobody has looked."""
MOST = 64
"""What one decision tells at most: subscribers and messages are made for it."""
THRESHOLD = 0.5
"""Where a policy sets none."""
FAR = 4.0
"""Half of a graph's coordinates beyond this are no shares of a picture."""


class DetectionHead(HeadKind, frozen=True, tag="detection"):
    """Everything of `labels` in the picture of `camera` that reaches its threshold, tracked from picture to picture.

    `output` is [1, N, 4 + labels]: N candidates, each a box (left, top, right, bottom, in shares of the picture that
    the model is shown) and a score (0 to 1) for each label. What is said is in shares of the camera's own picture. The
    decision's `label` is the class of the surest thing, or `none`; its `confidence` that one's score (of `none`, one
    minus the best score of all); its `tags` are the classes that were seen, the surest first; its `probabilities` the
    best score of every class, said or not.
    """

    settings: ClassVar[frozenset[str]] = frozenset({"safe_label", "threshold", "thresholds"})
    labels: tuple[str, ...]
    output: str
    """`stage:<stage>:<output>`"""
    camera: str
    """The stream whose picture it looks at."""
    max_overlap: Annotated[float, Meta(ge=0, le=1)] = 0.6
    """Of two boxes of one class that overlap (intersection over union) by more, the surer one is said; 1 = both are,
    for networks that find each thing once."""
    most: Annotated[int, Meta(ge=1, le=MOST)] = MOST
    """Things that are said at most, the surest."""

    @property
    def summary(self) -> str:
        return f"{', '.join((*self.labels, NOTHING))}, at most {self.most}, in {self.camera}"

    def limits(self, policy: DecisionPolicy) -> NDArray[np.float64]:
        """[labels]: the score from which each is said."""
        return np.array([policy.thresholds.get(label, policy.threshold or THRESHOLD) for label in self.labels])

    def shape(self, streams: Mapping[str, StreamSpec]) -> tuple[int, ...]:
        return (1, -1, 4 + len(self.labels))

    def problems(self, policy: DecisionPolicy, streams: Mapping[str, StreamSpec]) -> Iterator[str]:
        if not isinstance(streams.get(self.camera), CameraStream):
            cameras = sorted(name for name, spec in streams.items() if isinstance(spec, CameraStream))
            yield f"head.camera {self.camera!r} is no camera; there are {cameras}"
        for word in (NOTHING, UNDECIDED):
            if word in self.labels:
                yield f"head.labels holds {word!r}, which a detection head says where it sees, or may see, nothing"
        yield from label_problems(self.labels, policy, (*self.labels, NOTHING, UNDECIDED))

    def wrong(self, output: NDArray[np.float32]) -> str | None:
        scores, boxes = output[:, 4:], output[:, :4]
        if scores.min() < -1e-3 or scores.max() > 1 + 1e-3:
            return f"scores from {scores.min():.4g} to {scores.max():.4g} are none: they must be 0 to 1"
        if (middle := float(np.median(np.abs(boxes)))) > FAR:
            return f"boxes (half of them beyond {middle:.4g}) are not in shares of the picture"
        return None

    def candidates(self, policy: DecisionPolicy, output: NDArray[np.float32], floor: float | None = None) -> Picked:
        """What is left of `output` [N, 4 + labels] at the policy's thresholds, or at `floor` for all classes; boxes are
        in shares of the picture that the model is shown."""
        limits = self.limits(policy) if floor is None else np.full(len(self.labels), floor)
        return pick(output, limits, self.max_overlap, self.most if floor is None else 100)

    def decide(
        self, policy: DecisionPolicy, state: PolicyState, output: NDArray[np.float32], inputs: Inputs | None
    ) -> Step:
        """Without `inputs` boxes stay in shares of the model's picture, and nothing is tracked."""
        if (problem := self.wrong(output)) is not None:
            return self.safe(policy, problem), self.after_outage(state)
        picked, frame = self.candidates(policy, output), None
        boxes = picked.boxes
        if inputs is not None:
            part = inputs.aligned.slices[self.camera]
            frame, spec = part.newest, inputs.streams[self.camera]
            if not part.present or not isinstance(frame, Frame):
                return self.safe(policy, f"{self.camera} {part.reason}"), self.after_outage(state)
            assert isinstance(spec, CameraStream)
            boxes = unfitted(spec, size_of(frame), boxes)
        boxes = boxes.clip(0, 1)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        found = [
            Detection(self.labels[number], float(score), _box(box))
            for number, score, box in zip(
                picked.classes[inside], picked.scores[inside].clip(0, 1), boxes[inside].tolist(), strict=True
            )
        ]
        if frame is not None and inputs is not None:
            seen = [Seen(thing.label, thing.box) for thing in found]
            tracks, own = follow(state.tracks, seen, frame.captured_ns)
            state = PolicyState(tracks=tracks)
            found = [
                replace(
                    thing,
                    track=track.number,
                    moving=track.moving(frame.captured_ns),
                    zones=zones_of(thing.box, inputs.zones, self.camera) if inputs.zones else UNSET,
                )
                for thing, track in zip(found, own, strict=True)
            ]
        best = output[:, 4:].max(axis=0).clip(0, 1).astype(np.float64)
        label, confidence = (found[0].label, found[0].score) if found else (NOTHING, 1.0 - float(best.max()))
        table = dict(zip(self.labels, best.tolist(), strict=True))
        tags = tuple(dict.fromkeys(thing.label for thing in found))
        return Verdict(label, confidence, table, "model", tags=tags, detections=tuple(found)), state

    def after_outage(self, state: PolicyState) -> PolicyState:
        """Nothing is followed any more, and no number is given again."""
        return PolicyState(tracks=replace(state.tracks, followed=()))


def size_of(frame: Frame) -> tuple[int, int]:
    """Width and height of the picture that the model's was made of."""
    if frame.size is not None:
        return frame.size
    height, width = frame.image.shape[:2]
    return width, height


def _box(sides: list[float]) -> Box:
    left, top, right, bottom = sides
    return left, top, right, bottom
