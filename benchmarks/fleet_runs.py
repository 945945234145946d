"""`build-engines` as a process: what it took, with a worker killed in the middle where that is wanted."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import psutil

BEGUN_S = 2.0
"""Processor time after which a worker has begun."""


class Ran(NamedTuple):
    """What a command took."""

    seconds: float
    cpu_s: float
    """Processor time of all its processes."""
    peak_mb: float
    """Of its processes together, resident."""
    driver_mb: float
    """Of the first of them."""
    code: int
    """With which it ended."""
    said: str


def run(arguments: Sequence[str], kill: bool = False, allowed: Sequence[int] = (0,)) -> Ran:
    """`build-engines ARGUMENTS`, which may end with the exit codes `allowed`. `kill`: one of its processes is killed
    once it has begun."""
    command = [sys.executable, "-m", "build_engines", *arguments]
    begun, used = time.monotonic(), _children_s()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watch = _Watch(process.pid, kill)
    watch.start()
    said, _ = process.communicate()
    watch.over.set()
    watch.join()
    if process.returncode not in allowed:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}: {said[-2000:]}")
    if kill and not watch.killed:
        raise RuntimeError(f"{' '.join(command)}: there was no worker to kill")
    return Ran(
        time.monotonic() - begun, _children_s() - used, watch.peak / 1e6, watch.driver / 1e6, process.returncode, said
    )


def _children_s() -> float:
    """Processor time of all processes that have ended below this one."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class _Watch(threading.Thread):
    """Memory of a process and all below it, twice a second: to look at it costs processor time too."""

    def __init__(self, pid: int, kill: bool) -> None:
        super().__init__(daemon=True)
        self._process, self._kill = psutil.Process(pid), kill
        self.over = threading.Event()
        self.peak = self.driver = 0
        self.killed = False

    def run(self) -> None:
        while not self.over.wait(0.5):
            try:
                below = self._process.children(recursive=True)
                own = self._process.memory_info().rss
                self.driver = max(self.driver, own)
                self.peak = max(self.peak, own + sum(_resident(one) for one in below))
                if self._kill and not self.killed:
                    self._kill_one(below)
            except psutil.NoSuchProcess:
                return

    def _kill_one(self, below: list[psutil.Process]) -> None:
        """A worker that is in the middle of something: of ours, or of Ray's."""
        for one in below:
            line = " ".join(one.cmdline()[:3])
            if ("calibration.spread" in line or "_on_worker" in line) and one.cpu_times().user > BEGUN_S:
                os.kill(one.pid, signal.SIGKILL)
                self.killed = True
                return


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
