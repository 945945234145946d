"""More frames than can be served: the newest win, latency stays bounded, and what was dropped is counted."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from benchmarks.live import PROCESS, SKIP, Heard, run_live
from benchmarks.results import Judged, Machine, budgets, figure_table, progress, tell, write_results
from benchmarks.workload import Play, percentile
from edge_runtime.bundles import bundle_path

FLOOD_HZ = 2000.0
METHOD = (
    "How many decisions a second are served is measured first, with frames far faster than that. Then frames come at "
    "twice that rate, and at half of it again. Latency, at p99, is held to one period of what is served (a frame may "
    "come just after another was begun), one decision's own time, and extra_ms."
)


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option("--pictures", default="640x360", show_default=True)
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(3), help="Of each pace.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/overload"), show_default=True
)
@click.option("--check", is_flag=True, help="Exit with code 3 if a figure breaks budgets.toml.")
def overload(bundle: str, pictures: str, seconds: float, out: Path, check: bool) -> None:
    """Frames at twice the rate that can be served, and back to half of it."""
    machine = Machine()
    figures, heard = measure(bundle, pictures, seconds)
    Console().print(figure_table("twice the rate that can be served", figures))
    Console().print(machine.sentence())
    settings = {"bundle": bundle, "pictures": pictures, "seconds": seconds}
    write_results(out, "overload", {"method": METHOD, **figures}, _plot(heard), machine, settings)
    tell(judged(figures), check)


def measure(bundle: str, pictures: str, seconds: float) -> tuple[dict[str, Any], Heard]:
    """Twice what can be served and then half of it, `seconds` each."""
    path = str(bundle_path(bundle))
    with tempfile.TemporaryDirectory(prefix="edge-runtime-overload-") as folder:
        endpoint = f"ipc://{folder}/decisions"
        steps = iter(progress(["what can be served", "twice and half of it"], str))
        next(steps)
        frames = int(FLOOD_HZ * seconds)
        flood = run_live(PROCESS, Play(path, endpoint, frames, pictures, paces=((0, FLOOD_HZ),), newest=True))
        served_hz = _rate_hz(flood)
        next(steps)
        first = int(2 * served_hz * seconds)
        paces = ((0, 2 * served_hz), (first, served_hz / 2))
        frames = first + int(served_hz / 2 * seconds)
        heard = run_live(PROCESS, Play(path, endpoint, frames, pictures, paces=paces, newest=True))
    return _figures(heard, served_hz, seconds), heard


def _rate_hz(heard: Heard) -> float:
    """Decisions a second that reached the subscriber."""
    return (len(heard.received_ns) - 1) * 1e9 / (heard.received_ns[-1] - heard.received_ns[0])


def _figures(heard: Heard, served_hz: float, seconds: float) -> dict[str, Any]:
    begin_ns = heard.captured_ns[0]
    eased_ns = begin_ns + int(seconds * 1e9) - int(SKIP * 1e9 / served_hz)
    during = [ms for ms, at in zip(heard.latency_ms, heard.captured_ns, strict=True) if at < eased_ns]
    after = [ms for ms, at in zip(heard.latency_ms, heard.captured_ns, strict=True) if at > eased_ns + 1e9]
    own_ms = float(np.median([frame[1] + frame[2] + frame[3] for frame in heard.frames]))
    told = [status.reason for status in heard.statuses if status.reason and "backlog" in status.reason]
    return {
        "served_hz": served_hz,
        "offered_hz": 2 * served_hz,
        "decided_hz": len(during) / seconds,
        "p50_ms": percentile(during, 50),
        "p99_ms": percentile(during, 99),
        "bound_ms": 1000 / served_hz + own_ms,
        "after_p99_ms": percentile(after, 99),
        "dropped": heard.facts["dropped"],
        "captured": heard.facts["captured"],
        "lost": heard.facts["lost"],
        "conserved": all(status.conserved for status in heard.statuses),
        "told": told[:1],
        "ready_at_end": [status.reason for status in heard.statuses if status.state in ("ready", "degraded")][-1:],
    }


def judged(figures: dict[str, Any]) -> list[Judged]:
    """Beside what latency is held to."""
    limit_ms = figures["bound_ms"] + budgets()["overload"]["extra_ms"]
    return [
        Judged("overload: p99 ms at twice the served rate", figures["p99_ms"], limit_ms),
        Judged("overload: p99 ms a second after it eased", figures["after_p99_ms"], limit_ms),
        Judged("overload: accounts that do not balance", float(not figures["conserved"]), 0),
        Judged("overload: not said in status", float(not figures["told"]), 0),
    ]


def _plot(heard: Heard) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    seconds = (np.array(heard.captured_ns) - heard.captured_ns[0]) / 1e9
    axes.plot(seconds, heard.latency_ms, ".", markersize=2)
    axes.set(xlabel="s", ylabel="capture to subscriber (ms)", title="Twice the rate that is served, then half of it")
    axes.set_ylim(0, 1.2 * percentile(heard.latency_ms, 99.5))
    axes.grid(alpha=0.3)
    return figure
