"""From the start of the service's command to its first decision by the model, and the first frame after a silence."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from benchmarks.results import Judged, Machine, budgets, figure_table, progress, tell, write_results
from benchmarks.workload import FRAME_HZ, Workload, make_workload
from edge_runtime import Subscriber
from edge_runtime.errors import UserError
from edge_runtime.wire import DecisionMessage

GIVE_UP_S = 60.0
METHOD = (
    "From the start of `edge-runtime run` to its first decision by the model in another process; a vehicle has been "
    "sending for a while. Modules are compiled and files are in memory, as after an installation and a first start. "
    "Then the first frame after a silence beside the usual one. Figures are medians of starts."
)


class Sender:
    """A vehicle that has been sending for a while before the service starts: pictures and readings over ZeroMQ."""

    def __init__(self, endpoint: str, workload: Workload) -> None:
        import msgspec
        import zmq

        self.pausing = threading.Event()
        self._ended = threading.Event()
        self._encode = msgspec.json.encode
        self._workload = workload
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.set_hwm(1)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDTIMEO, 5)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self._socket.connect(endpoint)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        index = 0
        while not self._ended.wait(1 / FRAME_HZ):
            if self.pausing.is_set():
                continue
            for reading in self._workload.sensed(index):
                self._send({"stream": reading.stream, "values": reading.values})
            self._send({"stream": "camera.front"}, self._workload.picture(index))
            index += 1

    def _send(self, message: dict[str, Any], *parts: Any) -> None:
        import zmq

        stamped = {"schema": 1, "captured_ns": time.monotonic_ns(), **message}
        try:
            self._socket.send_multipart([self._encode(stamped), *parts])
        except zmq.Again:
            pass  # nobody takes it yet


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--pause", default=5.0, show_default=True, type=click.FloatRange(1), help="Seconds of silence.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/cold"), show_default=True)
@click.option("--check", is_flag=True, help="Exit with code 3 if a figure breaks budgets.toml.")
def cold(bundle: str, rounds: int, pause: float, out: Path, check: bool) -> None:
    """Start to first decision, and the first frame after a pause."""
    machine = Machine()
    figures = measure(bundle, rounds, pause)
    Console().print(figure_table("cold", {name: value for name, value in figures.items() if name != "starts_s"}))
    Console().print(machine.sentence())
    settings = {"bundle": bundle, "rounds": rounds, "pause": pause}
    write_results(out, "cold", {"method": METHOD, **figures}, None, machine, settings)
    tell(judged(figures), check)


def measure(bundle: str, rounds: int, pause: float) -> dict[str, Any]:
    """So many starts, and `pause` seconds of silence in each. One before them is not counted: it compiles the modules,
    as an installation does.
    """
    workload = make_workload()
    starts, usual, after = [], [], []
    with tempfile.TemporaryDirectory(prefix="edge-runtime-bytecode-") as bytecode:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        _once(bundle, workload, 0.0, environment)
        for _ in progress(range(rounds), lambda number: f"start {number + 1}"):
            start_s, before_ms, first_ms = _once(bundle, workload, pause, environment)
            starts.append(start_s)
            usual.append(before_ms)
            after.append(first_ms)
    return {
        "first_decision_s": float(np.median(starts)),
        "slowest_first_decision_s": max(starts),
        "usual_ms": float(np.median(usual)),
        f"after_{pause:g}_s_of_silence_ms": float(np.median(after)),
        "starts_s": starts,
    }


def judged(figures: dict[str, Any]) -> list[Judged]:
    """Beside the limit."""
    limit = budgets()["cold"]["first_decision_s"]
    return [Judged("start to first decision, s", figures["first_decision_s"], limit)]


def _once(bundle: str, workload: Workload, pause: float, environment: Mapping[str, str]) -> tuple[float, float, float]:
    """Seconds to the first decision, the usual latency, and that of the first frame after a pause (ms)."""
    with tempfile.TemporaryDirectory(prefix="edge-runtime-cold-") as folder:
        inputs, decisions = f"ipc://{folder}/inputs", f"ipc://{folder}/decisions"
        config = Path(folder) / "car.toml"
        config.write_text(
            f'name = "car"\nbundle = "{bundle}"\nallow_unsigned = true\n[[sink]]\nkind = "zmq"\nbind = "{decisions}"\n'
            f'[[source]]\nkind = "zmq"\nbind = "{inputs}"\n'
        )
        sender = Sender(inputs, workload)
        with Subscriber(decisions) as subscriber:
            begun = time.monotonic()
            command = [sys.executable, "-m", "edge_runtime", "run", str(config)]
            process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
            try:
                _next(subscriber)
                start_s = time.monotonic() - begun
                latencies = [_next(subscriber) for _ in range(2 * FRAME_HZ)]
                sender.pausing.set()
                time.sleep(pause)
                sender.pausing.clear()
                return start_s, float(np.median(latencies[FRAME_HZ:])), _next(subscriber, since_ns=time.monotonic_ns())
            finally:
                process.terminate()
                process.wait()
                sender.close()


def _next(subscriber: Subscriber, since_ns: int = 0) -> float:
    """The next answer of the model to something captured after `since_ns`: its latency here, in milliseconds."""
    while (message := subscriber.receive(GIVE_UP_S)) is not None:
        if not isinstance(message, DecisionMessage) or message.source != "model" or message.latency_ms.queue == 0:
            continue
        if message.captured_ns > since_ns:
            return (subscriber.received_ns - message.captured_ns) / 1e6
    raise UserError(f"cold: no decision by the model within {GIVE_UP_S:g} s")
