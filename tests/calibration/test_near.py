"""Nearly equal moments: told by every modality at once, found without comparing all with all, kept once."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.near import MAX_BITS, MAX_LEVELS, MAX_SIGMA, Fingerprint, dhash, first_of_each, pairs
from calibration.samples import CalibrationSample
from calibration.select import Signature, choose, refuse_near, signature, without_doubles
from edge_runtime.errors import GateRefused
from edge_runtime.kinds.audio import AudioStream
from edge_runtime.messages import Tensor
from edge_runtime.tensor_source import TensorSource, stream_tensor
from tests import tiny


def scene(seed: int) -> NDArray[np.uint8]:
    """A smooth picture unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_CUBIC)


def moment(
    index: int, picture: NDArray[np.uint8], words: int = 1, reading: float = 0.0, label: str = "a", text: bool = True
) -> Signature:
    tensors: dict[TensorSource, Tensor] = {
        stream_tensor("camera", "image"): picture[None],
        stream_tensor("sensors", "window"): np.full((1, 4, 2), reading, np.float32),
        stream_tensor("sensors", "mask"): np.ones((1, 4, 2), np.float32),
    }
    if text:
        tensors[stream_tensor("text", "ids")] = np.full((1, 8), words, np.int32)
    present = ("camera", "sensors", "text") if text else ("camera", "sensors")
    sample = CalibrationSample(f"m{index}", f"g{index}", label, "", present, tensors)
    return signature(index, sample, tiny.STREAMS)


def recompressed(picture: NDArray[np.uint8], quality: int = 60) -> NDArray[np.uint8]:
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)


