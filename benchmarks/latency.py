"""Capture to subscriber against the bare loop, alternating in one run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.live import PARTS, SKIP, Frame, run_live
from benchmarks.results import budgets, write_results
from benchmarks.workload import FRAME_HZ, make_workload, percentile
from build_engines.model.monolith import compose_monolith, monolith_bundle, stage_graphs
from edge_runtime.bundle import TOKENIZER, Bundle, open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.errors import GateRefused
from edge_runtime.preprocess import Tokenizer, text_tensors
from edge_runtime.streams import SensorStream, TextStream
from edge_runtime.tensor_source import stream_tensor

VARIANTS = ("bare loop", "runtime, same graph", "runtime, staged")
RECORDING = "runtime, staged, recording"
PROCESS = (sys.executable, "-m", "benchmarks.runtime_process")


@dataclass
class Measured:
    """All rounds of one variant, milliseconds."""

    latency: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PARTS})
    rounds: list[dict[str, float]] = field(default_factory=list)

    def add(self, frames: Sequence[Frame]) -> None:
        """One round's frames."""
        latency = [sum(frame) for frame in frames]
        self.latency += latency
        for name, values in zip(PARTS, zip(*frames, strict=True), strict=True):
            self.parts[name] += values
        self.rounds.append({"p50": percentile(latency, 50), "p99": percentile(latency, 99)})


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=8.0, show_default=True, type=click.FloatRange(3), help="Per variant and round.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/latency"), show_default=True
)
@click.option("--record", is_flag=True, help="Also measure the staged runtime while it records to disk.")
@click.option("--check", is_flag=True, help="Exit with code 3 if a figure breaks budgets.toml.")
def latency(bundle: str, rounds: int, seconds: float, out: Path, record: bool, check: bool) -> None:
    """Capture to subscriber against the bare loop with the same work."""
    opened = open_bundle(bundle_path(bundle), allow_unsigned=True)
    frames = int(seconds * FRAME_HZ)
    measured = {name: Measured() for name in (*VARIANTS, *((RECORDING,) if record else ()))}
    status: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="edge-runtime-latency-") as folder:
        work = Path(folder)
        monolith = compose_monolith(stage_graphs(opened)).SerializeToString()
        (work / "monolith.onnx").write_bytes(monolith)
        np.savez(work / "inputs.npz", **_ready_inputs(opened))  # type: ignore[arg-type]
        whole = monolith_bundle(opened, monolith, work / "monolith")
        for number in track(range(rounds), "rounds", console=Console(stderr=True)):
            measured["bare loop"].add(_bare(work, frames))
            for name in list(measured)[1:]:
                path = whole if name == "runtime, same graph" else bundle_path(bundle)
                more = [str(work / f"{number}.mcap")] if name == RECORDING else []
                times, status[name] = run_live(PROCESS, str(path), f"ipc://{work}/decisions", frames, *more)
                measured[name].add(times)
    figures = _figures(measured, status)
    Console().print(_table(measured))
    Console().print(_parts(measured))
    write_results(out, "latency", figures, _plot(measured))
    broken = _broken(figures)
    for line in broken:
        Console(stderr=True).print(f"[red]over budget[/] {line}")
    if check and broken:
        raise GateRefused("; ".join(broken))


def _ready_inputs(bundle: Bundle) -> dict[str, NDArray[np.generic]]:
    """The monolith's inputs other than the picture, once and for all."""
    inputs: dict[str, NDArray[np.generic]] = {"presence": np.ones((1, len(bundle.manifest.presence)), np.float32)}
    used = {source for stage in bundle.manifest.stages for source in stage.sources}
    for name, spec in bundle.manifest.streams.items():
        if isinstance(spec, TextStream):
            tensors = text_tensors(spec, Tokenizer(bundle.read(TOKENIZER)), make_workload().sentences[0])
            inputs |= {"ids": tensors["ids"], "text_mask": tensors["mask"]}
        elif isinstance(spec, SensorStream) and stream_tensor(name, "window") in used:
            shape = (1, spec.window, len(spec.channels))
            noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
            inputs |= {"window": noise, "sensors_mask": np.ones(shape, np.float32)}
    return inputs


