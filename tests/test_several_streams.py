"""Two cameras and two sensor streams in one bundle: live over sockets, recorded, replayed and evaluated.

logits = 4 * [brightness in front, brightness behind, the cabin's reading, the motion's], each times its stream's
presence; both pictures go through one run of the encoder. The front camera causes the decisions.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
from onnx import TensorProto, helper

from build_engines.evaluation.evaluate import evaluate
from calibration.moments import LabelledSet
from calibration.recordings import read_recording
from edge_runtime import Subscriber
from edge_runtime.bundle import MANIFEST, Bundle, Manifest, Stage, StageInput, encode_manifest, open_bundle
from edge_runtime.config import RecordingSink
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.messages import Frame, Message, Sample
from edge_runtime.pipeline import Pipeline
from edge_runtime.recording.reader import Recording
from edge_runtime.replay import recorded_answer, replay
from edge_runtime.runtime import Runtime
from edge_runtime.streams import CameraStream, Channel, SensorStream, StreamSpec
from edge_runtime.tensors import TensorSpec
from edge_runtime.wire import DecisionMessage, StatusMessage
from tests import tiny
from tests.conftest import WAIT_S, jpeg, noise, running, tiny_config

FRONT, REAR, CABIN, MOTION = "camera.front", "camera.rear", "cabin", "motion"
STREAMS: dict[str, StreamSpec] = {
    FRONT: CameraStream(tiny.WIDTH, tiny.HEIGHT, rate_hz=30, max_age_ms=20_000, required=True),
    REAR: CameraStream(tiny.WIDTH, tiny.HEIGHT, rate_hz=30, max_age_ms=60_000),
    CABIN: SensorStream((Channel("warmth", "1", 0, 9),), rate_hz=20, max_age_ms=60_000),
    MOTION: SensorStream((Channel("speed", "1", 0, 9),), rate_hz=20, max_age_ms=60_000),
}
LABELS = ("front", "rear", "warm", "fast")


def vision_graph() -> bytes:
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "full"], ["share"]),
        helper.make_node("Reshape", ["share", "shape"], ["features"]),
    ]
    constants = {"axes": np.array([1, 2, 3]), "full": np.float32(255), "shape": np.array([1, 2])}
    images = {"images": (TensorProto.UINT8, [2, tiny.HEIGHT, tiny.WIDTH, 3])}
    return tiny.graph("vision", nodes, images, {"features": (TensorProto.FLOAT, [1, 2])}, constants)


def reading_graph(name: str) -> bytes:
    nodes = [
        helper.make_node("Mul", ["window", "mask"], ["known"]),
        helper.make_node("Reshape", ["known", "shape"], ["features"]),
    ]
    inputs = {field: (TensorProto.FLOAT, [1, 1, 1]) for field in ("window", "mask")}
    return tiny.graph(name, nodes, inputs, {"features": (TensorProto.FLOAT, [1, 1])}, {"shape": np.array([1, 1])})


def fusion_graph() -> bytes:
    nodes = [
        helper.make_node("Concat", ["vision", CABIN, MOTION], ["features"], axis=1),
        helper.make_node("Mul", ["features", "presence"], ["there"]),
        helper.make_node("Mul", ["there", "four"], ["logits"]),
    ]
    inputs = {"vision": (TensorProto.FLOAT, [1, 2]), "presence": (TensorProto.FLOAT, [1, 4])}
    inputs |= {name: (TensorProto.FLOAT, [1, 1]) for name in (CABIN, MOTION)}
    return tiny.graph("fusion", nodes, inputs, {"logits": (TensorProto.FLOAT, [1, 4])}, {"four": np.float32(4)})


def features(width: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec("features", "float32", (1, width)),)


def reading_stage(name: str) -> Stage:
    inputs = tuple(StageInput(field, "float32", (1, 1, 1), f"stream:{name}:{field}") for field in ("window", "mask"))
    return Stage(name, inputs, features(1), {"fp32": f"stages/{name}.fp32.onnx"})


def write_bundle(folder: Path) -> Path:
    graphs = {"vision": vision_graph(), CABIN: reading_graph(CABIN), MOTION: reading_graph(MOTION)}
    files = {f"stages/{name}.fp32.onnx": graph for name, graph in (graphs | {"fusion": fusion_graph()}).items()}
    cameras = (f"stream:{FRONT}:image", f"stream:{REAR}:image")
    vision = StageInput("images", "uint8", (2, tiny.HEIGHT, tiny.WIDTH, 3), cameras)
    fusion = (
        StageInput("vision", "float32", (1, 2), "stage:vision:features"),
        StageInput(CABIN, "float32", (1, 1), f"stage:{CABIN}:features"),
        StageInput(MOTION, "float32", (1, 1), f"stage:{MOTION}:features"),
        StageInput("presence", "float32", (1, 4), "presence"),
    )
    stages = (
        Stage("vision", (vision,), features(2), {"fp32": "stages/vision.fp32.onnx"}),
        reading_stage(CABIN),
        reading_stage(MOTION),
        Stage("fusion", fusion, (TensorSpec("logits", "float32", (1, 4)),), {"fp32": "stages/fusion.fp32.onnx"}),
    )
    manifest = Manifest(
        format=1,
        name="several",
        version="1.0.0",
        head=SoftmaxHead(LABELS, "stage:fusion:logits"),
        trigger=FRONT,
        streams=STREAMS,
        stages=stages,
        decision=DecisionPolicy("rear", heartbeat_ms=5000),
        precision={"default": {stage.name: "fp32" for stage in stages}},
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        presence=tuple(STREAMS),
    )
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(write_bundle(tmp_path_factory.mktemp("several")), allow_unsigned=True)


class Sender:
    """Four senders at one socket, and a subscriber."""

    def __init__(self, runtime: Runtime) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUSH)
        self.socket.connect(runtime.input_endpoints[0])
        self.subscriber = Subscriber(runtime.decisions_endpoint, timeout_s=WAIT_S)
        self.statuses: list[StatusMessage] = []
        self.pictures = 0

    def frame(self, stream: str, brightness: int, id: str) -> None:
        header = {"schema": 1, "stream": stream, "id": id, "captured_ns": time.monotonic_ns()}
        self.pictures += 1
        self.socket.send_multipart([json.dumps(header).encode(), jpeg(noise(brightness, self.pictures))])

    def reading(self, stream: str, id: str, **values: float) -> None:
        stamp = time.monotonic_ns()
        self.socket.send_json({"schema": 1, "stream": stream, "id": id, "captured_ns": stamp, "values": values})

    def answer(self, brightness: int, id: str) -> DecisionMessage:
        """The decision on a frame of the front camera with that id."""
        self.frame(FRONT, brightness, id)
        while True:
            message = self.read()
            if isinstance(message, DecisionMessage) and message.inputs[FRONT].id == id:
                return message

    def read(self) -> DecisionMessage | StatusMessage:
        message = self.subscriber.receive(WAIT_S)
        assert message is not None
        if isinstance(message, StatusMessage):
            self.statuses.append(message)
        return message

    def close(self) -> None:
        self.socket.close(linger=0)
        self.context.term()
        self.subscriber.close()


Live = tuple[Path, dict[str, DecisionMessage], StatusMessage]


@pytest.fixture(scope="module")
def live(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The recording, the decisions by the id of their front frame, and the last status."""
    path = tmp_path_factory.mktemp("recorded") / "drive.mcap"
    base = tiny_config(bundle.path)
    with running(Runtime(msgspec.structs.replace(base, sink=(*base.sink, RecordingSink(str(path)))))) as runtime:
        sender = Sender(runtime)
        try:
            decisions = {"alone": sender.answer(200, "alone")}
            sender.frame(REAR, 250, "r1")
            decisions["both"] = sender.answer(100, "both")
            decisions["front"] = sender.answer(255, "front")
            sender.reading(CABIN, "c1", warmth=2.0)
            decisions["warm"] = sender.answer(100, "warm")
            sender.reading(MOTION, "m1", speed=3.0)
            sender.reading(CABIN, "c2", warmth=1.5)
            decisions["fast"] = sender.answer(50, "fast")
            sender.frame(REAR, 20, "r2")
            sender.reading(MOTION, "m2", speed=0.0, warmth=9.0)
            sender.reading(CABIN, "c3", warmth=0.0)
            decisions["front again"] = sender.answer(220, "front again")
            runtime.stop()
            while not (sender.statuses and sender.statuses[-1].state == "stopped"):
                sender.read()
        finally:
            sender.close()
    yield path, decisions, sender.statuses[-1]


