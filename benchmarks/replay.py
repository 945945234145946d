"""Replay a recorded drive's sensor files, each at its own clock, through capture and alignment; account for every row.

Also an example of a one-stage bundle around one's own ONNX graph.
"""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from benchmarks.results import write_results
from edge_runtime import Subscriber
from edge_runtime.bundle import MANIFEST, Manifest, Stage, StageInput, encode_manifest
from edge_runtime.errors import GateRefused, UserError
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.streams import Channel, SensorStream
from edge_runtime.tensor_source import stage_output, stream_tensor
from edge_runtime.tensors import TensorSpec
from edge_runtime.wire import DecisionMessage, StatusMessage

LABELS = ("standing", "moving", "fast")
TRIGGER = "can_speed"
STREAMS: dict[str, tuple[float, str]] = {
    "can_speed": (83, "speed_mps"),
    "can_steering": (83, "steering_angle_deg"),
    "can_wheel_speed": (83, "fl_mps fr_mps rl_mps rr_mps"),
    "radar": (168, "forward_m left_m rel_speed_mps"),
    "imu_accel": (104, "forward_mps2 right_mps2 down_mps2"),
    "imu_gyro": (104, "forward_radps right_radps down_radps"),
    "imu_mag": (10, "forward_uT right_uT down_uT"),
    "gnss": (10, "latitude_deg longitude_deg speed_mps altitude_m bearing_deg"),
}
"""File (and stream) to its rate in Hz and the columns taken; units are the columns' suffixes."""


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--speed", "speeds", multiple=True, type=click.FloatRange(0, min_open=True), default=(1.0, 10.0))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/replay"), show_default=True)
@click.option("--check", is_flag=True, help="Exit with code 3 if a row is not accounted for.")
def replay(data: Path, speeds: tuple[float, ...], out: Path, check: bool) -> None:
    """Play DATA (driving-sensor-replay layout) at each --speed; show every stream's account."""
    console, figures, lost = Console(), {}, []
    for speed in speeds:
        console.print(f"playing {data} at {speed:g}x")
        status, decisions = play(data, speed)
        rows = {name: count_rows(data / f"{name}.csv") for name in STREAMS}
        console.print(_table(status, rows))
        console.print(f"{decisions} decisions, the last {status.state}; accounts balance: {status.conserved}")
        figures[f"{speed:g}x"] = {
            name: {"rows": rows[name], "captured": stream.captured, "decided": stream.decided,
                   "dropped": stream.dropped, "in_flight": stream.in_flight}
            for name, stream in status.streams.items()
        }  # fmt: skip
        lost += [
            f"{name} at {speed:g}x"
            for name, stream in status.streams.items()
            if stream.captured != rows[name] or not stream.balanced
        ]
    write_results(out, "replay", figures)
    if check and lost:
        raise GateRefused(f"rows without account: {', '.join(lost)}")


def play(data: Path, speed: float) -> tuple[StatusMessage, int]:
    """Run the files through a runtime process; its final status, and how many decisions it made."""
    with tempfile.TemporaryDirectory(prefix="edge-runtime-replay-") as folder:
        bundle = write_bundle(Path(folder) / "bundle")
        config = Path(folder) / "replay.toml"
        lines = [
            'name = "replay"',
            f'bundle = "{bundle}"',
            "allow_unsigned = true",
            "stop_at_end = true",
            f'publish = {{ bind = "ipc://{folder}/decisions" }}',
        ]
        for name in STREAMS:
            path = (data / f"{name}.csv").resolve()
            lines += ["[[source]]", 'kind = "file"', f'stream = "{name}"', f'path = "{path}"', f"speed = {speed}"]
        config.write_text("\n".join(lines))
        decisions = 0
        command = [sys.executable, "-m", "edge_runtime", "run", str(config)]
        with Subscriber(f"ipc://{folder}/decisions", high_water_mark=100_000) as subscriber:
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            while True:
                message = subscriber.receive(30)
                if message is None:
                    process.kill()
                    raise UserError(f"replay: the runtime fell silent: {process.communicate()[1]}")
                decisions += isinstance(message, DecisionMessage)
                if isinstance(message, StatusMessage) and message.state == "stopped":
                    process.communicate()
                    return message, decisions


def count_rows(path: Path) -> int:
    """Rows below the header."""
    with path.open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def write_bundle(folder: Path) -> Path:
    """A bundle with every stream of the recording and one stage: standing, moving or fast, by the last speed."""
    graph = _graph().SerializeToString()
    file = "stages/pace.fp32.onnx"
    (folder / "stages").mkdir(parents=True)
    (folder / file).write_bytes(graph)
    window = StageInput("window", "float32", (1, 1, 1), str(stream_tensor(TRIGGER, "window")), "speed in m/s")
    manifest = Manifest(
        format=1,
        name="replay",
        version="1.0.0",
        head=SoftmaxHead(LABELS, str(stage_output("pace", "logits"))),
        trigger=TRIGGER,
        streams={name: _stream(*spec) for name, spec in STREAMS.items()},
        stages=(Stage("pace", (window,), (TensorSpec("logits", "float32", (1, 3)),), {"fp32": file}),),
        decision=DecisionPolicy("standing", heartbeat_ms=500),
        precision={"default": {"pace": "fp32"}},
        files={file: hashlib.sha256(graph).hexdigest()},
    )
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))
    return folder


def _stream(rate_hz: float, columns: str) -> SensorStream:
    channels = tuple(Channel(name, name.rpartition("_")[2], -1e6, 1e6) for name in columns.split())
    return SensorStream(channels, rate_hz, max_age_ms=1000)


def _graph() -> onnx.ModelProto:
    """Logits -|speed - centre| for the centres 0, 5 and 30 m/s (the clip at 5 standard deviations stands for fast)."""
    nodes = [
        helper.make_node("Reshape", ["window", "shape"], ["speed"]),
        helper.make_node("Sub", ["speed", "centres"], ["away"]),
        helper.make_node("Abs", ["away"], ["distance"]),
        helper.make_node("Neg", ["distance"], ["logits"]),
    ]
    constants = {"shape": np.array([1, 1]), "centres": np.array([[0, 2.5, 5]], np.float32)}
    graph = helper.make_graph(
        nodes,
        "pace",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, [1, 1, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _table(status: StatusMessage, rows: dict[str, int]) -> Table:
    table = Table(title_justify="left")
    for column in ("stream", "rows", "captured", "= decided", "+ dropped", "+ in flight", "why dropped"):
        table.add_column(column, justify="left" if column in ("stream", "why dropped") else "right")
    for name, stream in status.streams.items():
        counts: tuple[Any, ...] = (
            rows[name],
            stream.captured,
            stream.decided,
            sum(stream.dropped.values()),
            stream.in_flight,
        )
        table.add_row(name, *map(str, counts), ", ".join(f"{key} {count}" for key, count in stream.dropped.items()))
    return table
