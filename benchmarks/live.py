"""A subscriber in this process to a runtime in another: where each frame's time goes."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.workload import FRAME_HZ
from edge_runtime import Subscriber
from edge_runtime.wire import DecisionMessage, StatusMessage

SKIP = FRAME_HZ
"""Frames left out at the start of every run: caches, clocks and page tables warm up."""
PARTS = ("wait and decode", "preprocess", "infer", "decide", "publish")
"""What a frame's latency is made of."""

Frame = tuple[float, float, float, float, float]
"""One frame's milliseconds in each of `PARTS`."""


def run_live(
    process: Sequence[str], bundle: str, endpoint: str, frames: int, *more: str
) -> tuple[list[Frame], dict[str, Any]]:
    """Start `process` (a command that takes bundle, endpoint, frames and `more`) and hear it out.

    Gives every frame that the model decided, and what the last status said. Raises TimeoutError if it falls silent.
    """
    command = [*process, bundle, endpoint, str(frames), *more]
    found = []
    with Subscriber(endpoint, timeout_s=20) as subscriber, subprocess.Popen(command) as started:
        while True:
            message = subscriber.receive(20)
            if message is None:
                started.kill()
                raise TimeoutError("the runtime fell silent")
            if isinstance(message, DecisionMessage) and message.latency_ms.queue > 0 and message.source == "model":
                told = message.latency_ms
                all_ms = (subscriber.received_ns - message.captured_ns) / 1e6
                known = (told.queue, told.preprocess, float(sum(told.infer.values())), told.decide)
                found.append((*known, all_ms - sum(known)))
            elif isinstance(message, StatusMessage) and message.state == "stopped":
                break
    camera = message.streams["camera.front"]
    facts = {
        "lost": subscriber.lost,
        "dropped": camera.dropped,
        "captured": camera.captured,
        "memory_mb": message.memory_mb,
        "recording": None if message.recording is None else msgspec.to_builtins(message.recording),
    }
    return found[SKIP:], facts
