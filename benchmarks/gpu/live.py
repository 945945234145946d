"""The whole runtime on this GPU, torch computing the graphs: starts, and decisions at 30 Hz in another process.

python -m benchmarks.gpu.live --out DIR
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.first_decision import first_decision
from benchmarks.gpu.times import summary, usable
from benchmarks.live import run_live
from benchmarks.workload import Play
from edge_runtime.cuda import CudaChoice


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--live-s", default=6.0, show_default=True, type=click.FloatRange(2), help="Of each run at 30 Hz.")
def main(out: Path, live_s: float) -> None:
    """Measure on the GPU."""
    findings = Findings(out, "live")
    ways = usable(findings)
    for cuda in ways:
        with findings.step(f"start, {cuda}"):
            starts(findings, cuda)
    if ways:
        with findings.step("live, 30 Hz"):
            live(findings, ways, live_s)


def live(findings: Findings, ways: Sequence[CudaChoice], seconds: float) -> None:
    """Capture to another process at 30 Hz, JPEG 640x360, the whole runtime; CPU and GPU engines in turn, twice."""
    spent: dict[str, list[float]] = {}
    for _round in range(2):
        for engine in ("cpu", *ways):
            with tempfile.TemporaryDirectory(prefix="edge-runtime-live-") as folder:
                command = [sys.executable, "-m", "benchmarks.gpu.live_process", engine]
                heard = run_live(command, Play("shipped:vehicle", f"ipc://{folder}/decisions", int(30 * seconds)))
                spent.setdefault(engine, []).extend(sum(frame) for frame in heard.frames)
    findings.figure("live 30 Hz, vehicle, ms [p50, p99, max]", {name: summary(ms) for name, ms in spent.items()})


def starts(findings: Findings, cuda: CudaChoice) -> None:
    """From a process's start to its first decision, and what of it is CUDA: twice, the first fills the page cache."""
    steps = [first_decision("torch", cuda, "shipped:home") for _ in range(2)]
    findings.figure(f"start, {cuda}, s [cold, warm]", steps)


if __name__ == "__main__":
    main()