def _bare(work: Path, frames: int) -> list[Frame]:
    command = [sys.executable, "-m", "benchmarks.bare_loop", str(work / "monolith.onnx")]
    command += [str(work / "inputs.npz"), str(frames)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    pairs = zip(found["latency_ms"], found["infer_ms"], strict=True)
    # Decoding counts as preprocessing.
    return [(0.0, latency - infer, infer, 0.0, 0.0) for latency, infer in pairs][SKIP:]


def _figures(measured: dict[str, Measured], status: dict[str, Any]) -> dict[str, Any]:
    variants = {
        name: {
            "frames": len(item.latency),
            "p50_ms": percentile(item.latency, 50),
            "p99_ms": percentile(item.latency, 99),
            "max_ms": max(item.latency),
            "mean_infer_ms": float(np.mean(item.parts["infer"])),
            "parts_p50_ms": {part: percentile(values, 50) for part, values in item.parts.items()},
            "rounds": item.rounds,
            **status.get(name, {}),
        }
        for name, item in measured.items()
    }
    bare, same, staged = (variants[name] for name in VARIANTS)
    recording = variants.get(RECORDING)
    return {
        "variants": variants,
        "recording_p50_ratio": recording and recording["p50_ms"] / staged["p50_ms"],
        "recording_p99_ratio": recording and recording["p99_ms"] / staged["p99_ms"],
        "p50_ratio": same["p50_ms"] / bare["p50_ms"],
        "p99_ratio": same["p99_ms"] / bare["p99_ms"],
        "staged_compute_ratio": staged["mean_infer_ms"] / same["mean_infer_ms"],
        "staged_p50_ratio": staged["p50_ms"] / bare["p50_ms"],
    }


def _broken(figures: dict[str, Any]) -> list[str]:
    hold = budgets()["latency"]
    bare, same, _ = (figures["variants"][name] for name in VARIANTS)
    found = []
    for which in ("p50", "p99"):
        limit = hold[f"{which}_ratio"] * bare[f"{which}_ms"] + hold[f"{which}_extra_ms"]
        if same[f"{which}_ms"] > limit:
            found.append(f"{which} {same[f'{which}_ms']:.2f} ms > {limit:.2f} ms")
    if figures["staged_compute_ratio"] > hold["staged_compute_ratio"]:
        found.append(f"staged compute {figures['staged_compute_ratio']:.2f} > {hold['staged_compute_ratio']}")
    return found


def _table(measured: dict[str, Measured]) -> Table:
    table = Table(title="capture to subscriber, ms", title_justify="left")
    for column in ("variant", "frames", "p50", "p90", "p99", "max", "mean infer", "p50 / bare", "p99 / bare"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    bare = measured["bare loop"].latency
    for name, item in measured.items():
        values = [percentile(item.latency, q) for q in (50, 90, 99, 100)]
        ratios = [percentile(item.latency, q) / percentile(bare, q) for q in (50, 99)]
        cells = [f"{value:.2f}" for value in (*values, float(np.mean(item.parts["infer"])), *ratios)]
        table.add_row(name, str(len(item.latency)), *cells)
    return table


def _parts(measured: dict[str, Measured]) -> Table:
    table = Table(title="where it goes: median of each part, ms", title_justify="left")
    for column in ("variant", *PARTS):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, item in measured.items():
        table.add_row(name, *(f"{percentile(values, 50):.2f}" for values in item.parts.values()))
    return table


def _plot(measured: dict[str, Measured]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, item in measured.items():
        values = np.sort(item.latency)
        axes.plot(values, 100 * (np.arange(len(values)) + 1) / len(values), label=name)
    axes.set(xlabel="capture to result at the subscriber (ms)", ylabel="% of frames", title="Latency")
    axes.set_xlim(0, 1.3 * max(percentile(item.latency, 99) for item in measured.values()))
    axes.axhline(99, color="0.8", linewidth=1, zorder=0)
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    return figure
