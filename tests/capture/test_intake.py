from __future__ import annotations

import gc
import weakref
from typing import Literal

import numpy as np
import pytest

from edge_runtime.capture.intake import Intake
from edge_runtime.clock import RealClock
from edge_runtime.mailbox import Mailbox
from edge_runtime.messages import Frame
from edge_runtime.pixels import pixels
from edge_runtime.streams import CameraStream
from tests import tiny
from tests.conftest import jpeg, noise


def test_a_picture_rings_when_it_comes_and_when_it_is_decoded() -> None:
    waiting: list[int] = []
    boxes = {name: Mailbox(4) for name in tiny.STREAMS}
    boxes["camera"] = Mailbox(4, wake=lambda: waiting.append(boxes["camera"].captured))
    intake = Intake(tiny.STREAMS, boxes, RealClock())
    intake.jpeg("camera", jpeg(noise(80, 1)))
    assert waiting == [0, 1]


def put_one(spec: CameraStream, content: object, recorded: bool) -> Frame:
    """The message that an intake makes of `content`."""
    box = Mailbox(1)
    Intake({"camera": spec}, {"camera": box}, RealClock(), whole=lambda: recorded).put("camera", content)
    (message,) = box.take()
    assert isinstance(message, Frame)
    return message


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("shape", [(96, 128), (24, 64), (24, 32)], ids=["scaled", "cropped", "as taken"])
def test_a_raw_picture_that_nobody_records_leaves_its_pixels_only(
    fit: Literal["stretch", "letterbox", "crop"], shape: tuple[int, int]
) -> None:
    spec = CameraStream(32, 24, rate_hz=30, max_age_ms=1000, fit=fit, frozen_after=0)
    image = noise(80, 1, shape)
    expected, whole = pixels(spec, image).copy(), image.copy()
    kept = put_one(spec, image, recorded=True)
    assert kept.picture is image
    slim = put_one(spec, image, recorded=False)
    assert slim.pixels is not None and isinstance(slim.picture, np.ndarray)
    for made in (kept.pixels, slim.pixels, slim.picture, slim.image):
        np.testing.assert_array_equal(made, expected)
    np.testing.assert_array_equal(image, whole)
    del kept, made
    gone = weakref.ref(image)
    del image
    gc.collect()
    assert gone() is None or shape == (24, 32), "only a picture that is the model's own may be kept"


def test_a_jpeg_is_kept_as_it_came() -> None:
    spec = CameraStream(32, 24, rate_hz=30, max_age_ms=1000)
    data = jpeg(noise(80, 1, (96, 128)))
    assert put_one(spec, data, recorded=False).picture is data


def test_a_raw_camera_that_repeats_itself_is_told_by_its_whole_pictures() -> None:
    """One pixel of many that make one of the model's: too little to see in those."""
    spec = CameraStream(32, 24, rate_hz=30, max_age_ms=1000, frozen_after=2)
    box = Mailbox(1)
    intake = Intake({"camera": spec}, {"camera": box}, RealClock(), whole=lambda: False)
    still = noise(80, 1, (960, 1280))
    for number in range(6):
        moved = still.copy()
        moved[0, 0] = 80 + number
        intake.frame("camera", moved)
    assert not box.counts(0).dropped.get("frozen")
    for _ in range(4):
        intake.frame("camera", still.copy())
    assert box.counts(0).dropped["frozen"] == 2
