"""The yardstick: the script that a user would write. Decode, resize, one whole graph, `json.dumps`, ZeroMQ.

    python -m benchmarks.user_loop MONOLITH.onnx INPUTS.npz ENDPOINT FRAMES [PICTURES]

One paced loop; no threads, no checks, no accounts. INPUTS.npz holds the graph's inputs other than `image`, ready made:
text and sensor preprocessing cost it nothing. A last message says how many frames there were.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import zmq

from benchmarks.workload import DEFAULT_PICTURES, FRAME_HZ, SETTLE_S, make_workload
from edge_runtime.infer.onnxruntime_engine import session_options
from edge_runtime.world.car import LABELS

WARM_UP = 10


def main(model: Path, inputs: Path, endpoint: str, frames: int, pictures: str = DEFAULT_PICTURES) -> None:
    """Run `frames` frames; every answer is published as JSON at `endpoint`."""
    cv2.setNumThreads(1)
    workload = make_workload(pictures)
    session = onnxruntime.InferenceSession(
        model.read_bytes(), sess_options=session_options(1), providers=["CPUExecutionProvider"]
    )
    with np.load(inputs, allow_pickle=False) as arrays:
        feeds = {name: arrays[name] for name in arrays.files}
    _, height, width, _ = next(node.shape for node in session.get_inputs() if node.name == "image")
    image = np.empty((1, height, width, 3), np.uint8)
    feeds["image"] = image
    for _ in range(WARM_UP):
        session.run(None, feeds)
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.bind(endpoint)
        time.sleep(SETTLE_S)
        due_ns = time.monotonic_ns()
        for index in range(frames):
            left = due_ns - time.monotonic_ns()
            if left > 0:
                time.sleep(left / 1e9)
            given = workload.picture(index)
            captured_ns = time.monotonic_ns()
            if isinstance(given, bytes):
                picture = cv2.imdecode(np.frombuffer(given, np.uint8), cv2.IMREAD_COLOR)
                assert picture is not None
            else:
                picture = given
            cv2.resize(picture, (width, height), dst=image[0], interpolation=cv2.INTER_AREA)
            ready_ns = time.monotonic_ns()
            logits = session.run(None, feeds)[0][0]
            done_ns = time.monotonic_ns()
            likely = np.exp(logits - logits.max())
            likely /= likely.sum()
            best = int(likely.argmax())
            message = {
                "seq": index,
                "captured_ns": captured_ns,
                "label": LABELS[best],
                "confidence": float(likely[best]),
                "probabilities": dict(zip(LABELS, likely.tolist(), strict=True)),
                "preprocess_ms": (ready_ns - captured_ns) / 1e6,
                "infer_ms": (done_ns - ready_ns) / 1e6,
            }
            socket.send_multipart([b"decision", json.dumps(message).encode()])
            due_ns += 1_000_000_000 // FRAME_HZ
        socket.send_multipart([b"end", json.dumps({"frames": frames}).encode()])
        time.sleep(SETTLE_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:6])
