"""A small real detector, built with onnx.helper alone: finds red and blue squares, as can be worked out by hand.

A window of SIDE x SIDE pixels goes over the picture in steps of STRIDE; its score for red is the mean over its pixels
of max(0, red - blue) / 255, and the other way round for blue.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edge_runtime.bundle import MANIFEST, Manifest, Stage, StageInput, encode_manifest
from edge_runtime.heads.detection import DetectionHead
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.streams import CameraStream
from edge_runtime.tensors import TensorSpec
from tests import tiny

WIDTH, HEIGHT, SIDE, STRIDE = 64, 48, 16, 8
LABELS = ("red", "blue")
RED, BLUE = (0, 0, 255), (255, 0, 0)
CAMERA = "camera.front"
COLUMNS, ROWS = (WIDTH - SIDE) // STRIDE + 1, (HEIGHT - SIDE) // STRIDE + 1
CANDIDATES = COLUMNS * ROWS


def windows() -> NDArray[np.float32]:
    """[N, 4], in shares of the picture."""
    top, left = np.meshgrid(np.arange(ROWS) * STRIDE, np.arange(COLUMNS) * STRIDE, indexing="ij")
    boxes = np.stack([left, top, left + SIDE, top + SIDE], axis=-1).reshape(-1, 4)
    return (boxes / (WIDTH, HEIGHT, WIDTH, HEIGHT)).astype(np.float32)


def graph(scale: float = 1.0) -> bytes:
    """`scale` of the boxes: 1, or what is wrong."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weights"], ["differences"]),
        helper.make_node("Relu", ["differences"], ["colours"]),
        helper.make_node("AveragePool", ["colours"], ["means"], kernel_shape=[SIDE, SIDE], strides=[STRIDE, STRIDE]),
        helper.make_node("Reshape", ["means", "flat"], ["by_class"]),
        helper.make_node("Transpose", ["by_class"], ["scores"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["boxes", "scores"], ["found"], axis=2),
    ]
    weights = np.array([[-1, 0, 1], [1, 0, -1]], np.float32).reshape(2, 3, 1, 1) / 255
    constants = {"weights": weights, "flat": np.array([1, 2, CANDIDATES]), "boxes": windows()[None] * np.float32(scale)}
    return tiny.graph(
        "detector",
        nodes,
        {"image": (TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])},
        {"found": (TensorProto.FLOAT, [1, CANDIDATES, 6])},
        constants,
    )


def write_bundle(folder: Path, fit: str = "stretch", scale: float = 1.0, **changes: Any) -> Path:
    """Write the bundle; `changes` replace fields of its manifest."""
    file = "stages/detector.fp32.onnx"
    data = graph(scale)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(data)
    image = StageInput("image", "uint8", (1, HEIGHT, WIDTH, 3), f"stream:{CAMERA}:image")
    manifest = Manifest(
        format=1,
        name="squares",
        version="1.0.0",
        head=DetectionHead(LABELS, "stage:detector:found", CAMERA, max_overlap=0.2),
        trigger=CAMERA,
        streams={CAMERA: CameraStream(WIDTH, HEIGHT, 30, 20_000, required=True, fit=fit)},  # type: ignore[arg-type]
        stages=(Stage("detector", (image,), (TensorSpec("found", "float32", (1, CANDIDATES, 6)),), {"fp32": file}),),
        decision=DecisionPolicy("undecided", threshold=0.8, heartbeat_ms=60_000),
        precision={"default": {"detector": "fp32"}},
        files={file: hashlib.sha256(data).hexdigest()},
        presence=(CAMERA,),
    )
    (folder / MANIFEST).write_bytes(encode_manifest(msgspec.structs.replace(manifest, **changes)))
    return folder


def picture(
    *squares: tuple[tuple[int, int, int], int, int], size: tuple[int, int] = (WIDTH, HEIGHT), side: int = SIDE
) -> NDArray[np.uint8]:
    """[height, width, 3] BGR: grey, with squares of `side` pixels, each a colour and its left and top."""
    image = np.full((size[1], size[0], 3), 90, np.uint8)
    for colour, left, top in squares:
        image[max(0, top) : top + side, max(0, left) : left + side] = colour
    return image
