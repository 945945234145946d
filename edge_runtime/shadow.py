"""A bundle that decides beside the running one, on the same inputs, and is heard by nobody: how often they agree."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable

from edge_runtime.bundle import Bundle
from edge_runtime.config import EngineConfig
from edge_runtime.errors import EdgeError
from edge_runtime.messages import Message
from edge_runtime.pipeline import Pipeline
from edge_runtime.wire import DecisionMessage

log = logging.getLogger("edge_runtime")

WAITING = 64
"""Messages and decisions that may wait for it: more, and it does not keep up."""
NICE = 10
"""Its thread gives way to the loop's."""
CLOSE_S = 1.0


class Shadow:
    """Runs on a thread of its own, which opens its engines. What it is given comes from the loop, in its order."""

    def __init__(self, open: Callable[[], Bundle], engine: EngineConfig) -> None:
        self._open = open
        self._engine = engine
        self._waiting: queue.Queue[Message | DecisionMessage | None] = queue.Queue(WAITING)
        self._ready = threading.Event()
        self.compared = 0
        """Decisions on messages that both have answered."""
        self.agreed = 0
        self.failure: str | None = None
        """Why it cannot be compared any more, if so."""
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether its engines are open. Any thread."""
        return self._ready.is_set()

    def give(self, item: Message | DecisionMessage) -> None:
        """A message that the running bundle has taken, or what it has decided. Never waits. Loop thread."""
        if not self._ready.is_set() or self.failure is not None:
            return
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self.failure = "it does not keep up beside the running one"

    def close(self) -> None:
        """End it; waits for a moment at most."""
        self.failure = self.failure or "ended"
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
            pipeline = Pipeline(self._open(), self._engine, restarts=False)
            try:
                self._ready.set()
                while self.failure is None and (item := self._waiting.get()) is not None:
                    self._take(pipeline, item)
            finally:
                pipeline.close()
        except EdgeError as error:
            self.failure = str(error)
        except Exception as error:  # the running bundle has nothing to do with it
            log.exception("shadow: unexpected error")
            self.failure = f"unexpected error, {type(error).__name__}: {error}"

    def _take(self, pipeline: Pipeline, item: Message | DecisionMessage) -> None:
        if isinstance(item, Message):
            if item.stream in pipeline.streams:
                pipeline.add(item)
            return
        queued_ns = round(item.latency_ms.queue * 1e6)
        outcome = pipeline.decide(item.captured_ns, item.captured_ns + queued_ns, heartbeat=not queued_ns)
        if pipeline.down is not None:
            self.failure = pipeline.down
        if queued_ns and item.latency_ms.infer and outcome.inference.output is not None:
            self.compared += 1
            self.agreed += outcome.verdict.label == item.label
