"""A small real bundle, built with onnx.helper alone: four stages whose answers can be worked out by hand.

vision  = [mean brightness 0..1, its complement]
text    = [share of "stop" pieces, number of pieces / L]
sensors = [last value of channel a (standardised), last mask of channel a]
logits  = [4 * bright, 4 * dark, 9 * stop share, 2 * a], each times its stream's presence
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import sentencepiece
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.bundle import MANIFEST, TOKENIZER, Manifest, Stage, StageInput, encode_manifest
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.streams import CameraStream, Channel, SensorStream, StreamSpec, TextStream
from edge_runtime.tensors import TensorSpec

WIDTH, HEIGHT, STEPS, TOKENS = 32, 24, 4, 8
LABELS = ("bright", "dark", "stop", "high")
SENTENCES = ["please stop now", "go on then", "stop", "turn the light on", "everything is fine", "停 车", "继 续"]

STREAMS: dict[str, StreamSpec] = {
    "camera": CameraStream(WIDTH, HEIGHT, rate_hz=30, max_age_ms=300, required=True, frozen_after=20, min_brightness=2),
    "sensors": SensorStream(
        (Channel("a", "m", -100, 100, mean=1.0, std=2.0), Channel("b", "s", 0, 10)),
        rate_hz=20,
        max_age_ms=400,
        window=STEPS,
        step_ms=100,
    ),
    "text": TextStream(TOKENS, max_age_ms=5000, max_chars=64),
}


def tokenizer_model() -> bytes:
    """A SentencePiece model that has seen SENTENCES."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        user_defined_symbols=["▁stop"],
        minloglevel=2,
    )
    return model.getvalue()


def stop_piece(model: bytes) -> int:
    """Id of the piece that the text stage looks for."""
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    return int(processor.PieceToId("▁stop"))


def graph(
    name: str, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], constants: dict[str, Any]
) -> bytes:
    def info(items: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(key, kind, shape) for key, (kind, shape) in items.items()]

    initializers = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, info(inputs), info(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def vision_graph() -> bytes:
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "full"], ["share"]),
        helper.make_node("Reshape", ["share", "shape"], ["bright"]),
        helper.make_node("Sub", ["one", "bright"], ["dark"]),
        helper.make_node("Concat", ["bright", "dark"], ["features"], axis=1),
    ]
    constants = {
        "axes": np.array([1, 2, 3]),
        "full": np.float32(255),
        "shape": np.array([1, 1]),
        "one": np.float32(1),
    }
    return graph(
        "vision",
        nodes,
        {"image": (TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])},
        {"features": (TensorProto.FLOAT, [1, 2])},
        constants,
    )


