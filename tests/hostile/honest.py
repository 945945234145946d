"""The honest neighbours: a camera at 30 Hz, sensors and sentences, each from a socket of its own, all stamped.

    python -m tests.hostile.honest ENDPOINT [KEYS]

With KEYS, a client's file, where the endpoint has keys.

Every message's `id` is `t` and when it was sent, in monotonic nanoseconds: what is decided on can be told to be old.
SIGTERM ends it. Its output is a JSON object a line: each frame's time, whether or not the socket took it, and at
the end the messages sent.
"""

from __future__ import annotations

import itertools
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import zmq

from benchmarks.workload import FRAME_HZ, make_workload
from edge_runtime import sockets

STARTS_LATE_NS = 200_000_000
"""Farther behind than this (it was stopped, say), it goes on from the present and does not catch up."""


class Honest:
    """Three sockets that never block."""

    def __init__(self, endpoint: str, keys: Path | None) -> None:
        self._context = zmq.Context()
        self._sockets = {name: self._context.socket(zmq.PUSH) for name in ("camera", "sensors", "text")}
        for socket in self._sockets.values():
            socket.setsockopt(zmq.SNDHWM, 4)
            socket.setsockopt(zmq.LINGER, 2000)
            socket.setsockopt(zmq.IMMEDIATE, 1)
            sockets.connect(socket, endpoint, keys)
        self.sent = 0

    def send(self, socket: str, message: dict[str, Any], *more: Any) -> None:
        """With its stamp and mark, or not at all."""
        now_ns = time.monotonic_ns()
        header = json.dumps({"schema": 1, "captured_ns": now_ns, "id": f"t{now_ns}", **message}).encode()
        try:
            self._sockets[socket].send_multipart([header, *more], zmq.NOBLOCK)
            self.sent += 1
        except zmq.Again:
            pass

    def close(self) -> None:
        """Returns when what was sent has left, or after 2 s."""
        for socket in self._sockets.values():
            socket.close()
        self._context.term()


def main(endpoint: str, keys: str | None = None) -> None:
    workload = make_workload()
    honest = Honest(endpoint, None if keys is None else Path(keys))
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    due_ns = time.monotonic_ns()
    for index in itertools.count():
        if stopping:
            break
        now_ns = time.monotonic_ns()
        if now_ns - due_ns > STARTS_LATE_NS:
            due_ns = now_ns
        time.sleep(max(0, due_ns - now_ns) / 1e9)
        if (sentence := workload.sentence(index)) is not None:
            honest.send("text", {"stream": "text", "text": sentence})
        for reading in workload.sensed(index):
            honest.send("sensors", {"stream": reading.stream, "values": dict(reading.values)})
        honest.send("camera", {"stream": "camera.front"}, workload.picture(index))
        print(json.dumps({"frame_ns": time.monotonic_ns()}), flush=True)
        due_ns += 1_000_000_000 // FRAME_HZ
    honest.close()
    print(json.dumps({"sent": honest.sent}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
