"""Do the tests hold on a busy machine? `python -m tests.under_load --hogs 14 --runs 3 [PYTEST ARGUMENTS]`.

Busy loops beside the tests keep the load at `hogs` and what the tests add; with `--nice 10` (the default) fourteen of
them take about half of two cores, with `--nice 0` seven eighths. Exit code 1 where a run failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

HOG = "while True: pass"


@contextmanager
def hogs(count: int, nice: int) -> Iterator[None]:
    """`count` busy loops while it is open."""
    loops = [subprocess.Popen(["nice", "-n", str(nice), sys.executable, "-c", HOG]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextmanager
def sampled() -> Iterator[list[float]]:
    """The load of the last minute, every ten seconds while it is open."""
    loads: list[float] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(10):
            loads.append(os.getloadavg()[0])

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield loads
    finally:
        ended.set()
        thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hogs", type=int, default=14)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--nice", type=int, default=10)
    options, arguments = parser.parse_known_args()
    line = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *arguments]
    failed = 0
    for run in range(1, options.runs + 1):
        start = time.monotonic()
        with hogs(options.hogs, options.nice), sampled() as loads:
            code = subprocess.run(line, check=False).returncode
        failed += code != 0
        middle = sorted(loads)[len(loads) // 2] if loads else os.getloadavg()[0]
        spent = (time.monotonic() - start) / 60
        print(f"run {run} of {options.runs}: exit code {code}, {spent:.1f} min, median load {middle:.1f}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
