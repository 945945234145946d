"""The sink of kind `foxglove`, as a viewer of Foxglove's WebSocket protocol sees it.

The protocol: https://github.com/foxglove/ws-protocol/blob/main/docs/spec.md.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime import config
from edge_runtime.clock import RealClock
from edge_runtime.config import Config
from edge_runtime.errors import ConfigError
from edge_runtime.messages import Detection, Frame, Sample
from edge_runtime.publish.sink import published
from edge_runtime.recording.annotations import ImageAnnotations
from edge_runtime.recording.records import stream_schema, topic_schema
from edge_runtime.runtime import Runtime
from edge_runtime.streams import CameraStream, StreamSpec, TextStream
from edge_runtime.wire import DecisionMessage, InputState, StatusMessage
from tests.conftest import WAIT_S, jpeg, noise, running, tiny_config, wait_for
from tests.publish.test_sinks import BUNDLE, decision, status
from tests.test_runtime import Vehicle
from tests.tiny import STREAMS

pytest.importorskip("foxglove", reason="foxglove-sdk is not installed")
websockets = pytest.importorskip("websockets", reason="websockets is not installed")

from edge_runtime.publish import foxglove_sink  # noqa: E402
from edge_runtime.publish.foxglove_sink import FoxgloveSink  # noqa: E402

ROW = config.FoxgloveSink("tcp://127.0.0.1:*")
CONFIG = config.Config(name="car", bundle="b", source=())
TOPICS = {"/decision", "/status", "/annotations/camera", *(f"/streams/{name}" for name in STREAMS)}


class Viewer:
    """Connects, and hears what is announced and sent."""

    def __init__(self, endpoint: str) -> None:
        from websockets.sync.client import connect

        self._stack = ExitStack()
        asked = connect(endpoint, subprotocols=["foxglove.sdk.v1"], max_size=None, open_timeout=WAIT_S)
        self._talk = self._stack.enter_context(asked)
        self.channels: dict[str, dict[str, Any]] = {}
        """Those that stand, by topic."""
        self._topics: dict[int, str] = {}
        self._got: list[tuple[str, int, bytes]] = []

    def announced(self, topics: set[str]) -> None:
        """Wait until those, and no others, stand."""
        while set(self.channels) != topics:
            self._hear()

    def subscribe(self, *topics: str) -> None:
        wanted = []
        for topic in topics:
            number = len(self._topics) + 1
            self._topics[number] = topic
            wanted.append({"id": number, "channelId": self.channels[topic]["id"]})
        self._talk.send(msgspec.json.encode({"op": "subscribe", "subscriptions": wanted}).decode())

    def next(self, topic: str) -> tuple[int, bytes]:
        """Time and content of the next message there."""
        while True:
            for place, (where, at, content) in enumerate(self._got):
                if where == topic:
                    del self._got[: place + 1]
                    return at, content
            self._hear()

    def close(self) -> None:
        self._stack.close()

    def _hear(self) -> None:
        data = self._talk.recv(WAIT_S)
        if isinstance(data, bytes):
            if data[0] == 1:
                number, at = struct.unpack_from("<IQ", data, 1)
                self._got.append((self._topics[number], at, data[13:]))
            return
        told = msgspec.json.decode(data)
        if told["op"] == "advertise":
            self.channels |= {channel["topic"]: channel for channel in told["channels"]}
        elif told["op"] == "unadvertise":
            self.channels = {topic: one for topic, one in self.channels.items() if one["id"] not in told["channelIds"]}


@pytest.fixture
def sink() -> Iterator[FoxgloveSink]:
    opened = FoxgloveSink(ROW, RealClock())
    opened.session(CONFIG, BUNDLE, STREAMS)
    yield opened
    opened.close()


@pytest.fixture
def viewer(sink: FoxgloveSink) -> Iterator[Viewer]:
    one = Viewer(sink.endpoint)
    one.announced(TOPICS)
    yield one
    one.close()


def subscribed(sink: FoxgloveSink, viewer: Viewer, *topics: str) -> None:
    """At least one of `topics` must be nobody else's: only that somebody is subscribed can be asked."""
    viewer.subscribe(*topics)
    wait_for(lambda: all(sink._wanted(topic) for topic in topics), "the subscriptions")


