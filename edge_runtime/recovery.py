"""Engines that failed are opened again beside the loop, while safe decisions go on."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_runtime.attempt import Attempt
from edge_runtime.errors import EnginesLost
from edge_runtime.infer.stages import StageGraph
from edge_runtime.pipeline import Pipeline

log = logging.getLogger("edge_runtime")

FIRST_PAUSE_NS = 1_000_000_000
LONGEST_PAUSE_NS = 32_000_000_000
GIVE_UP_NS = 60_000_000_000
"""Engines that could not be opened again for so long are another process's business."""
CANCEL_TIMEOUT_S = 0.2


class Recovery:
    """Of one runtime's engines, whichever session they belong to. Loop thread.

    The first attempt begins at once, the next ones at growing pauses, which start over once the model has answered.
    From the second on, ONNX Runtime steps in where the configuration allows it.
    """

    def __init__(self, begin: Callable[[Pipeline, bool], Attempt[StageGraph]]) -> None:
        """`begin` makes the attempt to open a pipeline's engines, on the CPU if so told."""
        self._begin = begin
        self._attempt: Attempt[StageGraph] | None = None
        self._answered = 0
        self._closed_since_ns: int | None = None
        self._next_ns = 0
        self._pause_ns = 0

    def turn(self, pipeline: Pipeline, now_ns: int) -> Attempt[StageGraph] | None:
        """Do what is due; an attempt that has succeeded, for the caller to take over or to dismiss.

        Raises EnginesLost where this process cannot have engines again.
        """
        if self._attempt is not None:
            return self._finished(pipeline, now_ns)
        if pipeline.down is None:
            if self._pause_ns and pipeline.answered > self._answered:
                self._next_ns = self._pause_ns = 0
            return None
        if self._closed_since_ns is None:
            self._closed_since_ns = now_ns
        if pipeline.device_lost and not pipeline.falls_back:
            raise EnginesLost(f"{pipeline.down}; ends, so that another process can open them")
        if now_ns >= self._next_ns:
            self._start(pipeline, now_ns)
        return None

    def cancel(self) -> None:
        """Another session has taken over, or the loop ends: what may be opened is not wanted any more."""
        if self._attempt is not None:
            self._attempt.dismiss(CANCEL_TIMEOUT_S)
            self._attempt = None
        self._closed_since_ns = None
        self._next_ns = self._pause_ns = 0

    def _start(self, pipeline: Pipeline, now_ns: int) -> None:
        on_cpu = pipeline.falls_back and (self._pause_ns > 0 or pipeline.device_lost)
        self._pause_ns = min(2 * self._pause_ns or FIRST_PAUSE_NS, LONGEST_PAUSE_NS)
        self._next_ns = now_ns + self._pause_ns
        self._answered = pipeline.answered
        self._attempt = self._begin(pipeline, on_cpu)
        self._attempt.start()

    def _finished(self, pipeline: Pipeline, now_ns: int) -> Attempt[StageGraph] | None:
        attempt = self._attempt
        assert attempt is not None
        overdue = self._closed_since_ns is not None and now_ns - self._closed_since_ns >= GIVE_UP_NS
        if not attempt.done.is_set():
            if overdue:
                raise EnginesLost(f"{pipeline.down}; not open again after {GIVE_UP_NS // 10**9} s; ends")
            return None
        self._attempt = None
        if attempt.opened is None:
            log.error("engines: cannot be opened again: %s", attempt.reason)
            attempt.dismiss()
            if overdue:
                raise EnginesLost(f"engines cannot be opened for {GIVE_UP_NS // 10**9} s: {attempt.reason}; ends")
            return None
        self._closed_since_ns = None
        return attempt
