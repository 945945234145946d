"""A runtime that stands still while its senders go on: nothing old is decided on as fresh."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import zmq

from edge_runtime import Subscriber
from edge_runtime.wire import DecisionMessage
from tests.conftest import WAIT_S, jpeg, noise, wait_for

STANDSTILL_S = 3.0
OLDEST_S = 1.5
"""The tiny bundle takes frames of at most 0.3 s; the rest is what a busy machine may add on the way."""


def test_after_a_standstill_nothing_unstamped_that_waited_is_decided_on(tiny_bundle_path: Path, tmp_path: Path) -> None:
    inputs, decisions = (f"ipc://{tmp_path}/{name}" for name in ("inputs", "decisions"))
    (tmp_path / "c.toml").write_text(
        f'name = "still"\nbundle = "{tiny_bundle_path}"\nallow_unsigned = true\n'
        f'[[source]]\nkind = "zmq"\nbind = "{inputs}"\n[[sink]]\nkind = "zmq"\nbind = "{decisions}"\n'
    )
    process = subprocess.Popen([sys.executable, "-m", "edge_runtime", "run", str(tmp_path / "c.toml")])
    context = zmq.Context()
    sent: list[float] = []
    over = threading.Event()

    def send() -> None:
        pusher = context.socket(zmq.PUSH)
        pusher.connect(inputs)
        frames = [jpeg(noise(200, seed)) for seed in range(16)]
        while not over.wait(1 / 30):
            header = {"schema": 1, "stream": "camera", "id": str(len(sent))}
            sent.append(time.monotonic())
            pusher.send_multipart([json.dumps(header).encode(), frames[len(sent) % 16]])
        pusher.close(linger=0)

    thread = threading.Thread(target=send)
    try:
        wait_for(lambda: (tmp_path / "inputs").exists() and (tmp_path / "decisions").exists(), "its sockets")
        thread.start()
        with Subscriber(decisions, timeout_s=WAIT_S) as subscriber:

            def from_model() -> DecisionMessage:
                while True:
                    said = subscriber.receive(WAIT_S)
                    assert said is not None
                    if isinstance(said, DecisionMessage) and said.inputs["camera"].id is not None:
                        return said

            from_model()
            os.kill(process.pid, signal.SIGSTOP)
            stopped = time.monotonic()
            time.sleep(STANDSTILL_S)
            went_on = len(sent)
            os.kill(process.pid, signal.SIGCONT)
            newest = 0
            while newest < went_on + 10:
                said = from_model()
                newest = int(said.inputs["camera"].id or 0)
                age_s = said.published_ns / 1e9 - sent[newest]
                assert age_s < OLDEST_S, f"frame {newest} was sent {age_s:.1f} s before its decision"
            assert sent[went_on] - stopped >= STANDSTILL_S - 1, "the sender went on meanwhile"
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(WAIT_S)
        context.destroy(linger=0)
