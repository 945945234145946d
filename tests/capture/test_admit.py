from __future__ import annotations

import math
import unicodedata

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.admit import (
    FUTURE_TOLERANCE_NS,
    MAX_JPEG_BYTES,
    MAX_STAMP_AGE_NS,
    WHITE_CHARS,
    FreezeDetector,
    Refusal,
    admit_image,
    admit_sample,
    admit_stamp,
    admit_text,
    decode_jpeg,
    decode_picture,
)
from edge_runtime.pictures import MAX_PIXELS
from edge_runtime.streams import CameraStream, Channel, SensorStream, TextStream
from tests.conftest import jpeg, noise

SENSORS = SensorStream((Channel("co2_ppm", "ppm", 0, 10_000), Channel("temp_c", "C", -40, 80)), 1, 1000)
TEXT = TextStream(8, 1000, max_chars=10)
CAMERA = CameraStream(32, 24, 30, 100, frozen_after=3, min_brightness=5)


def reason(answer: object) -> str | None:
    return answer.reason if isinstance(answer, Refusal) else None


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({}, "empty"),
        ({"co2_ppm": math.nan}, "not_finite"),
        ({"temp_c": -math.inf}, "not_finite"),
        ({"co2_ppm": -1.0}, "out_of_range"),
        ({"smell": 3.0}, "unknown_channel"),
        ({"co2_ppm": None, "smell": 3.0}, "null"),
        ({"co2_ppm": "unavailable"}, "not_a_number"),
        ({"co2_ppm": 10**400}, "not_a_number"),
        ({"co2_ppm": "400"}, None),
        ({"co2_ppm": 400.0, "smell": 3.0}, None),
        ({"temp_c": 20.0}, None),
    ],
)
def test_samples(values: dict[str, float], why: str | None) -> None:
    assert reason(admit_sample(SENSORS, values)) == why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("  \n", "empty"),
        ("a\x00b", "control_character"),
        ("a\x1b[2Jb", "control_character"),
        ("a\x9bb", "control_character"),
        ("a\ud83db", "control_character"),
        ("a\uffffb", "control_character"),
        ("a\U0001ffffeb", "control_character"),
        ("line\nline", None),
        ("a\r\n\tb", None),
        ("a\u2028b", None),
        ("ok \U0001fae9", None),  # of Unicode 16, which no Python before 3.14 knows
        ("unborn \U0001faff", None),
        ("开灯", None),
    ],
)
def test_sentences(text: str, why: str | None) -> None:
    assert reason(admit_text(TEXT, text)) == why


def test_a_long_sentence_is_cut_and_marked() -> None:
    assert admit_text(TEXT, "x" * 11) == ("x" * 10, True)
    assert admit_text(TEXT, " fits ") == ("fits", False)


@given(st.text(max_size=40))
def test_any_text_is_admitted_or_refused(text: str) -> None:
    answer = admit_text(TEXT, text)
    if isinstance(answer, Refusal):
        assert answer.reason in ("empty", "control_character")
    else:
        assert 0 < len(answer[0]) <= 10 and text.strip().startswith(answer[0])
        assert answer[0].encode() and not any(
            unicodedata.category(one) == "Cc" for one in answer[0] if one not in "\t\n\r\x85"
        )


SPACE = st.text(" \n\t\u2003", max_size=300)


@given(SPACE, st.text(max_size=30), SPACE)
def test_a_text_is_the_same_whether_or_not_all_of_it_is_looked_at(before: str, words: str, after: str) -> None:
    text = before + words + after
    given, stripped = admit_text(TEXT, text), text.strip()
    if len(text) <= 10 + WHITE_CHARS:
        if not stripped:
            assert reason(given) == "empty"
        elif not isinstance(given, Refusal):
            assert given == (stripped[:10], len(stripped) > 10)
    elif not isinstance(given, Refusal):
        assert stripped.startswith(given[0]) and given[1], "what was not looked at counts as cut off"


def test_white_space_without_end_is_not_searched_for_words() -> None:
    assert reason(admit_text(TEXT, " " * 60_000 + "stop")) == "empty"
    assert admit_text(TEXT, " " * WHITE_CHARS + "stop") == ("stop", False)
    assert admit_text(TEXT, "stop" + " " * (WHITE_CHARS + 6)) == ("stop", False)
    assert admit_text(TEXT, "stop" + " " * 60_000) == ("stop", True)


def test_only_what_is_kept_of_a_sentence_is_looked_at() -> None:
    assert admit_text(TEXT, "ten chars." + "\x00" * 1000) == ("ten chars.", True)


