"""Detections from a camera's frames to another model's decision: live over sockets, recorded and replayed.

`squares` finds red and blue squares; `door` decides by what it reads of them: `somebody` where a red one stands in the
zone `door`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
import zmq
from mcap.reader import make_reader
from msgspec import UnsetType
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edge_runtime import Subscriber, keyring
from edge_runtime.bundle import MANIFEST, Manifest, SideHead, Stage, StageInput, encode_manifest, open_bundle
from edge_runtime.cli import EXIT_USER
from edge_runtime.config import Config, DetectionsSource, RecordingSink, ZmqSink, ZmqSource
from edge_runtime.errors import ConfigError
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.messages import Detection
from edge_runtime.pipeline import Pipeline
from edge_runtime.recording.reader import Recording
from edge_runtime.replay import recorded_answer, replay
from edge_runtime.runtime import Runtime
from edge_runtime.streams import Channel, SensorStream
from edge_runtime.tensors import TensorSpec
from edge_runtime.wire import DecisionMessage
from edge_runtime.zones import Zone
from tests import tiny, tiny_detector
from tests.cli.test_cli import command
from tests.conftest import WAIT_S, jpeg, running
from tests.tiny_detector import BLUE, CAMERA, RED, picture

OBJECTS = "objects"
CHANNELS = ("red.door.count", "red.door.standing", "blue.picture.count")
ZONES = {"door": Zone(((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))}
STREAM = SensorStream(
    tuple(Channel(name, "1", 0, 64) for name in CHANNELS), rate_hz=30, max_age_ms=3000, required=True, clip=0.0
)
POLICY = DecisionPolicy("nobody", heartbeat_ms=100)
SAMPLES: Any = ZmqSource("tcp://127.0.0.1:*", rate_limit=0)


def door_graph() -> bytes:
    """logits [nobody, somebody] = [5 - 10 red, 10 red - 5] of the first channel."""
    nodes = [
        helper.make_node("Reshape", ["window", "shape"], ["values"]),
        helper.make_node("MatMul", ["values", "weights"], ["weighed"]),
        helper.make_node("Add", ["weighed", "bias"], ["logits"]),
    ]
    constants = {
        "shape": np.array([1, 3]),
        "weights": np.array([[-10, 10], [0, 0], [0, 0]], np.float32),
        "bias": np.array([[5, -5]], np.float32),
    }
    inputs = {"window": (TensorProto.FLOAT, [1, 1, 3])}
    return tiny.graph("door", nodes, inputs, {"logits": (TensorProto.FLOAT, [1, 2])}, constants)


DOOR = Stage(
    "door",
    (StageInput("window", "float32", (1, 1, 3), f"stream:{OBJECTS}:window"),),
    (TensorSpec("logits", "float32", (1, 2)),),
    {"fp32": "stages/door.fp32.onnx"},
)
HEAD = SoftmaxHead(("nobody", "somebody"), "stage:door:logits")


def with_door(folder: Path, manifest: Manifest) -> Path:
    data = door_graph()
    (folder / "stages").mkdir(parents=True, exist_ok=True)
    (folder / "stages/door.fp32.onnx").write_bytes(data)
    files = manifest.files | {"stages/door.fp32.onnx": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_bytes(encode_manifest(msgspec.structs.replace(manifest, files=files)))
    return folder


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_detector.write_bundle(tmp_path_factory.mktemp("bundle") / "squares", "letterbox")


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = Manifest(
        1, "door", "1.0.0", HEAD, OBJECTS, {OBJECTS: STREAM}, (DOOR,), POLICY, {"default": {"door": "fp32"}}, {},
        presence=(OBJECTS,),
    )  # fmt: skip
    return with_door(tmp_path_factory.mktemp("bundle") / "door", manifest)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bundle: the detector acts, the door is decided beside it, by what the detector said last."""
    folder = tiny_detector.write_bundle(tmp_path_factory.mktemp("bundle") / "both")
    plain = open_bundle(folder, allow_unsigned=True).manifest
    manifest = msgspec.structs.replace(
        plain,
        streams=plain.streams | {OBJECTS: msgspec.structs.replace(STREAM, required=False)},
        stages=(*plain.stages, DOOR),
        side_heads=(SideHead("door", HEAD, DecisionPolicy("nobody")),),
        precision={"default": {"detector": "fp32", "door": "fp32"}},
        presence=(CAMERA, OBJECTS),
    )
    return with_door(folder, manifest)


