"""The source of kind `rosbag` on recordings that `rosbags` has written, whole and broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.writer import Writer as McapWriter

from edge_runtime import config
from edge_runtime.admit import Refusal
from edge_runtime.capture.json_place import parse
from edge_runtime.capture.ros_messages import (
    COMPRESSED,
    IMAGE,
    LONGEST_DELAY_NS,
    delay_ns,
    field_of,
    picture_of,
    readings_of,
    sentence_of,
)
from edge_runtime.capture.rosbag_source import RosbagSource
from edge_runtime.config import RosTopic
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.messages import Frame, Sample, Utterance
from edge_runtime.recording.reader import Recording
from edge_runtime.runtime import Runtime
from edge_runtime.wire import DecisionMessage
from tests.capture.test_sources import Inbox
from tests.conftest import jpeg, noise, tiny_config, wait_for
from tests.ros_bags import WALL_NS, compressed, image, imu, store, write_bag

pytest.importorskip("rosbags", reason="rosbags is not installed")
pytest.importorskip("mcap_ros2", reason="mcap-ros2-support is not installed")

MS = 1_000_000
ROWS = (
    RosTopic("/imu", "sensors", {"a": "linear_acceleration.x", "b": "angular_velocity.z"}),
    RosTopic("/camera/compressed", "camera"),
    RosTopic("/camera/raw", "camera"),
    RosTopic("/said", "text"),
)
PIXELS = noise(120, 7)


def drive(types: Any) -> Iterator[tuple[str, int, Any]]:
    """A tenth of a second: an IMU at 100 Hz, two kinds of pictures, a sentence."""
    for index in range(10):
        at = WALL_NS + index * 10 * MS
        yield "/imu", at, imu(types, at - 3 * MS, float(index), 0.5)
        if index == 2:
            yield "/camera/compressed", at, compressed(types, at - 20 * MS, jpeg(PIXELS))
        if index == 4:
            yield "/camera/raw", at, image(types, at - 5 * MS, PIXELS, "bgr8", PIXELS.shape[1] * 3 + 5)
        if index == 6:
            yield "/said", at, types["std_msgs/msg/String"]("please stop now")
        yield "/tf_static", at, types["std_msgs/msg/String"]("nobody asks for it")


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp("bags") / "drive", drive(store().types))


def play(path: Path, *rows: RosTopic, speed: float = 1.0, loop: bool = False) -> Inbox:
    """To its end."""
    inbox = Inbox()
    source = inbox.open(config.RosbagSource(str(path), rows or ROWS, speed, loop))
    source.start()
    wait_for(lambda: source.ended, "the end")
    source.stop()
    assert source.state == "ended"
    return inbox


def test_topics_are_streams_at_their_own_spacing_and_as_old_as_they_were(bag: Path) -> None:
    inbox = play(bag)
    samples: list[Sample] = inbox.take("sensors")  # type: ignore[assignment]
    assert [dict(one.values) for one in samples] == [{"a": float(index), "b": 0.5} for index in range(10)]
    gaps = np.diff([one.captured_ns for one in samples])
    assert gaps.sum() == pytest.approx(90 * MS, abs=1)
    first, second = inbox.take("camera")
    assert isinstance(first, Frame) and bytes(first.picture) == jpeg(PIXELS), "a JPEG comes as it is"  # type: ignore[arg-type]
    assert isinstance(second, Frame) and np.array_equal(second.picture, PIXELS), "without what its rows are padded with"
    (said,) = inbox.take("text")
    assert isinstance(said, Utterance) and said.text == "please stop now"
    # Stamps were 3, 20 and 5 ms before the recording; a String has none.
    begun = samples[0].captured_ns + 3 * MS
    assert first.captured_ns == begun + 20 * MS - 20 * MS
    assert second.captured_ns == begun + 40 * MS - 5 * MS
    assert said.captured_ns == begun + 60 * MS


def test_the_folder_is_the_recording_too_and_speed_closes_the_gaps(bag: Path) -> None:
    samples = play(bag.parent, ROWS[0], speed=10.0).take("sensors")
    gaps = np.diff([one.captured_ns for one in samples])
    assert len(samples) == 10 and gaps.sum() == pytest.approx(9 * MS, abs=2)


def test_it_begins_again_where_it_is_to(bag: Path) -> None:
    inbox = Inbox()
    source = inbox.open(config.RosbagSource(str(bag), ROWS[:1], 50.0, True))
    source.start()
    wait_for(lambda: inbox.captured("sensors") >= 25, "the third time")
    source.stop(30.0)
    assert source.ended and source.state == "ended"


def test_a_runtime_decides_on_it_and_records_what_replays(bag: Path, tiny_bundle_path: Path, tmp_path: Path) -> None:
    recorded = tmp_path / "drive.mcap"
    chosen = tiny_config(tiny_bundle_path, config.RosbagSource(str(bag), ROWS), stop_at_end=True)
    chosen = msgspec.structs.replace(chosen, sink=(*chosen.sink, config.RecordingSink(str(recorded))))
    Runtime(chosen).run()
    events = list(Recording(recorded).events())
    assert 0 < sum(isinstance(event, Frame) for event in events) <= 2
    assert any(isinstance(event, DecisionMessage) and event.source == "model" for event in events)
    with pytest.raises(UserError, match=r'holds no decisions; a \[\[source\]\] of kind "rosbag" plays it'):
        Recording(bag)


def write_odd(path: Path, *, schema: str, encoding: str = "ros2msg", data: bytes = b"", message: str = "cdr") -> Path:
    """One message of one topic, as nobody should write it."""
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start("ros2", "a test")
        number = writer.register_schema("my_msgs/msg/Odd", encoding, schema.encode())
        channel = writer.register_channel("/odd", message, number)
        writer.add_message(channel, WALL_NS, data, WALL_NS)
        writer.finish()
    return path


def test_what_is_not_what_its_definition_says_is_refused_and_the_rest_is_heard(tmp_path: Path) -> None:
    types = store().types
    broken = imu(types, WALL_NS, 1.0, 2.0)
    bag = write_bag(tmp_path / "bag", [("/imu", WALL_NS, broken)])
    whole = bag.read_bytes()
    inbox = play(
        write_odd(tmp_path / "odd.mcap", schema="float64 x", data=b"\0\1\0\0\1"),
        RosTopic("/odd", "sensors", {"a": "x"}),
    )
    assert dict(inbox.intake.refusals("sensors")) == {"malformed": 1}
    good = b"\0\1\0\0" + np.float64(4.5).tobytes()
    odd = write_odd(tmp_path / "good.mcap", schema="float64 x", data=good)
    (sample,) = play(odd, RosTopic("/odd", "sensors", {"a": "x", "b": "y"})).take("sensors")
    assert dict(sample.values) == {"a": 4.5}  # type: ignore[attr-defined]
    assert dict(play(odd, RosTopic("/odd", "sensors", {"b": "y.z"})).intake.refusals("sensors")) == {"no_field": 1}
    assert dict(play(odd, RosTopic("/odd", "text", text="x")).intake.refusals("text")) == {"malformed": 1}
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[:100])
    with pytest.raises(ConfigError, match="source rosbag"):
        Inbox().open(config.RosbagSource(str(cut), ROWS))


@given(
    st.sampled_from(ROWS),
    st.binary(max_size=400),
    st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=4),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_whatever_the_bytes_are_each_message_is_accounted_for(
    bag: Path, row: RosTopic, garbage: bytes, flips: list[tuple[int, int]]
) -> None:
    inbox = Inbox()
    source = inbox.open(config.RosbagSource(str(bag), (row,)))
    assert isinstance(source, RosbagSource)
    item = next(source._items())
    changed = bytearray(item.data)
    for place, value in flips:
        changed[place % len(changed)] = value
    told = (garbage, item.data[:4] + garbage, bytes(changed), item.data[: len(garbage)])
    for data in told:
        source._take(item._replace(data=data), inbox.intake.clock.now_ns())
    account = inbox.boxes[row.stream].counts(inbox.boxes[row.stream].captured)
    assert account.captured == len(told) and inbox.intake.unrouted_counts() == {}
    source.stop()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"schema": "float64 x", "encoding": "ros2idl"}, "'cdr' by 'ros2idl'; expected 'cdr' by 'ros2msg'"),
        ({"schema": "float64 x", "message": "json"}, "'json' by 'ros2msg'"),
        ({"schema": "what is this?"}, "its definition cannot be read"),
    ],
)
def test_what_nobody_can_read_is_one_line(tmp_path: Path, made: dict[str, str], message: str) -> None:
    path = write_odd(tmp_path / "odd.mcap", **made)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message) as caught:
        Inbox().open(config.RosbagSource(str(path), (RosTopic("/odd", "sensors", {"a": "x"}),)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (RosTopic("/nothing", "sensors", {"a": "x"}), r"none of the topics \['/nothing'\]; there are \['/camera"),
        (RosTopic("/imu", "camera"), "is of type 'sensor_msgs/msg/Imu'; stream 'camera' takes"),
        (RosTopic("/imu", "nobody"), "no fitting stream 'nobody'; there are"),
        (RosTopic("/imu", "sensors"), "give `channels`"),
        (RosTopic("/imu", "sensors", {"z": "x"}), "no channel 'z'; there are a, b"),
        (RosTopic("/imu", "sensors", {"a": "x[y]"}), "is no place"),
    ],
)
def test_rows_that_cannot_be_meant_are_one_line(bag: Path, row: RosTopic, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Inbox().open(config.RosbagSource(str(bag), (row,)))
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_recording_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no .mcap"):
        Inbox().open(config.RosbagSource(str(tmp_path), ROWS))
    with pytest.raises(ConfigError, match="cannot be read"):
        Inbox().open(config.RosbagSource(str(tmp_path / "no.mcap"), ROWS))


@pytest.mark.parametrize("encoding", ["bgr8", "rgb8", "bgra8", "rgba8", "mono8", "8UC3", "8UC4", "8UC1"])
def test_pictures_of_every_encoding_are_blue_green_red(encoding: str) -> None:
    rng = np.random.default_rng(3)
    bgr = rng.integers(0, 256, (6, 5, 3), np.uint8)
    alpha = np.full((6, 5, 1), 17, np.uint8)
    grey = bgr[:, :, :1]
    given = {
        "bgr8": bgr, "8UC3": bgr, "rgb8": bgr[:, :, ::-1], "bgra8": np.dstack((bgr, alpha)),
        "8UC4": np.dstack((bgr, alpha)), "rgba8": np.dstack((bgr[:, :, ::-1], alpha)), "mono8": grey, "8UC1": grey,
    }[encoding]  # fmt: skip
    message = image(store().types, WALL_NS, np.ascontiguousarray(given), encoding, given.shape[1] * given.shape[2] + 3)
    expected = np.repeat(grey, 3, axis=2) if given is grey else bgr
    picture = picture_of(IMAGE, message)
    assert isinstance(picture, np.ndarray) and picture.flags.c_contiguous
    assert np.array_equal(picture, expected)


def test_pictures_that_are_none_are_refused() -> None:
    types = store().types
    pixels = np.zeros((6, 5, 3), np.uint8)

    def refused(message: Any, kind: str = IMAGE) -> str:
        found = picture_of(kind, message)
        assert isinstance(found, Refusal)
        return found.reason

    assert refused(image(types, WALL_NS, pixels, "bayer_rggb8", 15)) == "malformed"
    short = image(types, WALL_NS, pixels, "bgr8", 15)
    short.data = short.data[:-1]
    assert refused(short) == "malformed"
    narrow = image(types, WALL_NS, pixels, "bgr8", 15)
    narrow.step, narrow.data = 14, narrow.data[: 14 * 6]
    assert refused(narrow) == "malformed"
    huge = image(types, WALL_NS, pixels, "bgr8", 15)
    huge.height = huge.width = 1 << 31
    assert refused(huge) == "bad_size"
    empty = image(types, WALL_NS, pixels, "bgr8", 15)
    empty.height, empty.data = 0, empty.data[:0]
    assert refused(empty) == "bad_size"
    assert refused(compressed(types, WALL_NS, b"nonsense"), COMPRESSED)
    png = bytes(cv2.imencode(".png", PIXELS)[1])
    assert np.array_equal(picture_of(COMPRESSED, compressed(types, WALL_NS, png, "png")), PIXELS)  # type: ignore[arg-type]


def message(**fields: Any) -> Any:
    """As `mcap_ros2` makes them."""
    made = type("Message", (), {"__slots__": tuple(fields)})()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_places_in_messages() -> None:
    point = message(x=1.5, ranges=[3.0, 4.0])
    assert readings_of({"a": parse("x"), "b": parse("ranges[1]"), "c": parse("ranges[9]")}, point) == {
        "a": 1.5,
        "b": 4.0,
    }
    assert readings_of({"a": parse("ranges")}, point) == {"a": "list"}, "a word, which the stream refuses"
    for nowhere in ("__class__", "x.real", "x[0]", "y", "ranges.append"):
        with pytest.raises(LookupError):
            field_of(point, parse(nowhere))
    assert readings_of({"a": parse("y")}, point) == Refusal("no_field")
    assert sentence_of(parse("y"), point) == Refusal("no_field")


def test_only_a_stamp_of_the_same_clock_makes_a_message_older() -> None:
    stamp = message(sec=WALL_NS // 1_000_000_000, nanosec=WALL_NS % 1_000_000_000)
    at = message(header=message(stamp=stamp))
    for delay, counts in (
        (0, True),
        (7 * MS, True),
        (LONGEST_DELAY_NS, True),
        (LONGEST_DELAY_NS + 1, False),
        (-1, False),
    ):
        assert delay_ns(at, WALL_NS + delay) == (delay if counts else 0)
    for none in (message(data="x"), message(header=message()), message(header=message(stamp=3))):
        assert delay_ns(none, WALL_NS) == 0
