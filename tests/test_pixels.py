"""A camera's pixels: the same on every path, as plain references make them, at whatever scale they are decoded."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from PIL import Image

from edge_runtime import pictures
from edge_runtime.admit import Refusal
from edge_runtime.bundle import open_bundle
from edge_runtime.clock import RealClock
from edge_runtime.config import Config, RecordConfig
from edge_runtime.errors import UserError
from edge_runtime.kinds.record import wall_time
from edge_runtime.messages import Frame, Slice
from edge_runtime.pictures import PictureError, decode
from edge_runtime.pixels import LETTERBOX_LEVEL, fewest, fitted, pixels, unfitted
from edge_runtime.recording.recorder import Recorder
from edge_runtime.recording.records import encode
from edge_runtime.streams import CameraStream, kind_of
from edge_runtime.wire import BundleId
from tests import tiny
from tests.conftest import jpeg, noise, tiny_config
from tests.test_pictures import WHOLE, turned
from tests.test_replay import replayed
from tests.test_runtime import driving

Picture = NDArray[np.uint8]
JPEGS = sorted(name for name in WHOLE if "jpeg" in name)


def spec(width: int, height: int, **more: Any) -> CameraStream:
    return CameraStream(width, height, 30, 100, **more)


def scene(width: int, height: int, seed: int = 0) -> Picture:
    """What a camera sees: surfaces, edges, a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.rectangle(smooth, (width // 5, height // 4), (width // 2, height // 2), (20, 40, 230), -1)
    return np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


def area(image: NDArray[Any], width: int, height: int) -> NDArray[np.float64]:
    """Every pixel the mean of the part of `image` that it covers, by its definition."""

    def weights(size: int, onto: int) -> NDArray[np.float64]:
        edges = np.arange(onto + 1) * size / onto
        places = np.arange(size)
        low, high = np.maximum(edges[:-1, None], places), np.minimum(edges[1:, None], places + 1)
        return np.maximum(high - low, 0) * onto / size

    rows, columns = weights(image.shape[0], height), weights(image.shape[1], width)
    return np.einsum("hy,yxc,wx->hwc", rows, image.astype(np.float64), columns, optimize=True)  # type: ignore[no-any-return]


def test_a_bundle_that_says_nothing_keeps_the_pixels_that_it_was_trained_on() -> None:
    text = '{"kind": "camera", "width": 40, "height": 30, "rate_hz": 30, "max_age_ms": 100}'
    old = msgspec.json.decode(text, type=CameraStream)
    for size in ((40, 30), (640, 360), (333, 251), (20, 90)):
        data = jpeg(scene(*size))
        whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        how = cv2.INTER_AREA if size[0] >= 40 and size[1] >= 30 else cv2.INTER_LINEAR
        assert_array_equal(pixels(old, data), cv2.resize(whole, (40, 30), interpolation=how))
        assert_array_equal(pixels(old, whole), cv2.resize(whole, (40, 30), interpolation=how))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "onto", "decoded"),
    [
        ((640, 360), (160, 96), (320, 180)),
        ((640, 360), (160, 90), (160, 90)),
        ((1920, 1080), (160, 96), (240, 135)),
        ((1920, 1080), (480, 270), (480, 270)),
        ((1920, 1080), (481, 270), (960, 540)),
        ((1920, 1088), (240, 136), (240, 136)),
        ((1920, 1084), (160, 96), (480, 271)),
        ((1282, 722), (160, 90), (641, 361)),
        ((1283, 722), (160, 90), (1283, 722)),
        ((100, 80), (96, 96), (100, 80)),
        ((90, 9), (96, 96), (90, 9)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_covers_what_the_model_takes(
    size: tuple[int, int], onto: tuple[int, int], decoded: tuple[int, int]
) -> None:
    data = jpeg(scene(*size))
    image = decode(data, fewest(spec(*onto, scaling="reduced")))
    assert image.shape == (decoded[1], decoded[0], 3)
    by = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    how = by.get(round(size[0] / decoded[0]), cv2.IMREAD_REDUCED_COLOR_8)
    assert_array_equal(image, cv2.imdecode(np.frombuffer(data, np.uint8), how))


@settings(max_examples=200)
@given(
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from(["stretch", "letterbox", "crop"]),
    st.sampled_from([0, 6]),
)
def test_no_picture_is_decoded_to_fewer_pixels_than_it_has_and_the_model_takes(
    size: tuple[int, int], onto: tuple[int, int], fit: Any, orientation: int
) -> None:
    out = io.BytesIO()
    how = {"exif": turned()} if orientation else {}
    Image.fromarray(noise(100, 1, size[::-1])).save(out, "JPEG", **how)
    taking = spec(*onto, scaling="reduced", fit=fit)
    whole, image = decode(out.getvalue()), decode(out.getvalue(), fewest(taking))
    assert whole.shape[:2] == (size if orientation else size[::-1]), "turned as it asks"
    ratio = whole.shape[1] / onto[0], whole.shape[0] / onto[1]
    reduction = whole.shape[0] // image.shape[0]
    assert (image.shape[0] * reduction, image.shape[1] * reduction) == whole.shape[:2], "evenly"
    assert reduction in (1, 2, 4, 8)
    assert reduction == 1 or reduction <= (max(ratio) if fit == "letterbox" else min(ratio)) + 0.5
    if fit != "letterbox":
        assert all(image.shape[axis] >= min(onto[1 - axis], whole.shape[axis]) for axis in (0, 1))
    assert pixels(taking, out.getvalue()).shape == (onto[1], onto[0], 3)


@pytest.mark.parametrize("name", JPEGS)
def test_a_reduced_picture_is_proven_whole_like_any_other(name: str) -> None:
    data, taking = WHOLE[name], spec(15, 15, scaling="reduced")
    image = decode(memoryview(data), fewest(taking))
    assert sorted(image.shape[:2]) == [15, 20]
    assert_array_equal(image, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_8))
    assert np.abs(image - area(decode(data), image.shape[1], image.shape[0])).mean() < 4
    for cut in (1, 2, 7, len(data) // 10, len(data) // 2, len(data) - 12):
        with pytest.raises(PictureError, match="corrupt"):
            pixels(taking, data[:-cut])
    for begin, end in ((0.5, 0.55), (0.4, 0.9), (0.3, 0.5)):
        with pytest.raises(PictureError, match="corrupt"):
            pixels(taking, data[: int(begin * len(data))] + data[int(end * len(data)) :])


@settings(max_examples=150)
@given(st.sampled_from(JPEGS), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6))
def test_what_is_refused_whole_is_refused_reduced_and_the_other_way_round(
    name: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(WHOLE[name])
    for place, value in changes:
        data[int(place * len(data))] = value

    def reason(least: pictures.Fewest | None) -> str:
        try:
            decode(bytes(data), least)
        except PictureError as error:
            return error.reason
        return ""

    assert reason(lambda width, height: (1, 1)) == reason(None)


SIZES = [(640, 360), (1280, 720), (333, 251), (642, 362)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("onto", [(160, 96), (96, 96), (33, 70)])
def test_reduced_pixels_are_nearly_those_of_averaged_areas(size: tuple[int, int], onto: tuple[int, int]) -> None:
    image = scene(*size)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    for picture, whole in ((image, image), (data, decode(data))):
        exact = area(whole, *onto)
        assert np.abs(pixels(spec(*onto), picture) - exact).max() <= 0.51, "by definition, rounded"
        away = pixels(spec(*onto, scaling="reduced"), picture) - exact
        assert np.abs(away).mean() < 2.1 and abs(away.mean()) < 0.5, "levels of 255"


@pytest.mark.parametrize("by", [2, 4, 8])
def test_whole_number_reductions_are_averaged_areas_but_for_a_rounding_each(by: int) -> None:
    image = scene(640, 360)
    away = pixels(spec(640 // by, 360 // by, scaling="reduced"), image) - area(image, 640 // by, 360 // by)
    assert np.abs(away).max() <= 1.5
    odd = scene(641, 361)
    assert_array_equal(pixels(spec(80, 45, scaling="reduced"), odd), pixels(spec(80, 45), odd))


def test_a_raw_frame_costs_no_temporary_of_its_size() -> None:
    image = scene(1920, 1080)
    tracemalloc.start()
    try:
        pixels(spec(160, 96, scaling="reduced"), image)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert image.nbytes // 5 < peak < image.nbytes // 3, "the first half is held, and seen here"


@pytest.mark.parametrize("scaling", ["whole", "reduced"])
@pytest.mark.parametrize("size", [*SIZES, (60, 200), (100, 40)])
@pytest.mark.parametrize("onto", [(96, 96), (160, 90), (40, 120)])
def test_fits_are_what_they_say(scaling: Any, size: tuple[int, int], onto: tuple[int, int]) -> None:
    image = cv2.GaussianBlur(scene(*size), (0, 0), 2)
    width, height = size
    far = 0.51 if scaling == "whole" else 4.0  # levels, at the worst pixel; in the mean over random surfaces
    enlarging = min(width / onto[0], height / onto[1]) < 1

    def away(made: Picture, exact: NDArray[np.float64]) -> float:
        off = np.abs(made - exact)
        return float(off.max() if scaling == "whole" else off.mean())

    letterbox = pixels(spec(*onto, fit="letterbox", scaling=scaling), image)
    scale = min(onto[0] / width, onto[1] / height)
    inner = round(width * scale), round(height * scale)
    left, top = (onto[0] - inner[0]) // 2, (onto[1] - inner[1]) // 2
    shown = letterbox[top : top + inner[1], left : left + inner[0]]
    assert away(shown, area(image, *inner)) <= far or scale > 1
    bars = letterbox.astype(int)
    bars[top : top + inner[1], left : left + inner[0]] = LETTERBOX_LEVEL
    assert (bars == LETTERBOX_LEVEL).all(), "all that is not the picture is grey"

    crop = pixels(spec(*onto, fit="crop", scaling=scaling), image)
    kept = min(width, round(height * onto[0] / onto[1])), min(height, round(width * onto[1] / onto[0]))
    assert width in kept or height in kept
    left, top = (width - kept[0]) // 2, (height - kept[1]) // 2
    middle = image[top : top + kept[1], left : left + kept[0]]
    assert crop.shape == (onto[1], onto[0], 3)
    assert away(crop, area(middle, *onto)) <= far or enlarging

    stretch = pixels(spec(*onto, scaling=scaling), image)
    assert away(stretch, area(image, *onto)) <= far or enlarging


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(["letterbox", "crop"]))
def test_any_shape_fits(width: int, height: int, fit: Any) -> None:
    image = np.full((height, width, 3), 200, np.uint8)
    made = fitted(spec(16, 12, fit=fit, scaling="reduced"), image)
    assert made.shape == (12, 16, 3)
    assert set(np.unique(made)) <= {200, LETTERBOX_LEVEL}
    assert 200 in made


TAKING = [
    msgspec.structs.replace(tiny.STREAMS["camera"], fit=fit, scaling=scaling)  # type: ignore[arg-type]
    for fit in ("stretch", "letterbox", "crop")
    for scaling in ("whole", "reduced")
]


@pytest.mark.parametrize("taking", TAKING)
@pytest.mark.parametrize("as_jpeg", [True, False])
def test_admission_preprocessing_and_a_recording_make_the_same_pixels(taking: CameraStream, as_jpeg: bool) -> None:
    image = scene(500, 282)
    content = memoryview(jpeg(image)) if as_jpeg else image
    row, expected = kind_of(taking), pixels(taking, content)
    made = row.admission(taking)(content)
    assert not isinstance(made, Refusal)
    live = made("camera", 0, 5, "x")
    recorded = encode(row.to_record(live, wall_time(5), None))
    back = row.to_message("camera", msgspec.json.decode(recorded, type=row.record))
    replayed_frame = row.fitted(taking, back)
    unfitted = Frame("camera", 0, 5, content)
    for frame in (live, back, replayed_frame, unfitted):
        tensors = row.preprocessor(taking, lambda name: b"")(Slice("camera", True, (frame,)))
        assert_array_equal(tensors["image"], expected[None])
    assert_array_equal(live.pixels, expected)
    assert_array_equal(replayed_frame.pixels, expected)
    assert back.encoded == (content if as_jpeg else None), "kept as it came"
    assert_array_equal(back.image, decode(content) if as_jpeg else image)
    again = row.admission(taking)(back)
    assert not isinstance(again, Refusal)
    assert_array_equal(again("camera", 1, 6, None).pixels, expected)


@pytest.mark.parametrize("taking", [TAKING[1], TAKING[5]])
def test_a_live_run_on_large_pictures_replays_bit_for_bit(taking: CameraStream, tmp_path: Path) -> None:
    patient = msgspec.structs.replace(taking, max_age_ms=60_000.0)
    bundle = tiny.write_bundle(tmp_path / "bundle", streams=tiny.STREAMS | {"camera": patient})
    path = tmp_path / "drive.mcap"
    configuration = msgspec.structs.replace(tiny_config(bundle), record=RecordConfig(str(path)))
    with driving(configuration) as (_, vehicle):
        for number in range(8):
            header = {"schema": 1, "stream": "camera", "captured_ns": time.monotonic_ns(), "id": f"f{number}"}
            vehicle.socket.send_multipart([json.dumps(header).encode(), jpeg(scene(640, 360, number))])
            while vehicle.decision(source="model").inputs["camera"].id != f"f{number}":
                pass
    pairs = replayed(path, open_bundle(bundle, allow_unsigned=True))
    assert all(old == new for old, new in pairs)
    assert len({new.confidence for _, new in pairs if new.source == "model"}) == 8, "each picture counts"
    other = tiny.write_bundle(tmp_path / "whole", streams=tiny.STREAMS)
    changed = replayed(path, open_bundle(other, allow_unsigned=True))
    assert any(old.confidence != new.confidence for old, new in changed), "another bundle makes its own pixels"


def test_a_camera_is_frozen_only_if_the_whole_picture_repeats() -> None:
    taking = spec(20, 15, scaling="reduced", frozen_after=2)
    flat = np.full((240, 320, 3), 100, np.uint8)
    fine = flat.copy()
    fine[::2, ::2], fine[1::2, ::2] = 104, 96  # a pattern that no block's mean shows

    def best(image: Picture) -> bytes:
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()

    first, second = best(flat), best(fine)
    assert_array_equal(decode(first, fewest(taking)), decode(second, fewest(taking)))
    assert (decode(first) != decode(second)).any()
    alive = kind_of(taking).admission(taking)
    assert not any(isinstance(alive(data), Refusal) for data in [first, second] * 5)

    def marked(number: int) -> bytes:
        """A camera's software goes on counting while its sensor hangs."""
        note = f"frame {number:06}".encode()
        return first[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + first[2:]

    hung = kind_of(taking).admission(taking)
    reasons = [answer.reason if isinstance(answer := hung(marked(at)), Refusal) else None for at in range(4)]
    assert reasons == [None, None, "frozen", "frozen"]


def test_a_covered_camera_is_black_at_any_scale() -> None:
    for scaling in ("whole", "reduced"):
        taking = spec(20, 15, scaling=scaling, min_brightness=12)
        admit = kind_of(taking).admission(taking)
        for image, black in ((np.full((240, 320, 3), 8, np.uint8), True), (noise(60, 3, (240, 320)), False)):
            for content in (image, jpeg(image)):
                answer = admit(content)
                assert (isinstance(answer, Refusal) and answer.reason == "black") is black


def test_a_recorded_picture_that_cannot_be_decoded_ends_a_replay_in_one_line(tmp_path: Path) -> None:
    data = jpeg(scene(64, 48))
    begin, end = len(data) // 2, len(data) * 3 // 4
    path = tmp_path / "holed.mcap"
    recorder = Recorder(path, RealClock())
    recorder.session(Config("x", "b", ()), BundleId("tiny", "1.0.0", "0" * 64), tiny.STREAMS)
    recorder.message(Frame("camera", 0, 5, data[:begin] + data[end:]))
    recorder.close()
    bundle = tiny.write_bundle(tmp_path / "bundle")
    with pytest.raises(UserError, match="picture 0 of camera: corrupt"):
        replayed(path, open_bundle(bundle, allow_unsigned=True))


@given(
    st.sampled_from(["stretch", "letterbox", "crop"]), st.integers(1, 400), st.integers(1, 400),
    st.integers(1, 99), st.integers(1, 99),
)  # fmt: skip
def test_places_are_found_again_behind_every_fit(fit: str, width: int, height: int, wide: int, high: int) -> None:
    """A light gradient says of each of the model's pixels where it came from: `unfitted` says the same."""
    camera = spec(wide, high, fit=fit)
    across = np.broadcast_to(np.linspace(0, 255, width) if width > 1 else np.zeros(1), (height, width))
    down = np.broadcast_to((np.linspace(0, 255, height) if height > 1 else np.zeros(1))[:, None], (height, width))
    image = np.stack([across, down, np.full((height, width), 255)], axis=-1).astype(np.uint8)
    made = fitted(camera, image)
    y, x = np.mgrid[0:high, 0:wide]
    middles = np.stack([(x + 0.5) / wide, (y + 0.5) / high], axis=-1).reshape(-1, 2)
    there = unfitted(camera, (width, height), np.concatenate([middles, middles], axis=1))[:, :2]
    inside = (made[..., 2] > 200).ravel() if fit == "letterbox" else np.ones(wide * high, bool)
    said = made.reshape(-1, 3)[inside].astype(float)
    for axis, size, ours in ((0, width, wide), (1, height, high)):
        if size > 1:
            # The first pixel's middle is 0, the last one's 255; a made pixel blends those that it covers.
            expected = ((there[inside, axis] * size - 0.5) / (size - 1) * 255).clip(0, 255)
            blur = 255 / (size - 1) + 255 / max(1, ours) + 2
            assert np.abs(said[:, axis] - expected).max(initial=0) <= blur
    outside = there[~inside]
    assert ((outside < 0) | (outside > 1)).any(axis=1).all(), "a grey bar is nowhere in the picture"
