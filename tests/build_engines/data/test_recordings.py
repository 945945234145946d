"""Labelled recordings: which moments there are, what is known at each, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import Writer

from build_engines.data.datasets import layout_of
from build_engines.data.recordings import prepare, read
from build_engines.recipe import Recipe, load_recipe
from calibration.moments import replay
from edge_runtime.clock import RealClock
from edge_runtime.config import Config
from edge_runtime.errors import UserError
from edge_runtime.messages import Frame, Message, Sample, Utterance
from edge_runtime.recording.recorder import Recorder
from edge_runtime.wire import BundleId

RECIPE = """
name = "yard"
version = "1.0.0"
layout = "recordings"
labels = ["empty", "busy"]
trigger = "camera.front"
[streams."camera.front"]
kind = "camera"
width = 16
height = 16
rate_hz = 10.0
max_age_ms = 500.0
[streams.gyro]
kind = "sensors"
rate_hz = 20.0
max_age_ms = 500.0
window = 3
step_ms = 50.0
channels = [{ name = "yaw", unit = "deg/s", minimum = -1000.0, maximum = 1000.0 }]
[streams.text]
kind = "text"
max_tokens = 8
max_age_ms = 300.0
[decision]
safe_label = "empty"
[tokenizer]
vocabulary = 300
[model]
features = 8
[model.vision]
streams = ["camera.front"]
widths = [4]
[model.text]
stream = "text"
width = 8
[model.sensors]
stream = "gyro"
width = 8
[model.fusion]
kind = "concat"
width = 8
[train]
epochs = 1
batch = 4
"""
MS = 1_000_000
FRAMES = 20


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "yard.toml"
    path.write_text(RECIPE)
    made = load_recipe(path)[0]
    assert isinstance(made, Recipe)
    return made


START, WALL = 5_000_000_000, 1_700_000_000_000_000_000


class Still(RealClock):
    """At one moment."""

    def now_ns(self) -> int:
        return START

    def wall_ns(self) -> int:
        return WALL


def record(path: Path, recipe: Recipe) -> Path:
    """Two seconds: a frame each 100 ms, as bright as its number; a reading each 50 ms; a sentence at the beginning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(path, Still())
    recorder.session(Config(name="t", bundle="b", source=()), BundleId("t", "1", "0" * 64), recipe.streams)
    sent: list[Message] = [Utterance("text", 0, START, "a van comes in")]
    for number in range(FRAMES):
        at = START + number * 100 * MS
        sent += [
            Sample("gyro", 2 * number + half, at + half * 50 * MS, {"yaw": 2.0 * number + half}) for half in (0, 1)
        ]
        sent.append(Frame("camera.front", number, at + 60 * MS, np.full((16, 16, 3), 10 * number, np.uint8)))
    for message in sent:
        recorder.message(message)
    recorder.close()
    return path


def label(path: Path, lines: str, header: str = "start_s,end_s,label") -> None:
    path.with_suffix(".csv").write_text(f"{header}\n{lines}\n")


def with_track(path: Path, marks: list[tuple[float, str]]) -> None:
    """The same recording with a topic of labels."""
    with path.open("rb") as file:
        rows = list(make_reader(file).iter_messages())
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channels: dict[str, int] = {}
        for schema, channel, message in rows:
            assert schema is not None
            if channel.topic not in channels:
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.topic] = writer.register_channel(channel.topic, channel.message_encoding, number)
            writer.add_message(channels[channel.topic], message.log_time, message.data, message.publish_time)
        track = writer.register_channel("/labels", "json", 0)
        for seconds, name in marks:
            at = WALL + round(seconds * 1e9)
            writer.add_message(track, at, json.dumps({"label": name}).encode(), at)
        writer.finish()


