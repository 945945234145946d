"""One to eight cameras at 30 Hz: latency, what is dropped, and how much of the processor it takes."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.camera_bundle import write_camera_bundle
from benchmarks.live import PROCESS, Heard, run_live
from benchmarks.results import Judged, Machine, budgets, progress, tell, write_results
from benchmarks.workload import DEFAULT_PICTURES, FRAME_HZ, Play, percentile, size_of
from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path

HELD_AT = 4
"""How many cameras the budget is for."""
METHOD = (
    "Each camera is a thread of its own and gives the same pictures at 30 Hz, at moments that are spread evenly over a "
    "period, as of cameras that run freely (or all at once, with --together). The first one's frames call for "
    "decisions, which take in the newest frame of every other. Latency is from the first camera's frame to another "
    "process. Every picture has a run of the encoder to itself. The share is the runtime's, of all cores' time."
)


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True, help="One that decides by one camera.")
@click.option("--pictures", default=DEFAULT_PICTURES, show_default=True)
@click.option("--counts", default="1,2,4,8", show_default=True, help="How many cameras, in turn.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(3), help="Per count and round.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/cameras"), show_default=True
)
@click.option("--together", is_flag=True, help="All at the same moment, as cameras with one trigger: frames may cross.")
@click.option("--check", is_flag=True, help="Exit with code 3 if a figure breaks budgets.toml.")
def cameras(
    bundle: str, pictures: str, counts: str, rounds: int, seconds: float, out: Path, together: bool, check: bool
) -> None:
    """1 to 8 cameras: latency, drops and processor time."""
    size_of(pictures)
    machine = Machine()
    heard = measure(bundle, pictures, [int(count) for count in counts.split(",")], rounds, seconds, together)
    figures = figures_of(heard)
    Console(width=120).print(_table(pictures, figures))
    Console().print(machine.sentence())
    settings = {"bundle": bundle, "pictures": pictures, "counts": counts, "rounds": rounds, "seconds": seconds}
    settings["together"] = together
    write_results(out, "cameras", {"method": METHOD, "cameras": figures}, _plot(heard, figures), machine, settings)
    tell(judged(figures), check)


def measure(
    bundle: str, pictures: str, counts: list[int], rounds: int, seconds: float, together: bool = False
) -> dict[int, list[Heard]]:
    """All rounds of each number of cameras, in turn."""
    opened = open_bundle(bundle_path(bundle), allow_unsigned=True)
    heard: dict[int, list[Heard]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory(prefix="edge-runtime-cameras-") as folder:
        names = {count: write_camera_bundle(opened, count, Path(folder) / str(count)) for count in counts}
        steps = [(number, count) for number in range(rounds) for count in counts]
        for _, count in progress(steps, lambda step: f"{step[1]} cameras, round {step[0] + 1} of {rounds}"):
            path, endpoint = str(Path(folder) / str(count)), f"ipc://{folder}/decisions"
            play = Play(path, endpoint, int(seconds * FRAME_HZ), pictures, cameras=names[count], spread=not together)
            heard[count].append(run_live(PROCESS, play))
    return heard


def figures_of(heard: dict[int, list[Heard]]) -> dict[str, Any]:
    """By number of cameras."""
    return {str(count): _figures(rounds) for count, rounds in heard.items()}


def _figures(rounds: list[Heard]) -> dict[str, Any]:
    latency = [ms for heard in rounds for ms in heard.latency_ms]
    dropped = sum((Counter(heard.facts["dropped"]) for heard in rounds), Counter[str]())
    cpu_ms = sum(heard.cpu_ms for heard in rounds) / len(rounds)
    return {
        "frames": sum(heard.facts["captured"] for heard in rounds),
        "decisions": len(latency),
        "p50_ms": percentile(latency, 50),
        "p99_ms": percentile(latency, 99),
        "max_ms": max(latency),
        "dropped": dropped.total(),
        "dropped_by_reason": dict(dropped),
        "lost": sum(heard.facts["lost"] for heard in rounds),
        "cpu_ms": cpu_ms,
        "cpu_share": cpu_ms * FRAME_HZ / 1000 / len(os.sched_getaffinity(0)),
        "memory_mb": max(heard.facts["memory_mb"] for heard in rounds),
    }


def judged(figures: dict[str, Any]) -> list[Judged]:
    """What HELD_AT cameras drop, beside the limit; not held to it where the processor is busier than budgeted for."""
    found, hold = figures.get(str(HELD_AT)), budgets()["cameras"]
    if found is None:
        return []
    busy = f"processor at {found['cpu_share']:.0%}" if found["cpu_share"] >= hold["cpu_share"] else ""
    return [Judged(f"{HELD_AT} cameras: frames dropped", found["dropped"], hold["dropped"], busy)]


def _table(pictures: str, figures: dict[str, Any]) -> Table:
    table = Table(title=f"cameras of {pictures} at {FRAME_HZ} Hz", title_justify="left")
    columns = ("cameras", "frames", "p50 ms", "p99 ms", "max ms", "dropped", "CPU ms", "of all cores", "MiB")
    for column in columns:
        table.add_column(column, justify="right")
    for count, found in figures.items():
        latency = (f"{found[key]:.2f}" for key in ("p50_ms", "p99_ms", "max_ms"))
        cpu = (f"{found['cpu_ms']:.2f}", f"{found['cpu_share']:.0%}", f"{found['memory_mb']:.0f}")
        table.add_row(count, str(found["frames"]), *latency, str(found["dropped"]), *cpu)
    return table


def _plot(heard: dict[int, list[Heard]], figures: dict[str, Any]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    counts = list(figures)
    left.boxplot(
        [[ms for item in rounds for ms in item.latency_ms] for rounds in heard.values()],
        whis=(1, 99),
        showfliers=False,
    )
    left.set_xticks(range(1, len(counts) + 1), counts)
    left.set(xlabel="cameras", ylabel="capture to subscriber (ms)", title="latency: median, quartiles, 1 % and 99 %")
    left.set_ylim(bottom=0)
    right.bar(counts, [100 * found["cpu_share"] for found in figures.values()], width=0.6)
    for place, found in enumerate(figures.values()):
        right.annotate(f"{found['dropped']} dropped", (place, 100 * found["cpu_share"]), ha="center", va="bottom")
    right.axhline(100 * budgets()["cameras"]["cpu_share"], color="0.6", linestyle="--", linewidth=1)
    right.set(xlabel="cameras", ylabel="% of all cores", title="processor time of the runtime", ylim=(0, 105))
    for axes in (left, right):
        axes.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    return figure
