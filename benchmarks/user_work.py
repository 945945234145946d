"""What one frame is to the script that a user would write, in three steps; peers do the same work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import zmq
from numpy.typing import NDArray

from benchmarks.workload import FRAME_HZ, SETTLE_S, Picture, Workload
from edge_runtime.infer.onnxruntime_engine import session_options
from edge_runtime.world.car import LABELS

WARM_UP = 10


class UserWork:
    """Decode and resize by area, run one whole graph, make a message. One thread."""

    def __init__(self, model: Path, inputs: Path) -> None:
        """`inputs` (.npz) holds the graph's inputs other than `image`: other preprocessing costs nothing."""
        cv2.setNumThreads(1)
        self._session = onnxruntime.InferenceSession(
            model.read_bytes(), sess_options=session_options(1), providers=["CPUExecutionProvider"]
        )
        with np.load(inputs, allow_pickle=False) as arrays:
            self._feeds = {name: arrays[name] for name in arrays.files}
        _, height, width, _ = next(node.shape for node in self._session.get_inputs() if node.name == "image")
        self._size = (width, height)
        for _ in range(WARM_UP):
            self.infer(np.zeros((1, height, width, 3), np.uint8))

    def prepare(self, given: Picture) -> NDArray[np.uint8]:
        """The graph's picture [1, height, width, 3] of a JPEG or a decoded picture."""
        if isinstance(given, bytes):
            picture = cv2.imdecode(np.frombuffer(given, np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
        else:
            picture = given
        image = np.empty((1, self._size[1], self._size[0], 3), np.uint8)
        cv2.resize(picture, self._size, dst=image[0], interpolation=cv2.INTER_AREA)
        return image

    def infer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits [labels]."""
        answers: list[Any] = self._session.run(None, self._feeds | {"image": image})
        logits: NDArray[np.float32] = answers[0][0]
        return logits

    @staticmethod
    def message(
        index: int, captured_ns: int, prepared_ns: int, inferred_ns: int, logits: NDArray[np.float32]
    ) -> list[bytes]:
        """What is sent: topic and JSON."""
        likely = np.exp(logits - logits.max())
        likely /= likely.sum()
        best = int(likely.argmax())
        message = {
            "seq": index,
            "captured_ns": captured_ns,
            "label": LABELS[best],
            "confidence": float(likely[best]),
            "probabilities": dict(zip(LABELS, likely.tolist(), strict=True)),
            "preprocess_ms": (prepared_ns - captured_ns) / 1e6,
            "infer_ms": (inferred_ns - prepared_ns) / 1e6,
        }
        return [b"decision", json.dumps(message).encode()]


class Pace:
    """Waits for each frame's time."""

    def __init__(self) -> None:
        self._due_ns = time.monotonic_ns()

    def wait(self) -> None:
        left_ns = self._due_ns - time.monotonic_ns()
        if left_ns > 0:
            time.sleep(left_ns / 1e9)
        self._due_ns += 1_000_000_000 // FRAME_HZ


class Publisher:
    """Sends answers to whoever has subscribed, and says at last how many there were."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.bind(endpoint)
        self._sent = 0
        time.sleep(SETTLE_S)

    def send(self, message: list[bytes]) -> None:
        self._socket.send_multipart(message)
        self._sent += 1

    def close(self) -> None:
        self._socket.send_multipart([b"end", json.dumps({"frames": self._sent}).encode()])
        time.sleep(SETTLE_S)
        self._context.destroy()


def run_loop(
    work: UserWork,
    workload: Workload,
    endpoint: str,
    frames: int,
    infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
) -> None:
    """One frame after the other: prepare, `infer`, publish at `endpoint`."""
    publisher = Publisher(endpoint)
    pace = Pace()
    for index in range(frames):
        pace.wait()
        given = workload.picture(index)
        captured_ns = time.monotonic_ns()
        image = work.prepare(given)
        prepared_ns = time.monotonic_ns()
        logits = infer(image)
        publisher.send(work.message(index, captured_ns, prepared_ns, time.monotonic_ns(), logits))
    publisher.close()
