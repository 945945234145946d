"""From publishing a decision to having it in another process: by ZeroMQ, and as packets over a Unix socket."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.live import PROCESS, Heard, run_live
from benchmarks.results import Machine, progress, write_results
from benchmarks.workload import DEFAULT_PICTURES, FRAME_HZ, Play, percentile
from edge_runtime.bundles import bundle_path

ZMQ, UNIX = "zmq", "unix"
METHOD = (
    "The runtime decides 30 times a second; this process reads its decisions, decoded as a Subscriber gives them, by "
    "one door at a time. Both are Unix sockets. The hop is from `published_ns` to the moment that the bytes have come. "
    "Doors alternate; each round is a process of its own, its first second left out. Figures are medians of rounds'."
)


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(3), help="Per door and round.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/doors"), show_default=True)
def doors(bundle: str, rounds: int, seconds: float, out: Path) -> None:
    """The hop from a decision to its receiver: ZeroMQ beside a Unix socket of packets."""
    machine = Machine()
    heard: dict[str, list[Heard]] = {ZMQ: [], UNIX: []}
    steps = [(door, number) for number in range(rounds) for door in heard]
    with tempfile.TemporaryDirectory(prefix="edge-runtime-doors-") as folder:
        for door, _ in progress(steps, lambda step: f"{step[0]}, round {step[1] + 1} of {rounds}"):
            packets = f"ipc://{folder}/packets" if door == UNIX else None
            path, frames = str(bundle_path(bundle)), int(seconds * FRAME_HZ)
            play = Play(path, f"ipc://{folder}/decisions", frames, DEFAULT_PICTURES, packets=packets)
            heard[door].append(run_live(PROCESS, play))
    figures = {door: _figures(found) for door, found in heard.items()}
    Console().print(_table(figures))
    Console().print(machine.sentence())
    settings = {"bundle": bundle, "rounds": rounds, "seconds": seconds}
    write_results(out, "doors", {"method": METHOD, "doors": figures}, _plot(heard), machine, settings)


def _figures(rounds: list[Heard]) -> dict[str, Any]:
    def median(values: list[float]) -> float:
        return float(np.median(values))

    return {
        "decisions": sum(len(heard.hop_ms) for heard in rounds),
        "hop_p50_ms": median([percentile(heard.hop_ms, 50) for heard in rounds]),
        "hop_p99_ms": median([percentile(heard.hop_ms, 99) for heard in rounds]),
        "capture_p50_ms": median([percentile(heard.latency_ms, 50) for heard in rounds]),
        "capture_p99_ms": median([percentile(heard.latency_ms, 99) for heard in rounds]),
        "lost": sum(heard.facts["lost"] for heard in rounds),
    }


def _table(figures: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="published to received, and captured to received, ms", title_justify="left")
    columns = ("door", "decisions", "hop p50", "hop p99", "from capture p50", "from capture p99", "lost")
    for column in columns:
        table.add_column(column, justify="left" if column == "door" else "right")
    for door, found in figures.items():
        times = (f"{found[key]:.3f}" for key in ("hop_p50_ms", "hop_p99_ms", "capture_p50_ms", "capture_p99_ms"))
        table.add_row(door, str(found["decisions"]), *times, str(found["lost"]))
    return table


def _plot(heard: dict[str, list[Heard]]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for door, rounds in heard.items():
        values = np.sort([ms for item in rounds for ms in item.hop_ms])
        axes.plot(values, 100 * (np.arange(len(values)) + 1) / len(values), label=door)
    axes.set(xlabel="published to received (ms)", ylabel="% of decisions", title="the hop to another process")
    axes.set_xscale("log")
    axes.axhline(99, color="0.8", linewidth=1, zorder=0)
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3, which="both")
    return figure