def text_graph(stop: int) -> bytes:
    nodes = [
        helper.make_node("Equal", ["ids", "stop"], ["is_stop"]),
        helper.make_node("Cast", ["is_stop"], ["hits"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["hits", "mask"], ["masked"]),
        helper.make_node("ReduceMax", ["masked", "axes"], ["found"], keepdims=1),
        helper.make_node("ReduceMean", ["mask", "axes"], ["length"], keepdims=1),
        helper.make_node("Concat", ["found", "length"], ["features"], axis=1),
    ]
    return graph(
        "text",
        nodes,
        {"ids": (TensorProto.INT32, [1, TOKENS]), "mask": (TensorProto.FLOAT, [1, TOKENS])},
        {"features": (TensorProto.FLOAT, [1, 2])},
        {"stop": np.int32(stop), "axes": np.array([1])},
    )


def sensors_graph() -> bytes:
    nodes = [
        helper.make_node("Slice", ["window", "start", "end", "axes"], ["value"]),
        helper.make_node("Slice", ["mask", "start", "end", "axes"], ["known"]),
        helper.make_node("Concat", ["value", "known"], ["both"], axis=2),
        helper.make_node("Reshape", ["both", "shape"], ["features"]),
    ]
    constants = {
        "start": np.array([STEPS - 1, 0]),
        "end": np.array([STEPS, 1]),
        "axes": np.array([1, 2]),
        "shape": np.array([1, 2]),
    }
    return graph(
        "sensors",
        nodes,
        {"window": (TensorProto.FLOAT, [1, STEPS, 2]), "mask": (TensorProto.FLOAT, [1, STEPS, 2])},
        {"features": (TensorProto.FLOAT, [1, 2])},
        constants,
    )


def fusion_graph(scale: float = 1.0) -> bytes:
    """`scale` = nan or inf makes an engine whose outputs are no answer."""
    weights = np.zeros((6, 4), np.float32)
    weights[0, 0], weights[1, 1], weights[2, 2], weights[4, 3] = 4, 4, 9, 2
    spread = np.zeros((3, 6), np.float32)
    spread[0, :2], spread[1, 2:4], spread[2, 4:] = 1, 1, 1
    nodes = [
        helper.make_node("Concat", ["vision", "text", "sensors"], ["features"], axis=1),
        helper.make_node("MatMul", ["presence", "spread"], ["gates"]),
        helper.make_node("Mul", ["features", "gates"], ["gated"]),
        helper.make_node("MatMul", ["gated", "weights"], ["raw"]),
        helper.make_node("Mul", ["raw", "scale"], ["logits"]),
    ]
    features = {name: (TensorProto.FLOAT, [1, 2]) for name in ("vision", "text", "sensors")}
    return graph(
        "fusion",
        nodes,
        features | {"presence": (TensorProto.FLOAT, [1, 3])},
        {"logits": (TensorProto.FLOAT, [1, 4])},
        {"weights": weights, "spread": spread, "scale": np.float32(scale)},
    )


def stages() -> tuple[Stage, ...]:
    features = (TensorSpec("features", "float32", (1, 2)),)

    def stage(name: str, *inputs: StageInput) -> Stage:
        return Stage(name, inputs, features, {"fp32": f"stages/{name}.fp32.onnx"})

    fusion = Stage(
        "fusion",
        (
            *(StageInput(name, "float32", (1, 2), f"stage:{name}:features") for name in ("vision", "text", "sensors")),
            StageInput("presence", "float32", (1, 3), "presence"),
        ),
        (TensorSpec("logits", "float32", (1, 4)),),
        {"fp32": "stages/fusion.fp32.onnx"},
    )
    return (
        stage("vision", StageInput("image", "uint8", (1, HEIGHT, WIDTH, 3), "stream:camera:image")),
        stage(
            "text",
            StageInput("ids", "int32", (1, TOKENS), "stream:text:ids"),
            StageInput("mask", "float32", (1, TOKENS), "stream:text:mask"),
        ),
        stage(
            "sensors",
            StageInput("window", "float32", (1, STEPS, 2), "stream:sensors:window"),
            StageInput("mask", "float32", (1, STEPS, 2), "stream:sensors:mask"),
        ),
        fusion,
    )


def write_bundle(
    folder: Path,
    scale: float = 1.0,
    policy: DecisionPolicy | None = None,
    version: str = "1.0.0",
    extra: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> Path:
    """Write the bundle; `changes` replace fields of its manifest, `extra` are further files by name."""
    tokenizer = tokenizer_model()
    files = {
        "stages/vision.fp32.onnx": vision_graph(),
        "stages/text.fp32.onnx": text_graph(stop_piece(tokenizer)),
        "stages/sensors.fp32.onnx": sensors_graph(),
        "stages/fusion.fp32.onnx": fusion_graph(scale),
        TOKENIZER: tokenizer,
        **(extra or {}),
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    manifest = Manifest(
        format=1,
        name="tiny",
        version=version,
        head=SoftmaxHead(LABELS, "stage:fusion:logits"),
        trigger="camera",
        streams=STREAMS,
        stages=stages(),
        decision=policy or DecisionPolicy("stop", heartbeat_ms=200),
        precision={"default": dict.fromkeys(("vision", "text", "sensors", "fusion"), "fp32")},
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        presence=("camera", "text", "sensors"),
    )
    manifest = msgspec.structs.replace(manifest, **changes)
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))
    return folder
