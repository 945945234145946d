from __future__ import annotations

import math
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.admit import (
    FUTURE_TOLERANCE_NS,
    MAX_JPEG_BYTES,
    MAX_STAMP_AGE_NS,
    FreezeDetector,
    Refusal,
    admit_image,
    admit_sample,
    admit_stamp,
    admit_text,
    decode_jpeg,
)
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
