"""Variants of the same work, run in turn, each a process of its own with the same subscriber: figures, tables, plot."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.live import PARTS, PROCESS, Heard, run_live, run_user_loop
from benchmarks.results import progress
from benchmarks.workload import FRAME_HZ, Play, make_workload, percentile
from build_engines.model.monolith import compose_monolith, monolith_bundle, stage_graphs
from edge_runtime.bundle import TOKENIZER, Bundle, open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.config import RealtimeConfig
from edge_runtime.preprocess import text_tensors
from edge_runtime.streams import SensorStream, TextStream
from edge_runtime.tensor_source import stream_tensor
from edge_runtime.tokenizer import SentencePieceTokenizer

USER, SAME, STAGED = "user's loop", "runtime, same graph", "runtime, staged"
RECORDING = "runtime, staged, recording"
METHOD = (
    "A frame counts from the moment the camera has given it (JPEG bytes, or a raw picture) until another process has "
    "received the answer by ZeroMQ. The user's loop decodes, resizes by area, runs one whole graph, and sends JSON. "
    "Variants alternate; each round is a process of its own, its first second left out. A figure is the median of "
    "the rounds' figures."
)

Run = Callable[[str, int], Heard]
"""A variant's run of one round: of pictures (their size), so many frames."""


@dataclass
class Measured:
    """All rounds of one variant, milliseconds."""

    latency: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PARTS})
    rounds: list[dict[str, float]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, heard: Heard) -> None:
        """One round."""
        latency = heard.latency_ms
        self.latency += latency
        for name, values in zip(PARTS, zip(*heard.frames, strict=True), strict=True):
            self.parts[name] += values
        figures = {"p50": percentile(latency, 50), "p99": percentile(latency, 99), "cpu_ms": heard.cpu_ms}
        self.rounds.append(figures | {"replaced": sum(heard.facts.get("dropped", {}).values())})
        self.facts = heard.facts

    def median(self, figure: str) -> float:
        """Of the rounds."""
        return float(np.median([found[figure] for found in self.rounds]))


class Rig:
    """A bundle, its stages as one graph, and a place for sockets and recordings. Use as a context manager."""

    def __init__(self, bundle: str) -> None:
        self._bundle = bundle
        self._cleanup = ExitStack()

    def __enter__(self) -> Rig:
        self.folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="edge-runtime-benchmark-")))
        self.endpoint = f"ipc://{self.folder}/decisions"
        opened = open_bundle(bundle_path(self._bundle), allow_unsigned=True)
        monolith = compose_monolith(stage_graphs(opened)).SerializeToString()
        (self.folder / "monolith.onnx").write_bytes(monolith)
        np.savez(self.folder / "inputs.npz", **ready_inputs(opened))  # type: ignore[arg-type]
        self._whole = monolith_bundle(opened, monolith, self.folder / "monolith")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def user(self, size: str, frames: int) -> Heard:
        """The user's loop."""
        return self.loop((sys.executable, "-m", "benchmarks.user_loop"), size, frames)

    def loop(self, command: Sequence[str], size: str, frames: int, **environment: str) -> Heard:
        """Another program that does the user's work."""
        files = (str(self.folder / "monolith.onnx"), str(self.folder / "inputs.npz"))
        return run_user_loop((*command, *files, self.endpoint, str(frames), size), self.endpoint, environment)

    def same(self, size: str, frames: int) -> Heard:
        """The runtime with the user's graph."""
        return run_live(PROCESS, Play(str(self._whole), self.endpoint, frames, size))

    def staged(self, size: str, frames: int, realtime: RealtimeConfig | None = None) -> Heard:
        """The runtime with the bundle."""
        return run_live(PROCESS, Play(str(bundle_path(self._bundle)), self.endpoint, frames, size, realtime=realtime))

    def recording(self, size: str, frames: int) -> Heard:
        """... while it records to disk."""
        recording = str(self.folder / "drive.mcap")
        return run_live(PROCESS, Play(str(bundle_path(self._bundle)), self.endpoint, frames, size, recording))


