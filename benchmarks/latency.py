"""Capture to subscriber beside the script that a user would write, alternating in one run, at any picture size."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.live import PARTS, PROCESS, Heard, run_live, run_user_loop
from benchmarks.results import Machine, budgets, progress, write_results
from benchmarks.workload import DEFAULT_PICTURES, FRAME_HZ, Play, make_workload, percentile, size_of
from build_engines.model.monolith import compose_monolith, monolith_bundle, stage_graphs
from edge_runtime.bundle import TOKENIZER, Bundle, open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.errors import GateRefused
from edge_runtime.preprocess import Tokenizer, text_tensors
from edge_runtime.streams import SensorStream, TextStream
from edge_runtime.tensor_source import stream_tensor

USER, SAME, STAGED = VARIANTS = ("user's loop", "runtime, same graph", "runtime, staged")
RECORDING = "runtime, staged, recording"
USER_LOOP = (sys.executable, "-m", "benchmarks.user_loop")
METHOD = (
    "A frame counts from the moment the camera has given it (JPEG bytes, or a raw picture) until another process has "
    "received the answer by ZeroMQ. The user's loop decodes, resizes by area, runs one whole graph, and sends JSON. "
    "Variants alternate; each round is a process of its own, its first second left out. A figure is the median of "
    "the rounds' figures."
)


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
        self.rounds.append({"p50": percentile(latency, 50), "p99": percentile(latency, 99), "cpu_ms": heard.cpu_ms})
        self.facts = heard.facts

    def median(self, figure: str) -> float:
        """Of the rounds."""
        return float(np.median([found[figure] for found in self.rounds]))


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option(
    "--pictures",
    multiple=True,
    default=(DEFAULT_PICTURES,),
    show_default=True,
    help="WIDTHxHEIGHT for JPEG, WIDTHxHEIGHT-raw for decoded ones; may be given several times.",
)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(3), help="Per variant and round.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/latency"), show_default=True
)
@click.option("--record", is_flag=True, help="Also measure the staged runtime while it records to disk.")
@click.option("--check", is_flag=True, help="Exit with code 3 if a figure breaks budgets.toml.")
def latency(
    bundle: str, pictures: tuple[str, ...], rounds: int, seconds: float, out: Path, record: bool, check: bool
) -> None:
    """Capture to subscriber beside the script that a user would write, at any picture size."""
    for size in pictures:
        size_of(size)
    machine = Machine()
    opened = open_bundle(bundle_path(bundle), allow_unsigned=True)
    measured: dict[str, dict[str, Measured]] = {}
    with tempfile.TemporaryDirectory(prefix="edge-runtime-latency-") as folder:
        work = Path(folder)
        monolith = compose_monolith(stage_graphs(opened)).SerializeToString()
        (work / "monolith.onnx").write_bytes(monolith)
        np.savez(work / "inputs.npz", **_ready_inputs(opened))  # type: ignore[arg-type]
        whole = monolith_bundle(opened, monolith, work / "monolith")
        steps = [(size, number) for size in pictures for number in range(rounds)]
        for size, number in progress(steps, lambda step: f"{step[0]}, round {step[1] + 1} of {rounds}"):
            variants = measured.setdefault(size, {})
            for name in (*VARIANTS, *((RECORDING,) if record else ())):
                frames, endpoint = int(seconds * FRAME_HZ), f"ipc://{work}/decisions"
                if name == USER:
                    files = (str(work / "monolith.onnx"), str(work / "inputs.npz"))
                    heard = run_user_loop((*USER_LOOP, *files, endpoint, str(frames), size), endpoint)
                else:
                    path = whole if name == SAME else bundle_path(bundle)
                    recording = str(work / f"{size}-{number}.mcap") if name == RECORDING else None
                    heard = run_live(PROCESS, Play(str(path), endpoint, frames, size, recording))
                variants.setdefault(name, Measured()).add(heard)
    figures = {size: _figures(variants) for size, variants in measured.items()}
    for size, variants in measured.items():
        Console().print(_table(size, variants))
        Console().print(_parts(size, variants))
    Console().print(machine.sentence())
    write_results(out, "latency", {"method": METHOD, "pictures": figures}, _plot(measured), machine)
    broken = [line for size in figures for line in _broken(size, figures[size])]
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


def _figures(variants: dict[str, Measured]) -> dict[str, Any]:
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
            "parts_p50_ms": {part: percentile(values, 50) for part, values in item.parts.items()},
            "rounds": item.rounds,
            **item.facts,
        }
        for name, item in variants.items()
    }


def _broken(size: str, figures: dict[str, Any]) -> list[str]:
    """What is over its budget, a line each."""
    found = []
    for name, limits in budgets()["latency"].get(size, {}).items():
        variant = figures["runtime, " + name.replace("-", " ")]
        for ratio, limit in limits.items():
            if variant[ratio] > limit:
                found.append(f"{size}, {name}: {ratio} {variant[ratio]:.2f} > {limit:.2f}")
    return found


def _table(size: str, variants: dict[str, Measured]) -> Table:
    table = Table(title=f"{size}: capture to subscriber, ms, medians of rounds", title_justify="left")
    columns = ("variant", "frames", "p50", "p99", "max", "CPU", "replaced", "p50 / user", "p99 / user", "CPU / user")
    for column in columns:
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, figure in _figures(variants).items():
        values = [figure[key] for key in ("p50_ms", "p99_ms", "max_ms", "cpu_ms")]
        ratios = [figure[key] for key in ("p50_ratio", "p99_ratio", "cpu_ratio")]
        replaced = str(sum(figure.get("dropped", {}).values()))
        cells = (*(f"{value:.2f}" for value in values), replaced, *(f"{value:.2f}" for value in ratios))
        table.add_row(name, str(figure["frames"]), *cells)
    return table


def _parts(size: str, variants: dict[str, Measured]) -> Table:
    table = Table(title=f"{size}: where it goes, median of each part, ms", title_justify="left")
    for column in ("variant", *PARTS):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, item in variants.items():
        table.add_row(name, *(f"{percentile(values, 50):.2f}" for values in item.parts.values()))
    return table


def _plot(measured: dict[str, dict[str, Measured]]) -> Any:
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