@pytest.fixture(scope="module")
def swapped(both: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, but the door acts, and the detector is beside it."""
    folder = tiny_detector.write_bundle(tmp_path_factory.mktemp("bundle") / "swapped")
    plain = open_bundle(both, allow_unsigned=True).manifest
    eyes = SideHead("eyes", plain.head, DecisionPolicy("undecided", threshold=0.8))
    manifest = msgspec.structs.replace(
        plain, head=HEAD, side_heads=(eyes,), decision=DecisionPolicy("nobody", heartbeat_ms=60_000)
    )
    return with_door(folder, manifest)


def configuration(name: str, bundle: Path, *sources: Any, record: Path | None = None) -> Config:
    sinks: list[Any] = [ZmqSink("tcp://127.0.0.1:*")]
    if record is not None:
        sinks.append(RecordingSink(str(record)))
    return Config(name, str(bundle), sources, tuple(sinks), allow_unsigned=True, zones=ZONES)


@contextmanager
def camera(runtime: Runtime) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Sends frames to the runtime, as JPEG."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(runtime.input_endpoints[0])

        def send(image: NDArray[np.uint8]) -> None:
            header = {"schema": 1, "stream": CAMERA, "captured_ns": time.monotonic_ns()}
            socket.send_multipart([json.dumps(header).encode(), jpeg(image)])

        yield send


def wide(*squares: tuple[tuple[int, int, int], int, int]) -> NDArray[np.uint8]:
    """128 x 48, of which the model sees half the size between grey bars."""
    return picture(*squares, size=(128, 48), side=32)


def until(subscriber: Subscriber, found: Callable[[DecisionMessage], bool]) -> DecisionMessage:
    deadline = time.monotonic() + WAIT_S
    for decision in subscriber:
        if found(decision):
            return decision
        assert time.monotonic() < deadline, f"last said: {decision}"
    raise AssertionError


def replays(path: Path, bundle: Path) -> list[DecisionMessage]:
    """All recorded decisions, each decided again the same."""
    opened = open_bundle(bundle, allow_unsigned=True)
    pairs = [
        (old, new)
        for old, new in replay(Recording(path), lambda session: Pipeline(opened, zones=session.zones))
        if recorded_answer(old) == new or pytest.fail(f"{recorded_answer(old)} became {new}")
    ]
    assert pairs
    return [old for old, _ in pairs]


def things(decision: DecisionMessage) -> tuple[Detection, ...]:
    return () if isinstance(decision.detections, UnsetType) else decision.detections


def test_what_one_runtime_sees_another_decides_by(squares: Path, door: Path, tmp_path: Path) -> None:
    """Two runtimes: frames to the one, its decisions to the other, which knows when nobody looks any more."""
    looking = configuration("looking", squares, SAMPLES, record=tmp_path / "looking.mcap")
    with ExitStack() as stack:
        first = stack.enter_context(running(Runtime(looking)))
        source = DetectionsSource(OBJECTS, first.decisions_endpoint, "looking")
        deciding = configuration("deciding", door, source, record=tmp_path / "deciding.mcap")
        second = stack.enter_context(running(Runtime(deciding)))
        sees = stack.enter_context(Subscriber(first.decisions_endpoint, timeout_s=WAIT_S))
        says = stack.enter_context(Subscriber(second.decisions_endpoint, timeout_s=WAIT_S))
        send = stack.enter_context(camera(first))

        assert until(says, lambda decision: True).reason == f"{OBJECTS} missing"
        send(wide((RED, 0, 8), (BLUE, 80, 8)))
        seen = until(sees, lambda decision: len(things(decision)) == 2)
        by_label = {thing.label: thing for thing in things(seen)}
        assert by_label["red"].zones == ("door",) and by_label["blue"].zones == ()
        assert np.allclose(by_label["red"].box, (0, 8 / 48, 32 / 128, 40 / 48), atol=1e-6), "of the whole picture"
        assert {thing.track for thing in things(seen)} == {1, 2}
        said = until(says, lambda decision: decision.label == "somebody" and decision.latency_ms.queue > 0)
        assert said.source == "model" and said.inputs[OBJECTS].present
        assert said.captured_ns == seen.captured_ns, "as old as the picture, not as its report"

        send(wide((RED, 80, 8)))  # it is not at the door any more
        assert until(says, lambda decision: decision.label == "nobody").source == "model"
        # Nobody sends pictures any more: what was seen is not believed for longer than the stream says.
        assert until(says, lambda decision: decision.source == "safe").reason == f"{OBJECTS} stale"
    assert {thing.label for one in replays(tmp_path / "looking.mcap", squares) for thing in things(one)} == {
        "red",
        "blue",
    }
    assert {one.label for one in replays(tmp_path / "deciding.mcap", door)} == {"somebody", "nobody"}
    drawn_over_the_picture(tmp_path / "looking.mcap")


def test_what_is_published_behind_keys_is_followed_with_a_client_s(squares: Path, door: Path, tmp_path: Path) -> None:
    keyring.make_server(tmp_path / "keys")
    own = keyring.make_client(tmp_path / "keys", "door", (), True, tmp_path / "door.key.toml")
    looking = configuration("looking", squares, SAMPLES)
    looking = msgspec.structs.replace(looking, sink=(ZmqSink("tcp://127.0.0.1:*", keys=str(tmp_path / "keys")),))
    with ExitStack() as stack:
        first = stack.enter_context(running(Runtime(looking)))
        source = DetectionsSource(OBJECTS, first.decisions_endpoint, keys=str(own))
        second = stack.enter_context(running(Runtime(configuration("deciding", door, source))))
        says = stack.enter_context(Subscriber(second.decisions_endpoint, timeout_s=WAIT_S))
        stack.enter_context(camera(first))(wide((RED, 0, 8)))
        assert until(says, lambda decision: decision.label == "somebody").source == "model"


def drawn_over_the_picture(path: Path) -> None:
    """What Foxglove shows of the recording: boxes in pixels of the whole picture, at the picture's own time."""
    pictures, drawn = set[tuple[int, int]](), []
    with path.open("rb") as file:
        for schema, channel, message in make_reader(file).iter_messages(log_time_order=False):
            data = json.loads(message.data)
            if channel.topic == f"/streams/{CAMERA}":
                pictures.add((data["timestamp"]["sec"], data["timestamp"]["nsec"]))
            elif channel.topic == f"/annotations/{CAMERA}":
                assert schema is not None and schema.name == "foxglove.ImageAnnotations"
                jsonschema.Draft202012Validator(json.loads(schema.data)).validate(data)
                drawn.append(data)
    seen = next(one for one in drawn if len(one["points"]) == 2)
    assert {text["text"].split()[0] for text in seen["texts"]} == {"red", "blue"}
    for outline, text in zip(seen["points"], seen["texts"], strict=True):
        assert outline["type"] == 2 and (outline["timestamp"]["sec"], outline["timestamp"]["nsec"]) in pictures
        corners = [(round(point["x"]), round(point["y"])) for point in outline["points"]]
        left = 0 if text["text"].startswith("red") else 80
        assert corners == [(left, 8), (left + 32, 8), (left + 32, 40), (left, 40)]
        assert text["text"].endswith(" door") is (left == 0)


@pytest.mark.parametrize("eyes", ["", "eyes"])
def test_one_bundle_looks_and_decides_by_what_it_saw(request: pytest.FixtureRequest, tmp_path: Path, eyes: str) -> None:
    path, bundle = tmp_path / "both.mcap", request.getfixturevalue("swapped" if eyes else "both")
    config = configuration("both", bundle, SAMPLES, DetectionsSource(OBJECTS, head=eyes), record=path)
    with (
        running(Runtime(config)) as runtime,
        camera(runtime) as send,
        closing(Subscriber(runtime.decisions_endpoint, timeout_s=WAIT_S)) as says,
    ):
        labels: list[str] = []
        for number in range(200):
            send(picture((RED, 0 if number < 3 else 48, 16)))
            time.sleep(0.02)
            decision = says.receive(0.2)
            if isinstance(decision, DecisionMessage) and not isinstance(decision.heads, UnsetType):
                labels.append(decision.label if eyes else decision.heads["door"].label)
            if "somebody" in labels and labels[-1] == "nobody":
                break
        assert "somebody" in labels and labels[-1] == "nobody", labels
    decisions = replays(path, bundle)
    assert any(decision.inputs[OBJECTS].present for decision in decisions)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (DetectionsSource("camera.front"), "no fitting stream 'camera.front'"),
        (DetectionsSource(OBJECTS, zones={"gate": ZONES["door"]}), "names the zone 'door'; there are picture, gate"),
    ],
)
def test_a_source_that_could_never_fill_its_channels_is_refused(door: Path, source: Any, why: str) -> None:
    runtime = Runtime(configuration("deciding", door, source))
    with pytest.raises(ConfigError, match=why):
        runtime.run()