def test_stamps_from_the_future_or_long_ago_are_refused() -> None:
    now = 10**12
    assert admit_stamp(now, None) == now
    assert admit_stamp(now, now - 5) == now - 5
    assert admit_stamp(now, now + FUTURE_TOLERANCE_NS) == now
    assert reason(admit_stamp(now, now + FUTURE_TOLERANCE_NS + 1)) == "bad_timestamp"
    assert reason(admit_stamp(now, now - MAX_STAMP_AGE_NS - 1)) == "bad_timestamp"


def test_a_jpeg_is_decoded_and_garbage_refused() -> None:
    data = jpeg(noise(80, 1))
    assert isinstance(decode_jpeg(data), np.ndarray)
    assert reason(decode_jpeg(b"")) == "not_jpeg"
    assert reason(decode_jpeg(b"\x89PNG....")) == "not_jpeg"
    assert reason(decode_jpeg(b"\xff\xd8\xff" + b"junk" * 20)) == "corrupt"
    assert reason(decode_jpeg(bytes(MAX_JPEG_BYTES + 1))) == "too_big"


@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoder(tail: bytes) -> None:
    assert isinstance(decode_jpeg(b"\xff\xd8" + tail), (Refusal, np.ndarray))


def test_pictures_that_no_camera_gives_are_refused() -> None:
    assert reason(admit_image(CAMERA, noise(80, 1))) is None
    assert reason(admit_image(CAMERA, np.zeros((24, 32), np.uint8))) == "bad_format"
    assert reason(admit_image(CAMERA, np.zeros((4, 4, 3), np.uint8))) == "bad_size"
    assert reason(admit_image(CAMERA, np.zeros((24, 32, 3), np.uint8))) == "black"


def test_a_camera_that_repeats_itself_is_frozen_until_it_moves() -> None:
    detector = FreezeDetector(CAMERA)
    still = noise(80, 1)
    assert [reason(detector.admit(still)) for _ in range(5)] == [None, None, None, "frozen", "frozen"]
    assert detector.admit(noise(80, 2)) is None


def test_a_camera_is_alive_if_one_byte_moves() -> None:
    detector = FreezeDetector(CAMERA)
    for index in range(8):
        picture = noise(80, 1)
        picture[0, 0, 0] = index
        assert detector.admit(picture) is None
    assert detector.admit(noise(80, 1)[:, :-1]) is None, "another size is another picture"


def test_every_reading_is_judged_by_itself() -> None:
    answer = admit_sample(SENSORS, {"co2_ppm": 400, "temp_c": 81.0, "smell": 1.0})
    assert not isinstance(answer, Refusal)
    kept, refused = answer
    assert kept == {"co2_ppm": 400.0}
    assert refused == {
        "temp_c": Refusal("out_of_range", "= 81.0 C, not in -40..80"),
        "smell": Refusal("unknown_channel"),
    }
    assert admit_sample(SENSORS, {"temp_c": None, "co2_ppm": "off"}) == Refusal("null", "temp_c")
    assert admit_sample(SENSORS, {"co2_ppm": "off" * 20}) == Refusal("not_a_number", f"co2_ppm = {('off' * 11)[:32]!r}")


@pytest.mark.parametrize(("value", "taken"), [(-40, True), (80, True), (-40.001, False), (80.001, False), (True, True)])
def test_the_ends_of_a_range_are_in_it(value: float, taken: bool) -> None:
    assert (admit_sample(SENSORS, {"temp_c": value}) == ({"temp_c": float(value)}, {})) == taken


def test_a_stamp_s_last_nanosecond_counts() -> None:
    now = 10**12
    assert admit_stamp(now, now - MAX_STAMP_AGE_NS) == now - MAX_STAMP_AGE_NS
    assert admit_stamp(now, now + 1) == now, "never later than now"
    answer = admit_stamp(now, now + 2 * 10**9)
    assert answer == Refusal("bad_timestamp", "captured_ns is +2.000 s from now")
    assert (FUTURE_TOLERANCE_NS, MAX_STAMP_AGE_NS) == (50_000_000, 60_000_000_000)


def test_a_sentence_of_exactly_the_greatest_length_is_whole() -> None:
    assert admit_text(TEXT, "x" * 10) == ("x" * 10, False)
    assert admit_text(TEXT, "a\x00b") == Refusal("control_character", "U+0000")


def test_a_jpeg_of_exactly_the_greatest_size_is_looked_at() -> None:
    assert MAX_JPEG_BYTES == 8 * 1024 * 1024
    assert reason(decode_jpeg(bytes(MAX_JPEG_BYTES))) == "not_jpeg"
    decoded = decode_jpeg(memoryview(jpeg(noise(80, 1))))
    assert isinstance(decoded, np.ndarray) and decoded.shape == (24, 32, 3)
    whole = decode_picture(bytes(cv2.imencode(".png", noise(80, 1))[1]))
    assert isinstance(whole, np.ndarray) and (whole == noise(80, 1)).all()


