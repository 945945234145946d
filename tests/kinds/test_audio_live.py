"""Sound in a live runtime: over a socket and from a WAV file, decided, recorded, and replayed bit for bit."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import zmq
from onnx import TensorProto, helper, numpy_helper

from edge_runtime import Subscriber
from edge_runtime.bundle import MANIFEST, Manifest, Stage, StageInput, encode_manifest, open_bundle
from edge_runtime.config import RecordConfig, SourceConfig, WavSource
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.kinds.audio import SAMPLE_RATE, AudioChunk, AudioStream, Sound
from edge_runtime.pipeline import Pipeline
from edge_runtime.recording.reader import Recording
from edge_runtime.replay import recorded_answer, replay
from edge_runtime.runtime import Runtime
from edge_runtime.tensors import TensorSpec
from edge_runtime.wire import DecisionMessage
from tests.cli.test_cli import command
from tests.conftest import WAIT_S, running, tiny_config
from tests.kinds.test_audio import write_wav

STEPS, BANDS = 24, 16
SPEC = AudioStream(rate_hz=10, max_age_ms=400, window=STEPS, mels=BANDS, required=True)
NAME = "stages/hearing.fp32.onnx"


def graph() -> bytes:
    """logits = [mean of the frames, its negative]: louder than the training data's mean, or not."""
    nodes = [
        helper.make_node("Mul", ["frames", "mask"], ["heard"]),
        helper.make_node("ReduceMean", ["heard", "axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["loud"]),
        helper.make_node("Neg", ["loud"], ["quiet"]),
        helper.make_node("Concat", ["loud", "quiet"], ["logits"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info("frames", TensorProto.FLOAT, [1, STEPS, BANDS]),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, STEPS, 1]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])]
    constants = {"axes": np.array([1, 2]), "shape": np.array([1, 1])}
    initializers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    made = helper.make_graph(nodes, "hearing", inputs, outputs, initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearing")
    (folder / NAME).parent.mkdir()
    (folder / NAME).write_bytes(data := graph())
    inputs = (
        StageInput("frames", "float32", (1, STEPS, BANDS), "stream:mic:frames"),
        StageInput("mask", "float32", (1, STEPS, 1), "stream:mic:mask"),
    )
    manifest = Manifest(
        format=1,
        name="hearing",
        version="1.0.0",
        head=SoftmaxHead(("loud", "quiet"), "stage:hearing:logits"),
        trigger="mic",
        streams={"mic": SPEC},
        stages=(Stage("hearing", inputs, (TensorSpec("logits", "float32", (1, 2)),), {"fp32": NAME}),),
        decision=DecisionPolicy("quiet", heartbeat_ms=200),
        precision={"default": {"hearing": "fp32"}},
        files={NAME: hashlib.sha256(data).hexdigest()},
        presence=("mic",),
    )
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))
    return folder


def noise(samples: int, volume: float, seed: int) -> Sound:
    return np.random.default_rng(seed).normal(0, volume, samples).astype(np.int16)


def replays_the_same(path: Path, bundle_path: Path) -> int:
    """How many decisions the recording holds; all are made again, bit for bit."""
    bundle = open_bundle(bundle_path, allow_unsigned=True)
    pairs = [(recorded_answer(old), new) for old, new in replay(Recording(path), lambda _: Pipeline(bundle))]
    assert all(old == new for old, new in pairs)
    return len(pairs)


def chunks_of(path: Path) -> list[AudioChunk]:
    return [event for event in Recording(path).events() if isinstance(event, AudioChunk)]


def decision(subscriber: Subscriber, wanted: Callable[[DecisionMessage], bool]) -> DecisionMessage:
    """The next decision that is wanted."""
    while True:
        message = subscriber.receive(WAIT_S)
        assert message is not None
        if isinstance(message, DecisionMessage) and wanted(message):
            return message


def is_on(id: str, message: DecisionMessage) -> bool:
    return message.inputs["mic"].id == id


def test_sound_over_a_socket_is_decided_recorded_and_replayed(bundle_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    configuration = msgspec.structs.replace(tiny_config(bundle_path), record=RecordConfig(str(path)))
    sent: dict[str, Sound] = {}
    answers: dict[str, DecisionMessage] = {}
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    try:
        with running(Runtime(configuration)) as runtime, Subscriber(runtime.decisions_endpoint) as subscriber:
            socket.connect(runtime.input_endpoints[0])
            for number in range(8):
                volume = 8000 if number < 4 else 1
                sent[f"c{number}"] = pcm = noise(8000, volume, number)
                header = {"schema": 1, "stream": "mic", "id": f"c{number}", "captured_ns": time.monotonic_ns()}
                socket.send_multipart([json.dumps(header).encode(), pcm.astype("<i2").tobytes()])
                answers[f"c{number}"] = decision(subscriber, partial(is_on, f"c{number}"))
            socket.send_multipart([b'{"schema":1,"stream":"mic"}', b"odd"])
            refused = decision(subscriber, lambda one: bool(one.dropped))
            silent = decision(subscriber, lambda one: one.source == "safe")
    finally:
        socket.close(linger=0)
        context.term()
    labels = [answers[f"c{number}"].label for number in range(8)]
    assert labels == ["loud"] * 4 + ["quiet"] * 4
    assert {one.source for one in answers.values()} == {"model"}
    assert refused.dropped == {"bad_format": 1}
    assert (silent.label, silent.reason) == ("quiet", "mic stale")
    recorded = {one.id: one.pcm for one in chunks_of(path)}
    assert recorded.keys() == sent.keys()
    assert all(np.array_equal(recorded[id], pcm) for id, pcm in sent.items())
    assert replays_the_same(path, bundle_path) > 8
    checked = command("replay", path, "--allow-unsigned", "--check")
    assert checked.returncode == 0, checked.stderr


def play(bundle_path: Path, source: SourceConfig, path: Path) -> None:
    """A run of one source to its end, recorded."""
    base = tiny_config(bundle_path, source, stop_at_end=True)
    runtime = Runtime(msgspec.structs.replace(base, record=RecordConfig(str(path))))
    with running(runtime), Subscriber(runtime.decisions_endpoint) as subscriber:
        while subscriber.status is None or subscriber.status.state != "stopped":
            assert subscriber.receive(WAIT_S) is not None


def test_a_wav_file_is_heard_live_recorded_whole_and_replayed(bundle_path: Path, tmp_path: Path) -> None:
    pcm = np.concatenate([noise(SAMPLE_RATE // 2, 8000, 1), noise(SAMPLE_RATE // 2, 1, 2)])
    path = tmp_path / "w.mcap"
    play(bundle_path, WavSource("mic", str(write_wav(tmp_path / "a.wav", pcm))), path)
    assert np.array_equal(np.concatenate([one.pcm for one in chunks_of(path)]), pcm)
    assert replays_the_same(path, bundle_path) >= 2
    decided = [event for event in Recording(path).events() if isinstance(event, DecisionMessage)]
    assert {one.label for one in decided if one.source == "model"} == {"loud", "quiet"}