def recoloured(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same brightness everywhere in other colours: what a grey hash cannot tell."""
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    return np.stack([grey, grey, grey], axis=2)


def lit(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A lamp of that colour, a sixteenth of the height across, where the picture is as dark as it."""
    changed = picture.copy()
    changed[20:40, 40:60] = colour
    return changed


def test_a_light_that_changes_colour_but_not_brightness_is_another_moment() -> None:
    red, green = lit(scene(0), (0, 0, 200)), lit(scene(0), (0, 102, 0))  # 0.299 * 200 = 0.587 * 102
    assert (dhash(red) ^ dhash(green)).bit_count() <= MAX_BITS
    assert len(choose([moment(0, red), moment(1, green)], 9, 0)) == 2
    assert len(choose([moment(0, red), moment(1, recompressed(red))], 9, 0)) == 1


def test_the_hash_keeps_through_compression_and_light_and_differs_between_scenes() -> None:
    for seed in range(20):
        first = scene(seed)
        for like in (recompressed(first), cv2.convertScaleAbs(first, alpha=0.9, beta=3)):
            assert (dhash(first) ^ dhash(np.asarray(like))).bit_count() <= MAX_BITS
        assert (dhash(first) ^ dhash(scene(seed + 100))).bit_count() > 10


def test_the_hash_is_that_of_its_source() -> None:
    """Row by row, a bit for each of 8 neighbours that is brighter than the one to its left."""
    picture = np.zeros((8, 9, 3), np.uint8)
    picture[0, 1:] = 200  # brighter once, at the first step of the first row
    picture[7, 8] = 200  # and at the last of the last
    assert dhash(picture) == (1 << 63) | 1


@pytest.mark.parametrize(
    ("other", "near"),
    [
        ({"picture": recompressed(scene(0))}, True),
        ({"reading": MAX_SIGMA / 2}, True),
        ({"picture": scene(1)}, False),
        ({"picture": recoloured(scene(0))}, False),
        ({"picture": lit(scene(0), (10, 10, 85))}, False),
        ({"reading": MAX_SIGMA * 2}, False),
        ({"words": 2}, False),
        ({"text": False}, False),
        ({"label": "b", "reading": MAX_SIGMA / 2}, False),
    ],
)
def test_near_is_what_is_near_in_all_that_is_there(other: dict[str, object], near: bool) -> None:
    one = moment(0, scene(0))
    two = moment(1, **({"picture": scene(0)} | other))  # type: ignore[arg-type]
    assert len(choose([one, two], 9, 0)) == (1 if near else 2)


PRINTS = st.lists(
    st.tuples(
        st.sampled_from("xy"),
        st.integers(0, 7),
        st.lists(st.integers(0, 3), min_size=2, max_size=2),
        st.lists(st.sampled_from((0, MAX_LEVELS, MAX_LEVELS + 1, 255)), min_size=2, max_size=2),
    ),
    max_size=30,
).map(
    lambda rows: [
        Fingerprint(
            exact, (bits,), bytes(colours), (np.array(values, np.float32) * np.float32(0.8 * MAX_SIGMA)).tobytes()
        )
        for exact, bits, values, colours in rows
    ]
)


def _near(one: Fingerprint, other: Fingerprint) -> bool:
    a, b = (np.frombuffer(each.readings, np.float32) for each in (one, other))
    return (
        one.exact == other.exact
        and (one.hashes[0] ^ other.hashes[0]).bit_count() <= MAX_BITS
        and float(np.abs(a - b).max()) <= MAX_SIGMA
        and max(abs(x - y) for x, y in zip(one.colours, other.colours, strict=True)) <= MAX_LEVELS
    )


@given(PRINTS, PRINTS)
def test_the_search_finds_what_comparing_all_with_all_finds(some: list[Fingerprint], others: list[Fingerprint]) -> None:
    expected = {
        place: next(i for i, other in enumerate(others) if _near(one, other))
        for place, one in enumerate(some)
        if any(_near(one, other) for other in others)
    }
    assert dict(pairs(some, others)) == expected
    kept: list[int] = []
    for place, one in enumerate(some):
        if not any(_near(some[before], one) for before in kept):
            kept.append(place)
    assert first_of_each(some, ["a"] * len(some)) == kept


def test_fifteen_thousand_moments_of_one_sentence_take_seconds() -> None:
    rng = np.random.default_rng(0)
    readings = rng.normal(size=(15_000, 20)).astype(np.float32)
    hashes = rng.integers(0, 1 << 63, 15_000)
    prints = [
        Fingerprint("s", (int(bits),), readings=row.tobytes()) for bits, row in zip(hashes, readings, strict=True)
    ]
    start = time.process_time()
    assert len(first_of_each(prints, ["a"] * len(prints))) == 15_000
    assert time.process_time() - start < 20


def test_a_few_near_doubles_are_counted_and_many_are_refused() -> None:
    evaluated = [moment(index, scene(index)) for index in range(20)]
    chosen = [moment(index, scene(index + 50)) for index in range(19)]
    chosen.append(moment(19, recompressed(scene(3)), reading=MAX_SIGMA / 2))
    assert refuse_near(chosen, evaluated, 0.05) == 1
    with pytest.raises(GateRefused, match=r"1 of 20 .*\(such as m19 and m3\).*near_leak = 0\.04"):
        refuse_near(chosen, evaluated, 0.04)


def test_sounds_are_near_by_their_frames_as_readings_are() -> None:
    streams = {"mic": AudioStream(rate_hz=10, max_age_ms=400, window=8, mels=16)}
    frames = np.random.default_rng(0).normal(size=(1, 8, 16)).astype(np.float32)

    def heard(index: int, change: float) -> Signature:
        tensors: dict[TensorSource, Tensor] = {
            stream_tensor("mic", "frames"): frames + np.float32(change),
            stream_tensor("mic", "mask"): np.ones((1, 8, 1), np.float32),
        }
        return signature(index, CalibrationSample(f"m{index}", f"g{index}", "a", "", ("mic",), tensors), streams)

    every = [heard(0, 0.0), heard(1, 0.9 * MAX_SIGMA), heard(2, 1.5 * MAX_SIGMA)]
    assert [one.id for one in without_doubles(every)] == ["m0", "m2"]