def test_a_class_that_nobody_looks_for_is_not_counted_as_absent(squares: Path, door: Path) -> None:
    """The door asks for red squares; who looks knows only green and blue ones: its channel stays missing."""
    head = open_bundle(squares, allow_unsigned=True).manifest.head
    folder = tiny_detector.write_bundle(
        squares.parent / "green", head=msgspec.structs.replace(head, labels=("green", "blue"))
    )
    with ExitStack() as stack:
        first = stack.enter_context(running(Runtime(configuration("looking", folder, SAMPLES))))
        second = stack.enter_context(
            running(Runtime(configuration("deciding", door, DetectionsSource(OBJECTS, first.decisions_endpoint))))
        )
        says = stack.enter_context(Subscriber(second.decisions_endpoint, timeout_s=WAIT_S))
        send = stack.enter_context(camera(first))
        send(picture((BLUE, 0, 0)))
        said = until(says, lambda decision: decision.inputs[OBJECTS].present)
        window = second._session.pipeline._history.messages[OBJECTS][-1]
        assert window.values == {"blue.picture.count": 1.0}, said  # type: ignore[attr-defined]


def test_a_configuration_draws_zones(tmp_path: Path, door: Path) -> None:
    file = tmp_path / "run.toml"
    rows = (
        f'name = "x"\nbundle = "{door}"\nallow_unsigned = true\n[[source]]\nkind = "detections"\nstream = "objects"\n'
    )
    file.write_text(rows + "[zones.door]\npolygon = [[0, 0], [1, 0], [1, 1]]\n")
    (row,) = Config.load(file).sources
    assert isinstance(row, DetectionsSource) and row.zones["door"].polygon == ((0, 0), (1, 0), (1, 1))
    for bad, why in (
        ("[zones.door]\npolygon = [[0, 0], [1, 0]]\n", "polygon"),
        ("[zones.picture]\npolygon = [[0, 0], [1, 0], [1, 1]]\n", "'picture' is the whole picture already"),
    ):
        file.write_text(rows + bad)
        result = command("run", str(file))
        assert result.returncode == EXIT_USER and why in result.stderr, result.stderr