RIGHT = {"alone": "front", "both": "rear", "front": "front", "warm": "warm", "fast": "fast", "front again": "front"}


def test_each_decision_is_made_of_what_all_four_gave(live: Live) -> None:
    _, decisions, _ = live
    assert {id: one.label for id, one in decisions.items()} == RIGHT
    assert {one.source for one in decisions.values()} == {"model"}
    inputs = {id: {name: part.id for name, part in one.inputs.items()} for id, one in decisions.items()}
    assert inputs == {
        "alone": {FRONT: "alone", REAR: None, CABIN: None, MOTION: None},
        "both": {FRONT: "both", REAR: "r1", CABIN: None, MOTION: None},
        "front": {FRONT: "front", REAR: "r1", CABIN: None, MOTION: None},
        "warm": {FRONT: "warm", REAR: "r1", CABIN: "c1", MOTION: None},
        "fast": {FRONT: "fast", REAR: "r1", CABIN: "c2", MOTION: "m1"},
        "front again": {FRONT: "front again", REAR: "r2", CABIN: "c3", MOTION: "m2"},
    }
    logits = 4 * np.array([100 / 255, 250 / 255, 2.0, 0.0])
    expected = np.exp(logits) / np.exp(logits).sum()
    assert list(decisions["warm"].probabilities.values()) == pytest.approx(expected.tolist(), abs=0.02)


