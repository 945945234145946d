"""Many subscribers, one of which has stopped reading: does the fastest notice?"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import click
import zmq
from rich.console import Console
from rich.table import Table

from benchmarks.live import PROCESS, run_live
from benchmarks.results import Judged, Machine, budgets, progress, tell, write_results
from benchmarks.workload import FRAME_HZ, Play, percentile
from edge_runtime.bundles import bundle_path


class Crowd:
    """`count` subscribers on one thread of this process, and a stalled one if `stalled`: it never reads."""

    def __init__(self, endpoint: str, count: int, stalled: bool) -> None:
        self.received = 0
        self._context = zmq.Context()
        self._ended = threading.Event()
        self._sockets = [self._subscribe(endpoint) for _ in range(count)]
        self._stalled = self._subscribe(endpoint) if stalled else None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _subscribe(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.SUB)
        socket.subscribe(b"decision.")
        socket.connect(endpoint)
        return socket

    def _read(self) -> None:
        poller = zmq.Poller()
        for socket in self._sockets:
            poller.register(socket, zmq.POLLIN)
        while self._sockets and not self._ended.is_set():  # without any, polling would not wait
            for socket, _ in poller.poll(100):
                socket.recv_multipart()
                self.received += 1


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option("--counts", default="1,10,100", show_default=True, help="How many subscribers, in turn.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=8.0, show_default=True, type=click.FloatRange(3), help="Per count and round.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/subscribers"), show_default=True
)
@click.option("--check", is_flag=True, help="Exit with code 3 if a figure breaks budgets.toml.")
def subscribers(bundle: str, counts: str, rounds: int, seconds: float, out: Path, check: bool) -> None:
    """1 to 100 subscribers, one of them stalled; latency is the first one's, in a process of its own."""
    machine = Machine()
    figures = measure(bundle, [int(count) for count in counts.split(",")], rounds, seconds)
    Console().print(_table(figures["subscribers"]))
    Console().print(machine.sentence())
    settings = {"bundle": bundle, "counts": counts, "rounds": rounds, "seconds": seconds}
    write_results(out, "subscribers", figures, None, machine, settings)
    tell(judged(figures), check)


def measure(bundle: str, numbers: list[int], rounds: int, seconds: float) -> dict[str, Any]:
    """So many subscribers in turn, and the ratio of the last number's p99 to the first's."""
    latencies: dict[int, list[float]] = {number: [] for number in numbers}
    others: dict[int, int] = dict.fromkeys(numbers, 0)
    cpu: dict[int, list[float]] = {number: [] for number in numbers}
    steps = [(round_, number) for round_ in range(rounds) for number in numbers]
    for _, number in progress(steps, lambda step: f"{step[1]} subscribers, round {step[0] + 1}"):
        with tempfile.TemporaryDirectory(prefix="edge-runtime-subscribers-") as folder:
            endpoint = f"ipc://{folder}/decisions"
            crowd = Crowd(endpoint, max(0, number - 2), stalled=number > 1)
            try:
                heard = run_live(PROCESS, Play(str(bundle_path(bundle)), endpoint, int(seconds * FRAME_HZ)))
            finally:
                crowd.close()
            latencies[number] += heard.latency_ms
            others[number] += crowd.received
            cpu[number].append(heard.cpu_ms)
    figures = {
        str(number): {
            "p50_ms": percentile(latencies[number], 50),
            "p99_ms": percentile(latencies[number], 99),
            "cpu_ms": sum(cpu[number]) / rounds,
            "received_by_others": others[number],
        }
        for number in numbers
    }
    ratio = figures[str(numbers[-1])]["p99_ms"] / figures[str(numbers[0])]["p99_ms"]
    return {"subscribers": figures, "p99_ratio": ratio}


def judged(figures: dict[str, Any]) -> list[Judged]:
    """Beside the limit."""
    few, *_, many = figures["subscribers"]
    name = f"p99 of the fastest of {many} subscribers over that of {few}"
    return [Judged(name, figures["p99_ratio"], budgets()["subscribers"]["p99_ratio"])]


def _table(figures: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="decisions to many, one of them stalled", title_justify="left")
    for column in ("subscribers", "p50 ms", "p99 ms", "CPU ms per frame", "received by the others"):
        table.add_column(column, justify="right")
    for number, found in figures.items():
        values = (f"{found[key]:.2f}" for key in ("p50_ms", "p99_ms", "cpu_ms"))
        table.add_row(number, *values, str(found["received_by_others"]))
    return table