def picture_in(viewer: Viewer, content: bytes) -> Any:
    """`content` as the schema that was announced with the camera's channel says."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    told = viewer.channels["/streams/camera"]
    assert (told["encoding"], told["schemaEncoding"]) == ("protobuf", "protobuf")
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(told["schema"])).file:
        pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName(told["schemaName"]))
    return made.FromString(content)


def test_channels_have_the_schemas_of_a_recording(viewer: Viewer) -> None:
    wanted = {f"/streams/{name}": stream_schema(spec, name) for name, spec in STREAMS.items() if name != "camera"}
    wanted |= {"/decision": topic_schema(DecisionMessage), "/status": topic_schema(StatusMessage)}
    wanted["/annotations/camera"] = topic_schema(ImageAnnotations)
    for topic, (name, schema) in wanted.items():
        told = viewer.channels[topic]
        assert (told["encoding"], told["schemaEncoding"], told["schemaName"]) == ("json", "jsonschema", name)
        assert msgspec.json.decode(told["schema"]) == msgspec.json.decode(msgspec.json.encode(schema))
    assert viewer.channels["/streams/camera"]["schemaName"] == stream_schema(STREAMS["camera"], "camera")[0]


def test_pictures_come_as_they_came_and_boxes_in_their_pixels(sink: FoxgloveSink, viewer: Viewer) -> None:
    subscribed(sink, viewer, "/streams/camera", "/annotations/camera", "/decision")
    clock = RealClock()
    picture, now_ns = jpeg(noise(100, 1, (90, 160))), clock.now_ns()
    sink.message(Frame("camera", 3, now_ns, picture))
    things = (Detection("person", 0.9, (0.25, 0.5, 0.75, 1.0)),)
    inputs = {"camera": InputState(True, 0.0, 3)}
    item = published(decision(5, detections=things, inputs=inputs, captured_ns=now_ns, published_ns=now_ns + 10**6))
    sink.publish(item)
    sink.serve()
    at, content = viewer.next("/streams/camera")
    told = picture_in(viewer, content)
    assert (told.format, told.data, told.frame_id) == ("jpeg", picture, "camera")
    assert told.timestamp.ToNanoseconds() == at and abs(at - clock.wall_ns()) < 60e9, "wall time"
    decided_at, content = viewer.next("/decision")
    assert content == item.payload and decided_at == at + 10**6
    _, content = viewer.next("/annotations/camera")
    (box,) = msgspec.json.decode(content, type=ImageAnnotations).points
    assert [(point.x, point.y) for point in box.points] == [(40, 45), (120, 45), (120, 90), (40, 90)]


def test_raw_pictures_come_as_jpeg(sink: FoxgloveSink, viewer: Viewer) -> None:
    assert not sink.wants_whole
    subscribed(sink, viewer, "/streams/camera", "/streams/sensors")
    wait_for(lambda: sink.wants_whole, "the subscription")
    sink.message(Frame("camera", 0, 1, noise(100, 1)))
    sink.serve()
    shown = picture_in(viewer, viewer.next("/streams/camera")[1])
    assert (shown.format, shown.data[:2]) == ("jpeg", b"\xff\xd8")
    sink.message(Sample("sensors", 0, 1, {"a": 2.5}))
    sink.serve()
    assert msgspec.json.decode(viewer.next("/streams/sensors")[1])["values"] == {"a": 2.5}


def test_nothing_is_made_for_a_viewer_that_subscribes_to_nothing(
    sink: FoxgloveSink, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    real = foxglove_sink.to_record
    monkeypatch.setattr(foxglove_sink, "to_record", lambda *item: (made.append(item), real(*item))[1])
    for seq in range(100):
        sink.message(Frame("camera", seq, seq, b"no picture"))
        sink.publish(published(decision(seq)))
        sink.serve()
    assert sink._waiting.empty() and not sink._pictures and made == []
    subscribed(sink, viewer, "/status")
    sink.publish(published(decision(100)))
    sink.publish(published(status(7)))
    sink.serve()
    assert msgspec.json.decode(viewer.next("/status")[1])["seq"] == 7
    assert sink._waiting.empty() and (sink.missed, sink.trouble) == (0, None)


def test_nothing_is_made_for_a_viewer_before_the_turn_is_over(
    sink: FoxgloveSink, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribed(sink, viewer, "/streams/camera", "/decision")
    made: list[object] = []
    monkeypatch.setattr(sink, "_pass_on", made.append)
    sink.message(Frame("camera", 0, 0, jpeg(noise(100, 0))))
    sink.publish(published(decision(0)))
    assert made == [] and sink._waiting.empty()
    sink.serve()
    wait_for(lambda: len(made) == 2, "both")


def test_a_flood_of_pictures_costs_one_and_what_does_not_fit_is_counted(
    sink: FoxgloveSink, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribed(sink, viewer, "/streams/camera", "/decision")
    monkeypatch.setattr(foxglove_sink, "MAX_WAITING", 0)
    for seq in range(100):
        sink.message(Frame("camera", seq, seq, jpeg(noise(100, seq))))
        sink.publish(published(decision(seq)))
        sink.serve()
    assert len(sink._pictures) <= 1 and sink.missed == 100
    monkeypatch.undo()
    sink.publish(published(decision(500)))
    sink.serve()
    assert msgspec.json.decode(viewer.next("/decision")[1])["seq"] == 500


def test_a_viewer_that_reads_nothing_holds_nobody_up(sink: FoxgloveSink, viewer: Viewer) -> None:
    slow = Viewer(sink.endpoint)
    slow.announced(TOPICS)
    subscribed(sink, viewer, "/decision")
    subscribed(sink, slow, "/decision", "/status")  # nobody else looks at the status: once that is wanted, it has both
    long = ["tag"] * 10_000
    for seq in range(250):  # more than the sockets in between hold
        sink.publish(published(decision(seq, tags=long)))
        sink.serve()
        assert msgspec.json.decode(viewer.next("/decision")[1])["seq"] == seq
    assert (sink.missed, sink.trouble) == (0, None)
    slow.close()


def test_a_picture_that_is_none_is_a_trouble_until_the_next(sink: FoxgloveSink, viewer: Viewer) -> None:
    subscribed(sink, viewer, "/streams/camera")
    sink.message(Frame("camera", 0, 0, b"no picture"))
    sink.serve()
    wait_for(lambda: sink.trouble is not None, "the trouble")
    sink.message(Frame("camera", 1, 1, jpeg(noise(100, 1))))
    sink.serve()
    assert picture_in(viewer, viewer.next("/streams/camera")[1]).data == jpeg(noise(100, 1))
    wait_for(lambda: sink.trouble is None, "the end of it")


def test_another_bundle_changes_the_channels_and_leaves_the_rest_alone(sink: FoxgloveSink, viewer: Viewer) -> None:
    before = {topic: viewer.channels[topic]["id"] for topic in ("/decision", "/streams/camera")}
    other: dict[str, StreamSpec] = {
        "camera": CameraStream(64, 48, rate_hz=30, max_age_ms=300),
        "words": TextStream(8, max_age_ms=5000),
    }
    sink.session(CONFIG, BUNDLE, other)
    viewer.announced({"/decision", "/status", "/annotations/camera", "/streams/camera", "/streams/words"})
    assert {topic: viewer.channels[topic]["id"] for topic in before} == before
    subscribed(sink, viewer, "/decision")
    sink.publish(published(decision(1)))
    sink.serve()
    assert msgspec.json.decode(viewer.next("/decision")[1])["seq"] == 1


def test_a_closed_sink_frees_its_address_and_one_that_is_held_is_said(sink: FoxgloveSink) -> None:
    bind = sink.endpoint.replace("ws://", "tcp://")
    other = FoxgloveSink(config.FoxgloveSink(bind), RealClock())
    with pytest.raises(ConfigError, match="cannot be had"):
        other.session(CONFIG, BUNDLE, STREAMS)
    sink.close()
    sink.close()

    def free() -> bool:
        try:
            other.session(CONFIG, BUNDLE, STREAMS)
        except ConfigError:
            return False
        other.close()
        return True

    wait_for(free, "the address")


def test_a_running_service_is_seen_live(tiny_bundle_path: Path) -> None:
    base = tiny_config(tiny_bundle_path)
    with running(Runtime(msgspec.structs.replace(base, sink=(*base.sink, ROW)))) as runtime:
        vehicle = Vehicle(runtime)
        sink = next(outlet.sink for outlet in runtime._outlets if isinstance(outlet.sink, FoxgloveSink))
        viewer = Viewer(sink.endpoint)
        viewer.announced(TOPICS)
        subscribed(sink, viewer, "/streams/camera", "/decision", "/status")
        decided = vehicle.answer(240, "f1")
        seen = msgspec.json.decode(viewer.next("/decision")[1], type=DecisionMessage)
        while seen.seq < decided.seq:
            seen = msgspec.json.decode(viewer.next("/decision")[1], type=DecisionMessage)
        assert seen == decided
        assert msgspec.json.decode(viewer.next("/status")[1])["sinks"]["2 foxglove"]["state"] == "open"
        viewer.close()
        wait_for(lambda: not sink.wants_whole, "nobody to look")
        vehicle.close()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('bind = "ipc:///tmp/f"', "expected tcp://ADDRESS:PORT"),
        ('bind = "tcp://0.0.0.0:8765"', "open to the network"),
        ("jpeg_quality = 10", "jpeg_quality"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "car.toml"
    head = 'name = "car"\nbundle = "shipped:vehicle"\n[[source]]\nkind = "zmq"\n'
    path.write_text(f'{head}[[sink]]\nkind = "foxglove"\n{row}\n')
    with pytest.raises(ConfigError, match=message):
        Config.load(path)


def test_the_size_of_a_picture_is_that_of_the_whole() -> None:
    assert foxglove_sink._size(Frame("camera", 0, 0, np.zeros((7, 5, 3), np.uint8))) == (5, 7)
    assert foxglove_sink._size(Frame("camera", 0, 0, jpeg(noise(1, 1, (7, 5))))) == (5, 7)
