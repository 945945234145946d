"""Play labelled home data into a running runtime, as cameras, sensors and a microphone would, and score the answers.

Also an example of a client: it sends JPEG frames, sensor values and sentences over ZeroMQ, marks each with an `id`,
and matches the decisions that come back by that `id`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import zmq
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.results import write_results
from edge_runtime import Subscriber
from edge_runtime.errors import GateRefused, UserError
from edge_runtime.wire import DecisionMessage

ANSWER_TIMEOUT_S = 10.0
START_TIMEOUT_S = 60.0
EQUAL_SHARE = 0.99
CONFIG = """\
name = "home"
bundle = "{bundle}"
allow_unsigned = true
[[sink]]
kind = "zmq"
bind = "ipc://{folder}/decisions"
[[source]]
kind = "zmq"
rate_limit = 0
bind = "ipc://{folder}/inputs"
"""


class Player:
    """Sends samples and waits for the decision on each."""

    def __init__(self, inputs: str, decisions: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.connect(inputs)
        self._subscriber = Subscriber(decisions)
        # What is stamped before the service is up would be stale by then.
        self._subscriber.receive(START_TIMEOUT_S)

    def ask(self, sample: dict[str, Any], image: bytes) -> tuple[DecisionMessage, float]:
        """Send one sample; its decision, and milliseconds from sending to receiving."""
        mark = sample["id"]
        captured_ns = time.monotonic_ns()
        header = {"schema": 1, "captured_ns": captured_ns, "id": mark}
        values = {name: value for name, value in sample["sensors"].items() if value is not None}
        self._send(header | {"stream": "sensors", "values": values})
        self._send(header | {"stream": "text", "text": sample["text"], "lang": sample["lang"]})
        self._send(header | {"stream": "camera.front"}, image)
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while time.monotonic() < deadline:
            message = self._subscriber.receive(ANSWER_TIMEOUT_S)
            if isinstance(message, DecisionMessage) and message.inputs["camera.front"].id == mark:
                return message, (self._subscriber.received_ns - captured_ns) / 1e6
        raise UserError(f"home: no decision on sample {mark} within {ANSWER_TIMEOUT_S:g} s; is the runtime running?")

    def close(self) -> None:
        self._subscriber.close()
        self._socket.close(linger=0)
        self._context.term()

    def _send(self, message: dict[str, Any], *frames: bytes) -> None:
        self._socket.send_multipart([json.dumps(message).encode(), *frames])


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--split", default="val", show_default=True)
@click.option("--bundle", default="shipped:home", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/home"), show_default=True)
@click.option("--limit", type=click.IntRange(1), help="Only the first samples.")
@click.option(
    "--check", is_flag=True, help="Exit with code 3 if fewer than 99 % of the answers equal the offline ones."
)
def home(data: Path, split: str, bundle: str, out: Path, limit: int | None, check: bool) -> None:
    """Play DATA/SPLIT (home-control layout) into the runtime; compare with offline evaluation and score."""
    from build_engines.heads.metrics import class_table, score

    samples = [json.loads(line) for line in (data / split / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    samples = samples[:limit]
    offline, labels = _offline(data, split, bundle)
    live: dict[str, str] = {}
    round_trip: list[float] = []
    with _service(bundle) as (inputs, decisions):
        player = Player(inputs, decisions)
        try:
            for sample in track(samples, "samples", console=Console(stderr=True)):
                image = (data / sample["image"]).read_bytes()
                decision, spent_ms = player.ask(sample, image)
                live[sample["id"]] = decision.label
                round_trip.append(spent_ms)
        finally:
            player.close()
    scores = score([sample["label"] for sample in samples], [live[sample["id"]] for sample in samples], labels)
    equal = sum(live[mark] == offline[mark] for mark in live) / len(live)
    console = Console()
    console.print(class_table(scores, f"{bundle}, live, on {split}"))
    console.print(_summary(len(live), equal, scores.f1_macro, round_trip))
    figures = {
        "samples": len(live),
        "equal_to_offline": equal,
        "f1_macro": scores.f1_macro,
        "accuracy": scores.accuracy,
    }
    write_results(out, "home", figures)
    if check and equal < EQUAL_SHARE:
        raise GateRefused(f"only {equal:.2%} of the live decisions equal the offline ones")


def _offline(data: Path, split: str, bundle: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Sample id to label, as `build-engines evaluate` gives it."""
    from build_engines.data.datasets import layout_of
    from build_engines.evaluation.evaluate import evaluate
    from edge_runtime.bundle import open_bundle
    from edge_runtime.bundles import bundle_path
    from edge_runtime.heads.softmax import SoftmaxHead
    from edge_runtime.pipeline import Pipeline

    pipeline = Pipeline(open_bundle(bundle_path(bundle), allow_unsigned=True))
    result = evaluate(pipeline, layout_of(data, split).read(data, split, pipeline.streams))
    pipeline.close()
    head = pipeline.bundle.manifest.head
    assert isinstance(head, SoftmaxHead)
    return {prediction.id: prediction.label for prediction in result.predictions}, head.labels


@contextmanager
def _service(bundle: str) -> Iterator[tuple[str, str]]:
    """`edge-runtime run` in a process of its own; its input and decision endpoints."""
    with tempfile.TemporaryDirectory(prefix="edge-runtime-home-") as folder:
        config = Path(folder) / "home.toml"
        path = bundle if bundle.startswith("shipped:") else str(Path(bundle).resolve())
        config.write_text(CONFIG.format(bundle=path, folder=folder))
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_runtime", "run", str(config)], stderr=subprocess.DEVNULL
        )
        try:
            yield f"ipc://{folder}/inputs", f"ipc://{folder}/decisions"
        finally:
            process.terminate()
            process.wait()


def _summary(count: int, equal: float, f1: float, round_trip: list[float]) -> Table:
    import numpy as np

    table = Table(show_header=False, box=None)
    table.add_row("samples", str(count))
    table.add_row("live = offline", f"{equal:.2%}")
    table.add_row("macro-F1", f"{f1:.3f}")
    table.add_row(
        "send to decision", f"p50 {np.percentile(round_trip, 50):.2f} ms, p99 {np.percentile(round_trip, 99):.2f} ms"
    )
    return table
