"""The yardstick: decode, resize and one monolithic graph in one paced loop; no threads, no sockets, no checks.

    python -m benchmarks.bare_loop MONOLITH.onnx INPUTS.npz FRAMES

INPUTS.npz holds the graph's inputs other than `image`, ready made: text and sensor preprocessing cost the bare loop
nothing. Prints one JSON line: `latency_ms` and `infer_ms` per frame.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from benchmarks.workload import FRAME_HZ, make_workload
from edge_runtime.infer.onnxruntime_engine import session_options

WARM_UP = 10


def main(model: Path, inputs: Path, frames: int) -> None:
    """Run `frames` frames and print the figures."""
    cv2.setNumThreads(1)
    workload = make_workload()
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
    latency, infer = [], []
    due_ns = time.monotonic_ns()
    for index in range(frames):
        left = due_ns - time.monotonic_ns()
        if left > 0:
            time.sleep(left / 1e9)
        start = time.monotonic_ns()
        picture = cv2.imdecode(np.frombuffer(workload.moment(index).jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        cv2.resize(picture, (width, height), dst=image[0], interpolation=cv2.INTER_AREA)
        ready = time.monotonic_ns()
        session.run(None, feeds)
        end = time.monotonic_ns()
        latency.append((end - start) / 1e6)
        infer.append((end - ready) / 1e6)
        due_ns += 1_000_000_000 // FRAME_HZ
    print(json.dumps({"latency_ms": latency, "infer_ms": infer}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