def measure(
    variants: Mapping[str, Run], sizes: Sequence[str], rounds: int, seconds: float
) -> dict[str, dict[str, Measured]]:
    """All variants in turn, so many rounds of each picture size."""
    measured: dict[str, dict[str, Measured]] = {}
    steps = [(size, number) for size in sizes for number in range(rounds)]
    for size, _ in progress(steps, lambda step: f"{step[0]}, round {step[1] + 1} of {rounds}"):
        for name, run in variants.items():
            found = measured.setdefault(size, {}).setdefault(name, Measured())
            found.add(run(size, int(seconds * FRAME_HZ)))
    return measured


def ready_inputs(bundle: Bundle) -> dict[str, NDArray[np.generic]]:
    """The monolith's inputs other than the picture, once and for all."""
    inputs: dict[str, NDArray[np.generic]] = {"presence": np.ones((1, len(bundle.manifest.presence)), np.float32)}
    used = {source for stage in bundle.manifest.stages for source in stage.sources}
    for name, spec in bundle.manifest.streams.items():
        if isinstance(spec, TextStream):
            tensors = text_tensors(spec, SentencePieceTokenizer(bundle.read(TOKENIZER)), make_workload().sentences[0])
            inputs |= {"ids": tensors["ids"], "text_mask": tensors["mask"]}
        elif isinstance(spec, SensorStream) and stream_tensor(name, "window") in used:
            shape = (1, spec.window, len(spec.channels))
            noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
            inputs |= {"window": noise, "sensors_mask": np.ones(shape, np.float32)}
    return inputs


def figures_of(variants: dict[str, Measured]) -> dict[str, Any]:
    """One picture size's; ratios are to the user's loop."""
    user = variants[USER]
    return {
        name: {
            "frames": len(item.latency),
            "p50_ms": item.median("p50"),
            "p99_ms": item.median("p99"),
            "max_ms": max(item.latency),
            "cpu_ms": item.median("cpu_ms"),
            "mean_infer_ms": float(np.mean(item.parts["infer"])),
            "p50_ratio": item.median("p50") / user.median("p50"),
            "p99_ratio": item.median("p99") / user.median("p99"),
            "cpu_ratio": item.median("cpu_ms") / user.median("cpu_ms"),
            "replaced": sum(found["replaced"] for found in item.rounds),
            "parts_p50_ms": {part: percentile(values, 50) for part, values in item.parts.items()},
            "rounds": item.rounds,
            **item.facts,
        }
        for name, item in variants.items()
    }


def table(size: str, variants: dict[str, Measured]) -> Table:
    shown = Table(title=f"{size}: capture to subscriber, ms, medians of rounds", title_justify="left")
    columns = ("variant", "frames", "p50", "p99", "max", "CPU", "replaced", "p50 / user", "p99 / user", "CPU / user")
    for column in columns:
        shown.add_column(column, justify="left" if column == "variant" else "right")
    for name, figure in figures_of(variants).items():
        values = [figure[key] for key in ("p50_ms", "p99_ms", "max_ms", "cpu_ms")]
        ratios = [figure[key] for key in ("p50_ratio", "p99_ratio", "cpu_ratio")]
        replaced = f"{figure['replaced']:.0f}"
        cells = (*(f"{value:.2f}" for value in values), replaced, *(f"{value:.2f}" for value in ratios))
        shown.add_row(name, str(figure["frames"]), *cells)
    return shown


def parts_table(size: str, variants: dict[str, Measured]) -> Table:
    shown = Table(title=f"{size}: where it goes, median of each part, ms", title_justify="left")
    for column in ("variant", *PARTS):
        shown.add_column(column, justify="left" if column == "variant" else "right")
    for name, item in variants.items():
        shown.add_row(name, *(f"{percentile(values, 50):.2f}" for values in item.parts.values()))
    return shown


def plot(measured: dict[str, dict[str, Measured]]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(1, len(measured), figsize=(1 + 5 * len(measured), 4), squeeze=False)
    for axes, (size, variants) in zip(rows[0], measured.items(), strict=True):
        for name, item in variants.items():
            values = np.sort(item.latency)
            axes.plot(values, 100 * (np.arange(len(values)) + 1) / len(values), label=name)
        axes.set(xlabel="capture to result at the subscriber (ms)", ylabel="% of frames", title=size)
        axes.set_xlim(0, 1.3 * max(percentile(item.latency, 99) for item in variants.values()))
        axes.axhline(99, color="0.8", linewidth=1, zorder=0)
        axes.legend(loc="lower right")
        axes.grid(alpha=0.3)
    figure.tight_layout()
    return figure
