"""What a detection head says: of which candidates, where in the camera's picture, and when it says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace
from numpy.typing import NDArray

from edge_runtime.bundle import open_bundle
from edge_runtime.decide import decide
from edge_runtime.errors import BundleError
from edge_runtime.heads.detection import DetectionHead
from edge_runtime.heads.policy import DecisionPolicy, Inputs, PolicyState
from edge_runtime.infer.rehearsal import rehearse
from edge_runtime.messages import AlignedSet, Frame, Inference, Slice, Verdict
from edge_runtime.pipeline import Pipeline
from edge_runtime.streams import CameraStream
from edge_runtime.zones import Zone
from tests.tiny_detector import BLUE, CAMERA, LABELS, RED, picture, write_bundle

HEAD = DetectionHead(("cat", "dog"), "stage:a:b", CAMERA)
POLICY = DecisionPolicy("undecided", threshold=0.5, thresholds={"dog": 0.8})
CAT, DOG = (0.1, 0.1, 0.4, 0.5), (0.5, 0.5, 0.9, 1.0)


def output(*rows: tuple[tuple[float, ...], float, float], padding: int = 3) -> NDArray[np.float32]:
    """[1, N, 6]: box, cat, dog."""
    found = [(*box, cat, dog) for box, cat, dog in rows] + [(0.0, 0.0, 1.0, 1.0, 0.0, 0.0)] * padding
    return np.array([found], np.float32)


def inputs(seq: int = 0, fit: str = "stretch", size: tuple[int, int] = (64, 48), **more: Any) -> Inputs:
    spec = CameraStream(64, 64, 30, 1000, fit=fit)  # type: ignore[arg-type]
    blank = np.zeros((1, 1, 3), np.uint8)
    frame = Frame(CAMERA, seq, seq * 33_000_000, blank, blank, size)
    return Inputs({CAMERA: spec}, AlignedSet(0, {CAMERA: Slice(CAMERA, True, (frame,))}), **more)


def said(*rows: tuple[tuple[float, ...], float, float], policy: DecisionPolicy = POLICY, **more: Any) -> Verdict:
    return decide(HEAD, policy, PolicyState(), None, Inference(output(*rows)), inputs(**more))[0]


def boxes(verdict: Verdict) -> list[tuple[str, float, tuple[float, ...]]]:
    assert not isinstance(verdict.detections, type(UNSET))
    return [
        (thing.label, round(thing.score, 3), tuple(round(side, 3) for side in thing.box))
        for thing in verdict.detections
    ]


def test_each_class_has_its_own_threshold_and_the_surest_thing_gives_the_label() -> None:
    verdict = said((DOG, 0.0, 0.79), (CAT, 0.6, 0.0), (DOG, 0.0, 0.85))
    assert boxes(verdict) == [("dog", 0.85, DOG), ("cat", 0.6, CAT)]
    assert (verdict.label, round(verdict.confidence, 3), verdict.tags) == ("dog", 0.85, ("dog", "cat"))
    assert {name: round(score, 3) for name, score in verdict.probabilities.items()} == {"cat": 0.6, "dog": 0.85}


def test_nothing_seen_is_a_finding_and_not_looking_is_none() -> None:
    verdict = said((CAT, 0.49, 0.3))
    assert (verdict.label, verdict.detections, verdict.source, verdict.tags) == ("none", (), "model", ())
    assert verdict.confidence == pytest.approx(0.51) and verdict.probabilities["cat"] == pytest.approx(0.49)
    blocked = decide(HEAD, POLICY, PolicyState(), "camera.front stale", Inference(None))[0]
    assert (blocked.label, blocked.source, blocked.detections) == ("undecided", "safe", UNSET)


def test_a_camera_that_is_not_there_is_said_though_the_model_answers() -> None:
    absent = replace(inputs(), aligned=AlignedSet(0, {CAMERA: Slice(CAMERA, False, reason="stale")}))
    verdict = decide(HEAD, POLICY, PolicyState(), None, Inference(output((CAT, 0.9, 0.0))), absent)[0]
    assert (verdict.source, verdict.reason, verdict.detections) == ("safe", "camera.front stale", UNSET)


def test_a_candidate_may_be_two_things_and_doubles_of_one_are_one() -> None:
    near = (0.11, 0.1, 0.41, 0.5)
    assert boxes(said((CAT, 0.9, 0.0), (near, 0.7, 0.95))) == [("dog", 0.95, near), ("cat", 0.9, CAT)]
    every = replace(HEAD, max_overlap=1.0)
    verdict = decide(every, POLICY, PolicyState(), None, Inference(output((CAT, 0.9, 0), (CAT, 0.9, 0))), inputs())[0]
    assert len(boxes(verdict)) == 2, "a network that finds each thing once is believed"


def test_no_more_are_said_than_a_message_bears() -> None:
    rows = [((x / 100, 0.0, x / 100 + 0.005, 0.1), 0.6 + x / 1000, 0.0) for x in range(100)]
    verdict = said(*rows)
    assert len(boxes(verdict)) == 64 and boxes(verdict)[0][1] == 0.699, "the surest of them"


def test_boxes_are_in_the_cameras_picture_and_what_lies_outside_is_not_there() -> None:
    wide: dict[str, Any] = {"size": (128, 64)}  # in a square: grey above and below, or its sides cut off
    assert boxes(said(((0.5, 0.25, 1.0, 0.75), 0.9, 0), fit="letterbox", **wide)) == [("cat", 0.9, (0.5, 0, 1.0, 1.0))]
    assert boxes(said(((0.0, 0.0, 1.0, 0.2), 0.9, 0), fit="letterbox", **wide)) == [], "in the grey bar"
    assert boxes(said(((0.0, 0.0, 0.5, 1.0), 0.9, 0), fit="crop", **wide)) == [("cat", 0.9, (0.25, 0.0, 0.5, 1.0))]
    assert boxes(said(((-0.5, 0.5, 0.5, 1.5), 0.9, 0), **wide)) == [("cat", 0.9, (0.0, 0.5, 0.5, 1.0))]


def test_things_are_followed_and_stand_in_zones() -> None:
    zones = {"left": Zone(((0, 0), (0.5, 0), (0.5, 1), (0, 1))), "other": Zone(((0, 0), (1, 0), (1, 1)), "camera.rear")}
    state, numbers = PolicyState(), []
    for step in range(3):
        box = (0.1 + 0.1 * step, 0.1, 0.4 + 0.1 * step, 0.5)
        found = output((box, 0.9, 0.0), (DOG, 0.0, 0.9 - 0.02 * step))
        verdict, state = decide(HEAD, POLICY, state, None, Inference(found), inputs(step, zones=zones))
        assert not isinstance(verdict.detections, type(UNSET))
        by_label = {thing.label: thing for thing in verdict.detections}
        numbers.append((by_label["cat"].track, by_label["dog"].track))
    assert numbers == [(1, 2)] * 3
    assert by_label["cat"].moving is True and by_label["dog"].moving is False
    assert by_label["cat"].zones == ("left",) and by_label["dog"].zones == ()
    # A heartbeat changes nothing; after an outage nothing is known any more, but no number comes twice.
    again, same = decide(HEAD, POLICY, state, None, Inference(found), inputs(2, zones=zones), counts=False)
    assert again == verdict and same == state
    state = decide(HEAD, POLICY, state, "camera.front missing", Inference(None))[1]
    verdict, state = decide(HEAD, POLICY, state, None, Inference(found), inputs(9))
    assert [thing.track for thing in verdict.detections or ()] == [3, 4]
    assert all(thing.zones is UNSET for thing in verdict.detections)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (((0.1, 0.1, 0.2, 0.2), 7.5, 0.0), "scores from 0 to 7.5 are none"),
        (((0.1, 0.1, 0.2, 0.2), -2.0, 0.0), "scores from -2 to 0 are none"),
    ],
)
def test_logits_are_no_scores(row: Any, why: str) -> None:
    verdict = said(row)
    assert verdict.source == "safe" and verdict.reason is not None and why in verdict.reason


def test_boxes_in_pixels_are_refused() -> None:
    rows = [((x, 10.0, x + 20, 40.0), 0.1, 0.0) for x in range(0, 400, 10)]
    assert "not in shares of the picture" in str(said(*rows).reason)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"scale": 64.0}, "are not in shares of the picture"),
        ({"head": DetectionHead((*LABELS, "green"), "stage:detector:found", CAMERA)}, r"needs \[1, -1, 7\]"),
        ({"head": DetectionHead(LABELS, "stage:detector:found", "camera.rear")}, "'camera.rear' is no camera"),
        ({"head": DetectionHead(("red", "none"), "stage:detector:found", CAMERA)}, "head.labels holds 'none'"),
        ({"decision": DecisionPolicy("green")}, "safe_label 'green' is none of red, blue, none, undecided"),
        ({"decision": DecisionPolicy("none", hold=2)}, "decision.hold is set, which a detection head does not read"),
    ],
)
def test_a_bundle_that_could_not_decide_is_refused(tmp_path: Path, changes: Any, why: str) -> None:
    with pytest.raises(BundleError, match=why):
        rehearse(open_bundle(write_bundle(tmp_path / "squares", **changes), allow_unsigned=True))


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_a_bundle_finds_squares_where_they_are(tmp_path: Path, fit: str) -> None:
    bundle = open_bundle(write_bundle(tmp_path / "squares", fit), allow_unsigned=True)
    rehearse(bundle)
    size, side = {"stretch": ((64, 48), 16), "letterbox": ((128, 48), 32), "crop": ((96, 48), 16)}[fit]
    left, top = (32, 16) if fit != "letterbox" else (64, 8)
    image = picture((RED, left, top), size=size, side=side)
    pipeline = Pipeline(bundle)
    try:
        verdict = pipeline.predict({CAMERA: image}).verdict
    finally:
        pipeline.close()
    (found,) = boxes(verdict)
    right = tuple(round(v, 3) for v in (left / size[0], top / size[1], (left + side) / size[0], (top + side) / size[1]))
    assert found == ("red", 1.0, right)


def test_blue_is_not_red(tmp_path: Path) -> None:
    pipeline = Pipeline(open_bundle(write_bundle(tmp_path / "squares"), allow_unsigned=True))
    try:
        verdict = pipeline.predict({CAMERA: picture((RED, 0, 0), (BLUE, 40, 24))}).verdict
    finally:
        pipeline.close()
    assert {(label, box) for label, _, box in boxes(verdict)} == {
        ("red", (0.0, 0.0, 0.25, 0.333)),
        ("blue", (0.625, 0.5, 0.875, 0.833)),
    }
