"""Minutes of ordinary work: does memory grow, does anything get lost, does latency drift?"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from benchmarks.live import PROCESS, Heard, run_live
from benchmarks.results import Judged, Machine, budgets, figure_table, tell, write_results
from benchmarks.workload import FRAME_HZ, Play, percentile
from edge_runtime.bundles import bundle_path

SETTLED_S = 30.0
"""Memory is compared from then on (or from the middle of a shorter run): caches and pools have filled."""


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option("--pictures", default="640x360", show_default=True)
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(0.05))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/soak"), show_default=True)
@click.option("--check", is_flag=True, help="Exit with code 3 if a figure breaks budgets.toml.")
def soak(bundle: str, pictures: str, minutes: float, out: Path, check: bool) -> None:
    """The workload at 30 Hz for some minutes: memory, latency by the minute, losses."""
    machine = Machine()
    with tempfile.TemporaryDirectory(prefix="edge-runtime-soak-") as folder:
        play = Play(str(bundle_path(bundle)), f"ipc://{folder}/decisions", int(60 * minutes * FRAME_HZ), pictures)
        heard = run_live(PROCESS, play, say=lambda line: print(line, flush=True))
    figures = _figures(heard)
    Console().print(figure_table(f"{minutes:g} minutes at {FRAME_HZ} Hz, {pictures}", figures))
    Console().print(machine.sentence())
    settings = {"bundle": bundle, "pictures": pictures, "minutes": minutes}
    write_results(out, "soak", figures, _plot(heard), machine, settings)
    tell(judged(figures), check)


def judged(figures: dict[str, Any]) -> list[Judged]:
    """Beside the limits."""
    found = [Judged(f"soak: {name}", figures[name], limit) for name, limit in budgets()["soak"].items()]
    found.append(Judged("soak: decisions lost", figures["lost"], 0))
    found.append(Judged("soak: accounts that do not balance", float(not figures["conserved"]), 0))
    return found


def _figures(heard: Heard) -> dict[str, Any]:
    settled_s = min(SETTLED_S, heard.statuses[-1].uptime_s / 2)
    settled = [status.memory_mb for status in heard.statuses if status.uptime_s >= settled_s]
    quarter = max(1, len(heard.frames) // 4)
    return {
        "frames": len(heard.frames),
        "p50_ms": percentile(heard.latency_ms, 50),
        "p99_ms": percentile(heard.latency_ms, 99),
        "p99_first_quarter_ms": percentile(heard.latency_ms[:quarter], 99),
        "p99_last_quarter_ms": percentile(heard.latency_ms[-quarter:], 99),
        "max_ms": max(heard.latency_ms),
        "cpu_ms_per_frame": heard.cpu_ms,
        "resident_mb": max(settled),
        # Medians of the first and the last tenth: a single reading may fall beside a collection.
        "growth_mb": float(np.median(settled[-len(settled) // 10 :]) - np.median(settled[: -(-len(settled) // 10)])),
        "dropped": heard.facts["dropped"],
        "lost": heard.facts["lost"],
        "conserved": all(status.conserved for status in heard.statuses),
    }


def _plot(heard: Heard) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 5), sharex=True)
    minutes = (np.array(heard.captured_ns) - heard.captured_ns[0]) / 6e10
    above.plot(minutes, heard.latency_ms, ".", markersize=1)
    above.set(ylabel="capture to subscriber (ms)", ylim=(0, 1.5 * percentile(heard.latency_ms, 99.9)))
    below.plot([status.uptime_s / 60 for status in heard.statuses], [status.memory_mb for status in heard.statuses])
    below.set(xlabel="minutes", ylabel="resident memory (MiB)", ylim=(0, None))
    for axes in (above, below):
        axes.grid(alpha=0.3)
    return figure
