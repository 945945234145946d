"""A subscriber in this process to a runtime, or to a user's loop, in another: where each frame's time goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import zmq

from benchmarks.workload import FRAME_HZ, Play, encode_play
from edge_runtime import Subscriber, realtime
from edge_runtime.wire import DecisionMessage, StatusMessage

SKIP = FRAME_HZ
"""Frames left out at the start of every run: caches, clocks and page tables warm up."""
PROCESS = (sys.executable, "-m", "benchmarks.runtime_process")
SILENCE_S = 180
"""A workload of large pictures takes its time to be drawn, and a busy machine to start."""
PARTS = ("wait and decode", "preprocess", "infer", "decide", "publish")
"""What a frame's latency is made of."""

Frame = tuple[float, float, float, float, float]
"""One frame's milliseconds in each of `PARTS`."""


@dataclass
class Heard:
    """One run: every frame after the first SKIP, and what else was seen of it."""

    frames: list[Frame] = field(default_factory=list)
    cpu_ms: float = 0.0
    """Processor time of the other process per frame, all its threads."""
    facts: dict[str, Any] = field(default_factory=dict)
    captured_ns: list[int] = field(default_factory=list)
    """Of each frame."""
    received_ns: list[int] = field(default_factory=list)
    """When each frame's answer was."""
    statuses: list[StatusMessage] = field(default_factory=list)
    hop_ms: list[float] = field(default_factory=list)
    """From publishing each frame's answer to receiving it."""

    @property
    def latency_ms(self) -> list[float]:
        """Of each frame."""
        return [sum(frame) for frame in self.frames]


class _Cpu:
    """Processor time of a session (a process and what it has started) between two frames."""

    def __init__(self, process: int) -> None:
        self._session = process
        self._begun = 0.0

    def frame(self, number: int) -> None:
        """Frame `number` (from 0) has come."""
        if number == SKIP:
            self._begun = self._spent()

    def per_frame_ms(self, frames: int) -> float:
        return 1000 * (self._spent() - self._begun) / max(1, frames - SKIP)

    def _spent(self) -> float:
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                # proc(5): the name, field 2, may hold anything, but ends with the last ")".
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            if int(fields[3]) == self._session:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def run_live(process: Sequence[str], play: Play, say: Callable[[str], None] | None = None) -> Heard:
    """Start `process` (a command that takes a Play as its last argument), a runtime, and hear it out.

    Frames are those that the model decided; facts are what the last status said. Raises TimeoutError if it is silent.
    `say` is given a line a minute.
    """
    command = [*process, encode_play(play)]
    heard = Heard()
    found: list[Frame] = []
    with (
        _subscriber(play) as subscriber,
        subprocess.Popen(command, start_new_session=True) as started,
    ):
        realtime.leave(started.pid)  # this process may be ahead of all others; what it measures is not
        cpu = _Cpu(started.pid)
        silent_at = time.monotonic() + SILENCE_S
        while True:
            message = subscriber.receive(1.0)
            if message is None:
                if started.poll() is not None or time.monotonic() > silent_at:
                    started.kill()
                    raise TimeoutError(f"the runtime fell silent, or ended with {started.poll()}")
                continue
            silent_at = time.monotonic() + SILENCE_S
            if isinstance(message, DecisionMessage) and message.latency_ms.queue > 0 and message.source == "model":
                told = message.latency_ms
                all_ms = (subscriber.received_ns - message.captured_ns) / 1e6
                known = (told.queue, told.preprocess, float(sum(told.infer.values())), told.decide)
                cpu.frame(len(found))
                found.append((*known, all_ms - sum(known)))
                heard.captured_ns.append(message.captured_ns)
                heard.received_ns.append(subscriber.received_ns)
                heard.hop_ms.append((subscriber.received_ns - message.published_ns) / 1e6)
            elif isinstance(message, StatusMessage):
                heard.statuses.append(message)
                if say is not None and len(heard.statuses) % 60 == 0:
                    say(f"{message.uptime_s:.0f} s: {message.decisions} decisions, {message.memory_mb:.1f} MiB")
                if message.state == "stopping":
                    heard.cpu_ms = cpu.per_frame_ms(len(found))
                elif message.state == "stopped":
                    break
    cameras = [message.streams[name] for name in play.cameras]
    heard.frames = found[SKIP:]
    del heard.captured_ns[:SKIP], heard.received_ns[:SKIP], heard.hop_ms[:SKIP]
    heard.facts = {
        "lost": subscriber.lost,
        "dropped": dict(sum((Counter(camera.dropped) for camera in cameras), Counter[str]())),
        "captured": sum(camera.captured for camera in cameras),
        "memory_mb": message.memory_mb,
        "recording": None if message.recording is None else msgspec.to_builtins(message.recording),
    }
    return heard


def _subscriber(play: Play) -> Subscriber:
    if play.packets is not None:
        return Subscriber(play.packets, timeout_s=SILENCE_S, kind="unix")
    return Subscriber(play.endpoint, timeout_s=SILENCE_S)


def run_user_loop(command: Sequence[str], endpoint: str, environment: Mapping[str, str] | None = None) -> Heard:
    """Start `command`, a user's loop (see user_loop.py) that publishes at `endpoint`, and hear it out.

    Decoding counts as preprocessing. Raises TimeoutError if it falls silent.
    """
    heard = Heard()
    found: list[Frame] = []
    with (
        zmq.Context() as context,
        context.socket(zmq.SUB) as socket,
        subprocess.Popen(command, env={**os.environ, **(environment or {})}, start_new_session=True) as started,
    ):
        silent_at = time.monotonic() + SILENCE_S
        socket.subscribe(b"")
        socket.connect(endpoint)
        realtime.leave(started.pid)  # this process may be ahead of all others; what it measures is not
        cpu = _Cpu(started.pid)
        while True:
            if not socket.poll(1000) and (started.poll() is not None or time.monotonic() > silent_at):
                started.kill()
                raise TimeoutError(f"{' '.join(command[:3])}... fell silent, or ended with {started.poll()}")
            if not socket.poll(0):
                continue
            topic, payload = socket.recv_multipart()
            received_ns = time.monotonic_ns()
            silent_at = time.monotonic() + SILENCE_S
            if topic == b"end":
                break
            told = json.loads(payload)
            all_ms = (received_ns - told["captured_ns"]) / 1e6
            cpu.frame(len(found))
            rest_ms = all_ms - told["preprocess_ms"] - told["infer_ms"]
            found.append((0.0, told["preprocess_ms"], told["infer_ms"], 0.0, rest_ms))
        heard.cpu_ms = cpu.per_frame_ms(len(found))
    heard.frames = found[SKIP:]
    return heard