def test_every_stream_has_an_account_of_its_own(live: Live) -> None:
    status = live[2]
    assert status.conserved and status.unrouted == {}
    counts = {name: (one.captured, one.decided, one.refused_values) for name, one in status.streams.items()}
    assert counts == {
        FRONT: (6, 6, {}),
        REAR: (2, 2, {}),
        CABIN: (3, 3, {}),
        MOTION: (2, 2, {"unknown_channel": 1}),
    }


def test_the_recording_holds_every_message_under_its_stream(live: Live) -> None:
    events = [event for event in Recording(live[0]).events() if isinstance(event, Message)]
    assert [(one.stream, one.id) for one in sorted(events, key=lambda one: one.captured_ns)] == [
        (FRONT, "alone"),
        (REAR, "r1"),
        (FRONT, "both"),
        (FRONT, "front"),
        (CABIN, "c1"),
        (FRONT, "warm"),
        (MOTION, "m1"),
        (CABIN, "c2"),
        (FRONT, "fast"),
        (REAR, "r2"),
        (MOTION, "m2"),
        (CABIN, "c3"),
        (FRONT, "front again"),
    ]
    kinds = {one.stream: type(one) for one in events}
    assert kinds == {FRONT: Frame, REAR: Frame, CABIN: Sample, MOTION: Sample}


def test_a_replay_decides_the_same_bit_for_bit(live: Live, bundle: Bundle) -> None:
    path, decisions, _ = live
    pairs = [(recorded_answer(old), new) for old, new in replay(Recording(path), lambda _: Pipeline(bundle))]
    assert all(old == new for old, new in pairs)
    answers = {new.seq: new for _, new in pairs}
    for one in decisions.values():
        assert answers[one.seq] == recorded_answer(one)


def moments(path: Path, decisions: dict[str, DecisionMessage]) -> list[LabelledSet]:
    """The recorded moments of those decisions, with what is right in place of what was said."""
    right = {f"{path.stem}/{one.seq}": RIGHT[id] for id, one in decisions.items()}
    found = [replace(one, label=right[one.id]) for one in read_recording(path) if one.id in right]
    assert len(found) == len(RIGHT)
    return found


def test_the_build_line_evaluates_what_was_recorded_and_what_each_stream_is_worth(live: Live, bundle: Bundle) -> None:
    path, decisions, _ = live
    pipeline = Pipeline(bundle)
    try:
        whole = evaluate(pipeline, moments(path, decisions))
        assert [(one.truth, one.label) for one in whole.predictions] == [(label, label) for label in RIGHT.values()]
        for one, said in zip(whole.predictions, decisions.values(), strict=True):
            assert one.probabilities == said.probabilities, "as live, to the last bit"
        assert whole.refused == {}, "what admission left out is not in the recording"
        for dropped, wrong in ((REAR, {"rear"}), (CABIN, {"warm"}), (MOTION, {"fast"})):
            without = evaluate(pipeline, moments(path, decisions), drop=(dropped,), unknown=())
            assert {one.truth for one in without.predictions if one.label != one.truth} == wrong
        blind = evaluate(pipeline, moments(path, decisions), drop=(FRONT,))
        assert {one.reason for one in blind.predictions} == {f"{FRONT} missing"}
    finally:
        pipeline.close()
