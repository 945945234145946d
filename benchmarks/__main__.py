"""`python -m benchmarks` lists the benchmarks; `python -m benchmarks NAME` runs one."""

from __future__ import annotations

import sys

import click

from benchmarks.cameras import cameras
from benchmarks.check import check
from benchmarks.cold import cold
from benchmarks.compare import compare
from benchmarks.doors import doors
from benchmarks.drive import drive
from benchmarks.duty import duty
from benchmarks.everything import everything
from benchmarks.fleet import fleet
from benchmarks.gpu.command import gpu
from benchmarks.home import home
from benchmarks.latency import latency
from benchmarks.overload import overload
from benchmarks.peers.command import peers
from benchmarks.replay import replay
from benchmarks.soak import soak
from benchmarks.subscribers import subscribers
from edge_runtime.cli import run_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def benchmarks() -> None:
    """Benchmarks. Each prints a table and writes JSON (and a plot) into the folder given by --out."""


TIMES = (latency, cameras, subscribers, doors, duty, overload, everything, cold, soak, peers)
for command in (check, *TIMES, compare, drive, fleet, home, replay, gpu):
    benchmarks.add_command(command)

if __name__ == "__main__":
    sys.exit(run_command(benchmarks))
