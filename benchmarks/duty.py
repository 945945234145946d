"""Beside other programs that take every core: latency of the user's loop and of the runtime, with and without
`[realtime]`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from benchmarks.live import Heard
from benchmarks.results import Machine, write_results
from benchmarks.variants import STAGED, USER, Rig, Run, figures_of, measure, plot, table
from benchmarks.workload import DEFAULT_PICTURES, size_of
from edge_runtime import realtime
from edge_runtime.config import RealtimeConfig
from edge_runtime.errors import ConfigError

BUSY, REALTIME = ", hogs beside it", ", hogs beside it, [realtime]"
METHOD = (
    "The same work with nothing beside it, and beside hogs: ordinary processes that count, as many as there are cores. "
    "With [realtime] the runtime runs under `rr` and its memory is locked. The subscriber, which stops the time, runs "
    "under `rr` beside all variants, where that is allowed. Variants alternate; each round is a process of its own, "
    "its first second left out. A figure is the median of the rounds' figures; ratios are to the user's loop with "
    "nothing beside it."
)


@contextmanager
def hogs(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes that take all that they are given."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        for process in running:
            realtime.leave(process.pid)
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option("--pictures", default=DEFAULT_PICTURES, show_default=True)
@click.option("--hogs", "count", type=click.IntRange(1), help="Processes beside it; as many as cores unless given.")
@click.option("--priority", default=5, show_default=True, type=click.IntRange(1, 49), help="Of [realtime].")
@click.option("--busy-poll", default=0.0, show_default=True, type=click.FloatRange(0, 10), help="Milliseconds.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(3), help="Per variant and round.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/duty"), show_default=True)
def duty(
    bundle: str,
    pictures: str,
    count: int | None,
    priority: int,
    busy_poll: float,
    rounds: int,
    seconds: float,
    out: Path,
) -> None:
    """A processor hog on every core beside it, with and without [realtime]."""
    size_of(pictures)
    machine = Machine()
    beside = count or len(os.sched_getaffinity(0))
    settings = RealtimeConfig("rr", priority, lock_memory=True, busy_poll_ms=busy_poll)
    refused = _refused(settings)
    with Rig(bundle) as rig:
        variants: dict[str, Run] = {USER: rig.user, STAGED: rig.staged}
        variants |= {f"{name}{BUSY}": _beside(run, beside) for name, run in list(variants.items())}
        if refused is None:
            variants[f"{STAGED}{REALTIME}"] = _beside(partial(rig.staged, realtime=settings), beside)
        # Before all others: it stops the time, and must not wait for a core itself.
        subscriber = RealtimeConfig("rr", priority + 1) if refused is None else None
        with realtime.granted(subscriber):
            measured = measure(variants, (pictures,), rounds, seconds)
    figures = figures_of(measured[pictures])
    Console(width=140).print(table(pictures, measured[pictures]))
    if refused is not None:
        Console().print(f"not measured with [realtime]: {refused}")
    Console().print(machine.sentence())
    used = {"bundle": bundle, "pictures": pictures, "hogs": beside, "rounds": rounds, "seconds": seconds}
    used |= {"priority": priority, "busy_poll_ms": busy_poll}
    write_results(out, "duty", {"method": METHOD, "pictures": {pictures: figures}}, plot(measured), machine, used)


def _refused(settings: RealtimeConfig) -> str | None:
    """Why this process may not have `settings`, if so."""
    try:
        with realtime.granted(settings):
            return None
    except ConfigError as error:
        return str(error)


def _beside(run: Run, count: int) -> Run:
    def beside(size: str, frames: int) -> Heard:
        with hogs(count):
            return run(size, frames)

    return beside
