"""The bridge's messages fill the definitions of ROS 2, field by field, with what a running service publishes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from edge_runtime.messages import Detection
from edge_runtime.runtime import Runtime
from edge_runtime.wire import SinkHealth, SourceHealth, StreamHealth
from tests.conftest import WAIT_S, running, tiny_config
from tests.publish.test_sinks import decision, status

pytest.importorskip("rosbags", reason="rosbags is not installed")

FOLDER = Path(__file__).parents[2] / "examples" / "ros2"
DEFINITIONS = {
    "vision_msgs/msg/Classification": "std_msgs/Header header\nObjectHypothesis[] results",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score",
    "vision_msgs/msg/ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y",
    "vision_msgs/msg/Pose2D": "Point2D position\nfloat64 theta",
    "vision_msgs/msg/BoundingBox2D": "Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "vision_msgs/msg/Detection2D": (
        "std_msgs/Header header\nObjectHypothesisWithPose[] results\nBoundingBox2D bbox\nstring id"
    ),
    "vision_msgs/msg/Detection2DArray": "std_msgs/Header header\nDetection2D[] detections",
}
"""Of vision_msgs 4 (github.com/ros-perception/vision_msgs)."""
LEFT_OUT = {("vision_msgs/msg/ObjectHypothesisWithPose", "pose")}
"""What the bridge leaves at its default."""


@pytest.fixture(scope="module")
def bridge() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bridge_messages", FOLDER / "edge_runtime_bridge" / "messages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def types() -> Any:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    typestore = get_typestore(Stores.ROS2_JAZZY)
    found: dict[str, Any] = {}
    for name, text in DEFINITIONS.items():
        found |= get_types_from_msg(text, name)
    typestore.register(found)
    return typestore


def filled(types: Any, kind: str, value: Any) -> Any:
    """A message of that type from plain fields: none that it has not, none left out but LEFT_OUT."""
    cls = types.types[kind]
    names = [name for name, _ in types.fielddefs[kind][1]]
    assert set(value) <= set(names), f"{kind} has no {set(value) - set(names)}"
    missing = {name for name in names if name not in value and (kind, name) not in LEFT_OUT}
    assert not missing, f"{kind}: {missing} is left out"
    definition = dict(types.fielddefs[kind][1])
    return cls(**{name: _field(types, definition[name], value.get(name)) for name in names})


def _field(types: Any, definition: Any, value: Any) -> Any:
    from rosbags.interfaces import Nodetype

    what, details = definition
    if what == Nodetype.NAME:
        return default(types, details) if value is None else filled(types, details, value)
    if what == Nodetype.BASE:
        return value
    assert what == Nodetype.SEQUENCE, definition
    return [_field(types, details[0], one) for one in value]


def default(types: Any, kind: str) -> Any:
    """geometry_msgs/PoseWithCovariance, all zeros."""
    assert kind == "geometry_msgs/msg/PoseWithCovariance"
    known = types.types
    pose = known["geometry_msgs/msg/Pose"](
        known["geometry_msgs/msg/Point"](0.0, 0.0, 0.0), known["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    )
    return known[kind](pose, np.zeros(36))


def through(types: Any, kind: str, value: Any) -> Any:
    """As it arrives at the other end of a topic."""
    return types.deserialize_cdr(types.serialize_cdr(filled(types, kind, value), kind), kind)


def plain(message: msgspec.Struct) -> Any:
    return json.loads(msgspec.json.encode(message))


def test_what_a_running_service_publishes_is_a_classification_and_diagnostics(
    bridge: ModuleType, types: Any, tiny_bundle_path: Path
) -> None:
    heard: dict[str, Any] = {}
    with (
        running(Runtime(tiny_config(tiny_bundle_path, name="car"))) as runtime,
        zmq.Context() as context,
        context.socket(zmq.SUB) as socket,
    ):
        socket.subscribe(b"")
        socket.connect(runtime.decisions_endpoint)
        while len(heard) < 2:
            assert socket.poll(int(1000 * WAIT_S))
            topic, payload = socket.recv_multipart()
            heard[topic.decode()] = json.loads(payload)
    said = through(types, "vision_msgs/msg/Classification", bridge.classification(heard["decision.car"], "camera"))
    assert [(one.class_id, one.score) for one in said.results] == [("stop", heard["decision.car"]["confidence"])]
    assert said.header.frame_id == "camera"
    told = through(types, "diagnostic_msgs/msg/DiagnosticArray", bridge.diagnostics(heard["status.car"]))
    first, *streams = told.status[:4]
    assert first.name == "edge-runtime: car" and first.level == bridge.WARN and "camera" in first.message
    assert {row.name for row in streams} == {f"edge-runtime: car: {name}" for name in ("camera", "sensors", "text")}
    assert {"key": "every message accounted for", "value": "True"} in [
        {"key": one.key, "value": one.value} for one in first.values
    ]


def test_a_label_comes_first_and_a_safe_one_alone(bridge: ModuleType, types: Any) -> None:
    said = plain(decision(3, probabilities={"keep": 0.2, "slow": 0.3, "stop": 0.5}, confidence=0.2))
    results = through(types, "vision_msgs/msg/Classification", bridge.classification(said)).results
    assert [(one.class_id, one.score) for one in results] == [("keep", 0.2), ("stop", 0.5), ("slow", 0.3)]
    safe = plain(decision(3, source="safe", reason="camera is missing", label="stop", confidence=0.0))
    results = through(types, "vision_msgs/msg/Classification", bridge.classification(safe)).results
    assert [(one.class_id, one.score) for one in results] == [("stop", 0.0)]


def test_a_header_says_when_it_was_captured(bridge: ModuleType) -> None:
    said = plain(
        decision(0, captured_ns=5_000_000_000, published_ns=5_250_000_000, wall_time="2026-01-01T00:00:00.100Z")
    )
    stamp = bridge.classification(said)["header"]["stamp"]
    assert stamp == {"sec": 1767225599, "nanosec": 850_000_000}


def test_boxes_are_pixels_of_the_picture(bridge: ModuleType, types: Any) -> None:
    things = (
        Detection("person", 0.75, (0.25, 0.5, 0.75, 1.0), track=7, zones=("door",)),
        Detection("dog", 0.5, (0.0, 0.0, 0.5, 0.25)),
    )
    said = plain(decision(3, detections=things))
    array = through(types, "vision_msgs/msg/Detection2DArray", bridge.detections(said, (640, 360), "camera"))
    first, second = array.detections
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (320.0, 270.0)
    assert (first.bbox.size_x, first.bbox.size_y, first.id) == (320.0, 180.0, "7")
    assert (first.results[0].hypothesis.class_id, first.results[0].hypothesis.score) == ("person", 0.75)
    assert (second.bbox.size_x, second.id, second.header.frame_id) == (320.0, "", "camera")
    assert bridge.detections(plain(decision(3, detections=())))["detections"] == []
    assert bridge.detections(plain(decision(3))) is None, "it has not looked"


def test_trouble_is_told_with_its_reason(bridge: ModuleType, types: Any) -> None:
    streams = {"camera": StreamHealth(9, 5, {"frozen": 4}, 0, 1.0, 30.0, False)}
    sinks = {"1 mqtt": SinkHealth("retrying", 3, 2, 1, "refused"), "0 zmq": SinkHealth("open", 3, 0, 0, None)}
    sources = [SourceHealth("camera 0", "failed", "gone"), SourceHealth("zmq", "running", None)]
    told = msgspec.structs.replace(
        status(1), state="degraded", reason="camera is stale", streams=streams, sinks=sinks, sources=sources,
        wall_time="2026-01-01T00:00:00Z",
    )  # fmt: skip
    rows = through(types, "diagnostic_msgs/msg/DiagnosticArray", bridge.diagnostics(plain(told))).status
    assert [(row.name, row.level, row.message) for row in rows] == [
        ("edge-runtime: car", bridge.WARN, "camera is stale"),
        ("edge-runtime: car: camera", bridge.WARN, "nothing that is new enough"),
        ("edge-runtime: car: sink 1 mqtt", bridge.WARN, "refused"),
        ("edge-runtime: car: source camera 0", bridge.ERROR, "gone"),
    ]
    assert ("dropped frozen", "4") in [(one.key, one.value) for one in rows[1].values]
    for state, level in (("ready", bridge.OK), ("stopped", bridge.ERROR), ("starting", bridge.WARN)):
        found = bridge.diagnostics(plain(msgspec.structs.replace(told, state=state, reason=None)))
        assert (found["status"][0]["level"], found["status"][0]["message"]) == (level, state)


def test_the_package_is_one_that_colcon_takes() -> None:
    from xml.etree import ElementTree

    package = ElementTree.parse(FOLDER / "package.xml").getroot()
    name = package.findtext("name")
    assert name == "edge_runtime_bridge" and (FOLDER / "resource" / name).is_file()
    assert package.findtext("export/build_type") == "ament_python"
    compile((FOLDER / name / "node.py").read_text(encoding="utf-8"), "node.py", "exec")