def test_a_picture_of_the_least_size_is_one() -> None:
    wide = CameraStream(32, 24, 30, 100)
    assert reason(admit_image(wide, np.zeros((8, 8, 3), np.uint8))) is None
    for shape in ((7, 8, 3), (8, 7, 3)):
        assert reason(admit_image(wide, np.zeros(shape, np.uint8))) == "bad_size"
    for shape in ((24, 32, 4), (24, 32, 1), (1, 24, 32, 3)):
        assert reason(admit_image(wide, np.zeros(shape, np.uint8))) == "bad_format"
    assert reason(admit_image(wide, np.zeros((24, 32, 3), np.uint16))) == "bad_format"  # type: ignore[arg-type]


def test_a_picture_of_the_greatest_size_is_one() -> None:
    lazily = np.broadcast_to(np.uint8(9), (1024, MAX_PIXELS // 1024, 3))  # no memory of its own
    assert lazily.shape[0] * lazily.shape[1] == MAX_PIXELS
    assert reason(admit_image(CAMERA, lazily)) is None
    longer = np.broadcast_to(np.uint8(9), (1024, MAX_PIXELS // 1024 + 1, 3))
    assert reason(admit_image(CAMERA, longer)) == "bad_size"


def test_one_bright_pixel_of_the_grid_in_any_channel_is_light() -> None:
    for channel in range(3):
        dark = np.zeros((64, 64, 3), np.uint8)
        dark[56, 40, channel] = 5
        assert reason(admit_image(CAMERA, dark)) is None
        dark[56, 40, channel] = 4
        assert reason(admit_image(CAMERA, dark)) == "black"
    between = np.zeros((64, 64, 3), np.uint8)
    between[57, 41] = 255
    assert reason(admit_image(CAMERA, between)) == "black", "a hot pixel beside the grid is not looked at"
    assert reason(admit_image(CameraStream(32, 24, 30, 100), np.zeros((24, 32, 3), np.uint8))) is None


def test_without_a_limit_a_camera_may_repeat_itself_for_ever() -> None:
    detector = FreezeDetector(CameraStream(32, 24, 30, 100))
    still = noise(80, 1)
    assert [detector.admit(still) for _ in range(100)] == [None] * 100


def test_repeats_are_counted_from_the_last_picture_that_moved() -> None:
    detector = FreezeDetector(CameraStream(32, 24, 30, 100, frozen_after=1))
    one, other = noise(80, 1), noise(80, 2)
    assert [reason(detector.admit(picture)) for picture in (one, one, other, one, one)] == [
        None,
        "frozen",
        None,
        None,
        "frozen",
    ]
    middle = one.copy()
    middle[12, 0, 0] ^= 1
    assert detector.admit(middle) is None, "the row that is looked at first is a row like others"


def test_what_is_admitted_is_the_picture_itself() -> None:
    picture = noise(80, 1)
    assert admit_image(CAMERA, picture) is picture
    faint = CameraStream(32, 24, 30, 100, min_brightness=0.5)
    assert reason(admit_image(faint, np.zeros((24, 32, 3), np.uint8))) == "black"
    assert reason(admit_image(faint, np.ones((24, 32, 3), np.uint8))) is None


def test_a_frozen_picture_may_have_any_shape_and_another_shape_is_another_picture() -> None:
    detector = FreezeDetector(CameraStream(32, 24, 30, 100, frozen_after=1))
    wide, high = noise(80, 1, (16, 96)), noise(80, 1, (96, 16))
    for picture in (wide, high):
        assert [reason(detector.admit(picture)) for _ in range(2)] == [None, "frozen"]
    assert detector.admit(high[:, :-1]) is None


def test_pictures_that_look_alike_repeat_only_if_what_they_were_made_from_does() -> None:
    """Decoded small, two frames of a live camera may be equal; the scans of their JPEGs are not."""
    detector = FreezeDetector(CameraStream(32, 24, 30, 100, frozen_after=1))
    picture, one, other = noise(80, 1), jpeg(noise(80, 2)), jpeg(noise(80, 3))
    marked = one[:2] + b"\xff\xfe\x00\x04ab" + one[2:]  # a comment in its header: a stamp, say
    given = ((one, None), (other, None), (other, "frozen"), (one, None), (marked, "frozen"), (None, "frozen"))
    for number, (data, why) in enumerate(given):
        assert reason(detector.admit(picture, data)) == why, number
