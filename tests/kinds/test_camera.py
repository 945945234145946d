"""A camera's row: what is kept of a picture beside its pixels, and how it is written."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace

from edge_runtime.admit import Refusal
from edge_runtime.kinds.camera import Camera
from edge_runtime.kinds.record import wall_time
from edge_runtime.messages import Frame
from edge_runtime.streams import CameraStream, kind_of
from tests.conftest import jpeg, noise

SPEC = CameraStream(32, 24, 30, 100, frozen_after=1, min_brightness=5)
ROW = Camera()
PICTURE = noise(80, 1)
AT = wall_time(1_500_000_000)


def test_bytes_are_decoded_and_kept_and_pixels_are_taken_as_they_are() -> None:
    data = jpeg(PICTURE)
    make = ROW.admission(SPEC)(data)
    assert not isinstance(make, Refusal)
    frame = make("front", 3, 7, "x")
    assert (frame.stream, frame.seq, frame.captured_ns, frame.id, frame.encoded) == ("front", 3, 7, "x", data)
    assert (frame.image == cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)).all()
    plain = ROW.admission(SPEC)(PICTURE)("front", 3, 7, None)
    assert plain.image is PICTURE and plain.encoded is None and plain.id is None
    again = ROW.admission(SPEC)(frame)("front", 4, 8, None)
    assert again.picture is frame.picture is data
    assert (again.pixels == frame.pixels).all() and (frame.pixels == frame.image).all() and plain.pixels is PICTURE


def test_each_refusal_is_the_one_of_its_check() -> None:
    admit = ROW.admission(SPEC)
    assert admit(b"no picture").reason == "not_jpeg"
    assert admit(np.zeros((24, 32, 3), np.uint8)).reason == "black"
    assert not isinstance(admit(PICTURE), Refusal)
    assert admit(PICTURE).reason == "frozen"
    assert not isinstance(ROW.admission(SPEC)(PICTURE), Refusal), "every stream has a memory of its own"


@pytest.mark.parametrize(
    ("encoded", "quality", "form", "lossless"),
    [(True, None, "jpeg", False), (True, 60, "jpeg", False), (False, None, "png", True), (False, 60, "jpeg", False)],
)
def test_a_picture_is_recorded_as_it_came_or_without_loss_unless_loss_is_asked_for(
    encoded: bool, quality: int | None, form: str, lossless: bool
) -> None:
    data = jpeg(PICTURE) if encoded else PICTURE
    frame = Frame("front", 3, 7, data, id="x")
    record = ROW.to_record(frame, AT, quality)
    assert (record.format, record.frame_id, record.seq, record.captured_ns, record.id) == (form, "front", 3, 7, "x")
    assert (record.timestamp.sec, record.timestamp.nsec) == (1, 500_000_000)
    assert bytes(record.data[:2]) == (b"\xff\xd8" if form == "jpeg" else b"\x89P")
    if encoded:
        assert record.data is data, "never encoded again"
    back = ROW.to_message("front", replace(record, data=bytes(record.data)))
    assert (back.image == PICTURE).all() == lossless
    assert (back.stream, back.seq, back.captured_ns, back.id) == ("front", 3, 7, "x")
    assert back.encoded == (bytes(record.data) if form == "jpeg" else None)


def test_a_lower_quality_makes_fewer_bytes() -> None:
    frame = Frame("front", 3, 7, noise(80, 1, (240, 320)))
    sizes = [len(ROW.to_record(frame, AT, quality).data) for quality in (50, 95)]
    assert 2 * sizes[0] < sizes[1]
    assert ROW.to_record(frame, AT, None).id is UNSET


def test_a_record_that_is_no_picture_is_named() -> None:
    record = ROW.to_record(Frame("front", 3, 7, PICTURE), AT, None)
    with pytest.raises(ValueError, match="picture 3 of front"):
        ROW.to_message("front", replace(record, data=b"\xff\xd8no"))


def test_a_frame_weighs_what_it_holds() -> None:
    data = jpeg(PICTURE)
    assert ROW.weight(Frame("front", 0, 0, PICTURE)) == 24 * 32 * 3
    assert ROW.weight(Frame("front", 0, 0, data)) == len(data)
    assert ROW.footprint(Frame("front", 0, 0, PICTURE, PICTURE[:])) == 24 * 32 * 3, "once, where it is the picture"
    assert ROW.footprint(Frame("front", 0, 0, PICTURE, PICTURE[:12, :16].copy())) == 24 * 32 * 3 + 12 * 16 * 3
    assert ROW.footprint(Frame("front", 0, 0, data, PICTURE)) == len(data) + 24 * 32 * 3
    assert ROW.footprint(Frame("front", 0, 0, data)) == len(data)
    assert [ROW.encoded(Frame("front", 0, 0, one)) for one in (PICTURE, data)] == [False, True]


def test_the_newest_frame_stands_for_all_that_wait() -> None:
    row = kind_of(SPEC)
    assert (row.keep, row.each_answered, row.surplus, row.files(SPEC)) == (1, False, "superseded", ())
    assert row.reach_ns(SPEC) is None
    assert row.detail(SPEC) == "32x24, stretch, whole"


def flat(quality: int) -> bytes:
    """The same pixels by other bytes, for each quality."""
    picture = np.full((48, 64, 3), 100, np.uint8)
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


@pytest.mark.parametrize(("scaling", "frozen"), [("whole", True), ("reduced", False)])
def test_pixels_that_were_all_decoded_tell_by_themselves_whether_a_camera_repeats(scaling: str, frozen: bool) -> None:
    spec = replace(SPEC, scaling=scaling)
    admit = ROW.admission(spec)
    first, second = flat(90), flat(60)
    made = admit(first)
    assert not isinstance(made, Refusal)
    again = admit(second)
    assert isinstance(again, Refusal) == frozen
    assert isinstance(admit(second), Refusal), "the same bytes are the same picture anyhow"


def test_a_recorded_frame_is_given_the_pixels_that_a_stream_takes() -> None:
    for picture in (noise(80, 1, (48, 64)), jpeg(noise(80, 1, (48, 64)))):
        fitted = ROW.fitted(SPEC, Frame("front", 3, 7, picture))
        assert fitted.pixels is not None and fitted.pixels.shape == (24, 32, 3)
        assert (fitted.picture is picture, fitted.seq) == (True, 3)
    with pytest.raises(ValueError, match="picture 3 of front"):
        ROW.fitted(SPEC, Frame("front", 3, 7, b"\xff\xd8no"))


def test_a_recorded_jpeg_that_is_none_is_named() -> None:
    record = ROW.to_record(Frame("front", 3, 7, jpeg(PICTURE)), AT, None)
    assert record.format == "jpeg"
    for data in (b"\xff\xd8no", bytes(record.data)[:-9]):
        with pytest.raises(ValueError, match="picture 3 of front"):
            ROW.to_message("front", replace(record, data=data))
