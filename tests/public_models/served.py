"""A bundle put to work: asked by messages to a service in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import zmq

from edge_runtime import Subscriber
from edge_runtime.wire import DecisionMessage

WAIT_S = 300.0
AGAIN_S = 0.5
"""A message is sent again until it is decided on: a service that still starts refuses what comes."""


@dataclass(frozen=True)
class Reading:
    """What a stream is given: one of a picture's JPEG, values by channel, and a sentence."""

    jpeg: bytes = b""
    values: Mapping[str, float] | None = None
    text: str = ""

    def frames(self, stream: str) -> list[bytes]:
        """The message's frames."""
        header = {"schema": 1, "stream": stream, "captured_ns": time.monotonic_ns()}
        if self.jpeg:
            return [json.dumps(header).encode(), self.jpeg]
        body = {"values": dict(self.values)} if self.values is not None else {"text": self.text}
        return [json.dumps(header | body).encode()]


def decide(bundle: Path, given: Mapping[str, Reading], trigger: str, folder: Path) -> DecisionMessage:
    """The first decision that `edge-runtime run` makes from all that is `given`, by stream. Sockets and configuration
    lie in `folder`. Raises AssertionError where none comes."""
    inputs, decisions, config = (f"ipc://{folder}/inputs", f"ipc://{folder}/decisions", folder / "run.toml")
    config.write_text(
        f'name = "public"\nbundle = "{bundle}"\nallow_unsigned = true\n'
        f'[[source]]\nkind = "zmq"\nbind = "{inputs}"\n[[sink]]\nkind = "zmq"\nbind = "{decisions}"\n'
    )
    with ExitStack() as stack:
        log = stack.enter_context((folder / "run.log").open("w+"))
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_runtime", "run", str(config)], stdout=log, stderr=subprocess.STDOUT
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        context = stack.enter_context(zmq.Context())
        socket = stack.enter_context(context.socket(zmq.PUSH))
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(inputs)
        subscriber = stack.enter_context(Subscriber(decisions))
        answer = _first(socket, subscriber, given, trigger, process)
        if answer is None:
            log.seek(0)
            raise AssertionError(f"no decision from {', '.join(given)}: {log.read()[-2000:]}")
        return answer


def _first(
    socket: zmq.Socket[bytes], subscriber: Subscriber, given: Mapping[str, Reading], trigger: str,
    process: subprocess.Popen[bytes],
) -> DecisionMessage | None:  # fmt: skip
    order: Sequence[str] = [*(stream for stream in given if stream != trigger), trigger]
    until, again = time.monotonic() + WAIT_S, 0.0
    last: DecisionMessage | None = None
    while time.monotonic() < until and process.poll() is None:
        if time.monotonic() >= again:
            for stream in order:
                socket.send_multipart(given[stream].frames(stream))
            again = time.monotonic() + AGAIN_S
        message = subscriber.receive(AGAIN_S)
        if isinstance(message, DecisionMessage) and all(message.inputs[stream].present for stream in given):
            if message.source == "model":
                return message
            last = message
    return last
