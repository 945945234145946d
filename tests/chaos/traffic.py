"""The honest senders of tests/hostile, which go wrong on command: a camera, sensors, sentences; some behind keys.

    python -m tests.chaos.traffic INPUTS KEYED_INPUTS KEYS

The camera sends to INPUTS; sensors and sentences to KEYED_INPUTS with the client's file KEYS. A line of standard input
is a JSON object: `{"camera": "good" | "away" | "frozen" | "lying"}`, `{"sensors": "good" | "away" | "insane"}`,
`{"keys": FILE}`; the end of it ends this. A line of output is `{"sent": STREAM, "at_ns": N}` for each message that a
socket took.

A frame's `id` is `t` and when it was sent, behind `fN` where it is the N-th time that the same one is shown.
"""

from __future__ import annotations

import itertools
import json
import queue
import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import zmq

from benchmarks.workload import FRAME_HZ, make_workload
from edge_runtime import sockets
from tests.hostile import bombs

CAMERA = "camera.front"
STARTS_LATE_NS = 200_000_000
"""Farther behind than this it goes on from the present and does not catch up."""
TEXT_EVERY, POSITION_EVERY = 45, 3
"""Frames between two sentences, and between two positions."""
INSANE = ("NaN", None, 1e30, -1e30, "unavailable", "", True, float("inf"), [1], {"a": 1})


class Senders:
    """Sockets that never block, and what is wrong with what they send."""

    def __init__(self, inputs: str, keyed: str, keys: Path) -> None:
        self._context = zmq.Context()
        self._keyed = keyed
        self._camera = self._connected(inputs, None)
        self._others = self._connected(keyed, keys)
        self._chance = Random(1)
        self._workload = make_workload()
        self._shown = 0
        """Times that the frozen frame was shown."""
        self._position: dict[str, Any] = {"x_m": 0.0}
        self.camera = self.sensors = "good"

    def told(self, command: dict[str, str]) -> None:
        """Go wrong, or right again."""
        self.camera = command.get("camera", self.camera)
        self.sensors = command.get("sensors", self.sensors)
        if "keys" in command:
            before, self._others = self._others, self._connected(self._keyed, Path(command["keys"]))
            before.close(linger=2000)

    def frame(self, index: int) -> None:
        """All of one moment."""
        if index % TEXT_EVERY == 0:
            sentence = self._workload.sentences[index // TEXT_EVERY % len(self._workload.sentences)]
            self._send(self._others, {"stream": "text", "text": sentence})
        if index % POSITION_EVERY == 0:
            self._send(self._others, {"stream": "position", "values": self._position})
        for reading in self._workload.sensed(index):
            if reading.stream == "position":  # sent above: the town gives it half as often as the bundle expects
                self._position = dict(reading.values)
                continue
            if self.sensors == "insane":
                values: dict[str, Any] = {name: self._chance.choice(INSANE) for name in reading.values}
                self._send(self._others, {"stream": reading.stream, "values": values})
            elif self.sensors != "away":
                self._send(self._others, {"stream": reading.stream, "values": dict(reading.values)})
        self._shown = self._shown + 1 if self.camera == "frozen" else 0
        if self.camera == "good":
            self._send(self._camera, {"stream": CAMERA}, self._workload.picture(index))
        elif self.camera == "frozen":
            mark = f"f{self._shown}t{time.monotonic_ns()}"
            self._send(self._camera, {"stream": CAMERA, "id": mark}, self._workload.picture(0))
        elif self.camera == "lying":
            self._send(self._camera, *self._lie(index))

    def close(self) -> None:
        """Returns when what was sent has left, or after 2 s."""
        self._camera.close()
        self._others.close()
        self._context.term()

    def _lie(self, index: int) -> tuple[dict[str, Any], Any]:
        """A stamp of the future or the past, or a picture that is none."""
        picture = self._workload.picture(index)
        now_ns = time.monotonic_ns()
        lie = self._chance.randrange(6)
        if lie < 2:
            off_s = self._chance.uniform(0.2, 50) * (1 if lie else -1)
            return {"stream": CAMERA, "captured_ns": now_ns + int(off_s * 1e9)}, picture
        if lie == 2:
            return {"stream": CAMERA}, picture[: self._chance.randrange(len(picture))]
        return {"stream": CAMERA}, (b"", b"no picture", bombs.announced(7680, 4320))[lie - 3]

    def _connected(self, endpoint: str, keys: Path | None) -> zmq.Socket[bytes]:
        made = self._context.socket(zmq.PUSH)
        made.setsockopt(zmq.SNDHWM, 4)
        made.setsockopt(zmq.LINGER, 2000)
        made.setsockopt(zmq.IMMEDIATE, 1)
        made.setsockopt(zmq.RECONNECT_IVL, 50)
        sockets.connect(made, endpoint, keys)
        return made

    def _send(self, socket: zmq.Socket[bytes], message: dict[str, Any], *more: Any) -> None:
        now_ns = time.monotonic_ns()
        header = json.dumps({"schema": 1, "captured_ns": now_ns, "id": f"t{now_ns}", **message}).encode()
        try:
            socket.send_multipart([header, *more], zmq.NOBLOCK)
        except zmq.Again:
            return
        print(json.dumps({"sent": message["stream"], "at_ns": now_ns}), flush=True)


def main(inputs: str, keyed: str, keys: str) -> None:
    senders = Senders(inputs, keyed, Path(keys))
    commands: queue.SimpleQueue[dict[str, str] | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            commands.put(json.loads(line))
        commands.put(None)

    threading.Thread(target=read, daemon=True).start()
    due_ns = time.monotonic_ns()
    for index in itertools.count():
        while not commands.empty():
            if (command := commands.get()) is None:
                senders.close()
                return
            senders.told(command)
        now_ns = time.monotonic_ns()
        if now_ns - due_ns > STARTS_LATE_NS:
            due_ns = now_ns
        time.sleep(max(0, due_ns - now_ns) / 1e9)
        senders.frame(index)
        due_ns += 1_000_000_000 // FRAME_HZ


if __name__ == "__main__":
    main(*sys.argv[1:])