@pytest.mark.parametrize("form", ["seconds", "nanoseconds", "track"])
def test_frames_within_a_label_are_moments_with_what_was_known_then(recipe: Recipe, tmp_path: Path, form: str) -> None:
    path = record(tmp_path / "train" / "a.mcap", recipe)
    if form == "seconds":
        label(path, "0.5,1.0,empty\n1.5,1.8,busy")
    elif form == "nanoseconds":
        rows = ((0.5, 1.0, "empty"), (1.5, 1.8, "busy"))
        lines = (f"{WALL + round(a * 1e9)},{WALL + round(b * 1e9)},{name}" for a, b, name in rows)
        label(path, "\n".join(lines), "start_ns,end_ns,label")
    else:
        with_track(path, [(0.5, "empty"), (1.0, ""), (1.5, "busy"), (1.8, "")])
    moments = list(read(tmp_path, "train", recipe.streams))
    # Frames come at 0.06, 0.16, ...: from 0.56 to 0.96, and from 1.56 to 1.76.
    assert [one.label for one in moments] == ["empty"] * 5 + ["busy"] * 3
    assert [one.reference_ns - START for one in moments] == [
        ms * MS for ms in (560, 660, 760, 860, 960, 1560, 1660, 1760)
    ]
    assert {one.group for one in moments} == {"a session 1"} and {one.cluster for one in moments} == {"a"}
    for moment, aligned in replay(recipe.streams, moments):
        number = (moment.reference_ns - START) // (100 * MS)
        frame, last = aligned.slices["camera.front"].newest, aligned.slices["gyro"].newest
        assert isinstance(frame, Frame) and frame.pixels is not None and int(frame.pixels.mean()) == 10 * number
        assert isinstance(last, Sample) and last.values == {"yaw": 2.0 * number + 1}
        assert len(aligned.slices["gyro"].messages) >= 3, "the window reaches behind the label's beginning"
        assert not aligned.slices["text"].present, "the sentence is too old by then"


def test_fewer_moments_and_those_of_another_stream(recipe: Recipe, tmp_path: Path) -> None:
    label(record(tmp_path / "train" / "a.mcap", recipe), "0,2,busy")
    sparse = msgspec.structs.replace(recipe.dataset, every_ms=250.0)
    assert len(list(read(tmp_path, "train", recipe.streams, sparse))) == 7
    readings = msgspec.structs.replace(recipe.dataset, moments="gyro")
    assert len(list(read(tmp_path, "train", recipe.streams, readings))) == 2 * FRAMES
    unknown = msgspec.structs.replace(recipe.dataset, moments="lidar")
    with pytest.raises(UserError, match=r"dataset\.moments is 'lidar'"):
        list(read(tmp_path, "train", recipe.streams, unknown))


def test_training_has_all_of_it(recipe: Recipe, tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        label(record(tmp_path / split / f"{name}.mcap", recipe), "0,1,empty\n1,2,busy")
    assert layout_of(tmp_path, "train").read(tmp_path, "train", recipe.streams)
    prepared = prepare(recipe, tmp_path, tmp_path / "work")
    yaw = prepared.streams["gyro"].channels[0]  # type: ignore[union-attr]
    assert yaw.mean == pytest.approx(19.5) and prepared.tokenizer
    assert prepared.train.counts.tolist() == [10, 10]
    batch = prepared.val[0]
    assert batch.presence[:, 1].tolist() == [1, 1, 1, 0][: len(batch.presence)], "300 ms after it was said it is gone"
    window = batch.inputs["sensors"][0][2, :, 0] * yaw.std + yaw.mean
    assert window == pytest.approx([3, 4, 5], abs=1e-4)


@pytest.mark.parametrize(
    ("lines", "header", "expected"),
    [
        ("0,1,busy\n0.5,2,empty", "start_s,end_s,label", "hold at once, from 0.500 s on"),
        ("1,0,busy", "start_s,end_s,label", "ends before it starts"),
        ("now,1,busy", "start_s,end_s,label", "start_s is 'now'"),
        ("0,1", "from,label", "neither start_s nor start_ns"),
        ("0,1", "start_s,end_s", "no field 'label'"),
        ("100,200,busy", "start_s,end_s,label", "lies within a label"),
    ],
)
def test_labels_that_are_none_are_one_line(
    recipe: Recipe, tmp_path: Path, lines: str, header: str, expected: str
) -> None:
    label(record(tmp_path / "train" / "a.mcap", recipe), lines, header)
    with pytest.raises(UserError, match=expected) as caught:
        list(read(tmp_path, "train", recipe.streams))
    assert "\n" not in str(caught.value)


def test_a_recording_without_labels_and_a_label_that_the_recipe_lacks(recipe: Recipe, tmp_path: Path) -> None:
    path = record(tmp_path / "train" / "a.mcap", recipe)
    with pytest.raises(UserError, match=r"neither a\.csv beside it nor a topic /labels"):
        list(read(tmp_path, "train", recipe.streams))
    label(path, "0,2,full")
    with pytest.raises(UserError, match="full"):
        prepare(recipe, tmp_path, tmp_path / "work")
    with pytest.raises(UserError, match=r"no recordings val/\*\.mcap"):
        list(read(tmp_path, "val", recipe.streams))
