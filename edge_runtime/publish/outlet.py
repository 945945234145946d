"""Between the loop and a sink: whatever the sink does, the loop and the other sinks go on.

A sink that raises is closed and opened again, at growing, jittered pauses; what it misses is counted. The runtime's own
sinks never block and are called by the loop; all others have a thread and a bounded queue each.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

from edge_runtime.config import Config
from edge_runtime.errors import EdgeError
from edge_runtime.messages import Message
from edge_runtime.pauses import Pauses
from edge_runtime.publish.sink import Published, Records, Sink
from edge_runtime.streams import StreamSpec
from edge_runtime.wire import BundleId, RecordingHealth, SinkHealth

log = logging.getLogger("edge_runtime.publish")

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
QUEUE_LENGTH = 256
BLOCKED_AFTER_S = 1.0
CLOSE_TIMEOUT_S = 1.0
SERVE_EVERY_S = 0.04
"""Of sinks with a queue."""

_Start = tuple[Config, BundleId, Mapping[str, StreamSpec]]


class Outlet(ABC):
    """One row's sink, and its account. Loop thread, but where said."""

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        self.name = name
        self.sink: Sink | None = None
        self._make = make
        self._start: _Start | None = None
        self._published = 0
        self._dropped = 0
        self._failures = 0
        self._reason: str | None = None
        self._pauses = Pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._retry_at = 0.0

    def session(self, config: Config, bundle: BundleId, streams: Mapping[str, StreamSpec]) -> None:
        """A session begins; a sink that is opened later is told then."""
        self._start = (config, bundle, streams)
        self._hand(lambda sink: sink.session(config, bundle, streams))

    def publish(self, item: Published) -> None:
        """Hand over one decision or status; counted as dropped where the sink cannot take it."""

        def call(sink: Sink) -> None:
            sink.publish(item)
            self._published += 1
            self._pauses.succeeded()

        self._hand(call, counts=True)

    @abstractmethod
    def _hand(self, call: Callable[[Sink], None], counts: bool = False) -> None: ...

    def message(self, message: Message) -> None:  # noqa: B027
        """The loop took `message`."""

    def serve(self) -> None:  # noqa: B027
        """At least 20 times a second."""

    @abstractmethod
    def close(self) -> None:
        """Close the sink, within about a second where it can be."""

    def health(self) -> SinkHealth:
        """For the status."""
        sink = self.sink
        dropped = self._dropped + (0 if sink is None else sink.missed)
        if sink is not None and sink.stopped is not None:
            return SinkHealth("stopped", self._published, dropped, self._failures, sink.stopped)
        trouble = self._reason if sink is None else sink.trouble
        state: Literal["open", "retrying"] = "open" if sink is not None and trouble is None else "retrying"
        return SinkHealth(state, self._published, dropped, self._failures, trouble)

    @property
    def wants_whole(self) -> bool:
        """See Sink; one that is not open may want it once it is. Any thread."""
        sink = self.sink
        return sink is None or sink.wants_whole

    def recording(self) -> RecordingHealth | None:
        """How far its recording is, where it keeps one and is open."""
        sink = self.sink
        return sink.recording() if isinstance(sink, Records) else None

    def _opened(self, sink: Sink) -> None:
        """It counts as open once it has taken the session. Raises what it raises, and closes it."""
        if self._start is not None:
            try:
                sink.session(*self._start)
            except Exception:
                self._close_aside(sink)
                raise
        self.sink = sink
        if self._reason is not None:
            log.warning("sink %s: open", self.name)
            self._reason = None

    def _close_aside(self, sink: Sink) -> None:
        threading.Thread(target=_close, args=(sink,), name=self.name, daemon=True).start()

    def _failed(self, error: Exception) -> None:
        """Note a failure; the first of a row is logged, with its trace where it is nobody's expected error."""
        self._failures += 1
        text = str(error) if isinstance(error, EdgeError) else f"{type(error).__name__}: {error}"
        if self._reason is None:
            expected = isinstance(error, EdgeError | OSError)
            log.error("sink %s: %s; trying again, decisions go on", self.name, text, exc_info=not expected)
        self._reason = text
        self._retry_at = time.monotonic() + self._pauses.next_s()


class DirectOutlet(Outlet):
    """For sinks that never block: the loop calls them. Opened at once, and again on a thread that may wait."""

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        super().__init__(name, make)
        self._opening: queue.SimpleQueue[Sink | Exception] | None = None
        self._closed = False
        try:
            self._opened(make())
        except Exception as error:
            self._failed(error)

    def message(self, message: Message) -> None:
        self._hand(lambda sink: sink.message(message))

    def serve(self) -> None:
        if self.sink is not None:
            self._hand(lambda sink: sink.serve())
        elif self._opening is None:
            if time.monotonic() >= self._retry_at:
                self._opening = queue.SimpleQueue()
                threading.Thread(target=self._open_to, args=(self._opening,), name=self.name, daemon=True).start()
        elif not self._opening.empty():
            made, self._opening = self._opening.get(), None
            try:
                if isinstance(made, Exception):
                    raise made
                self._opened(made)
            except Exception as error:
                self._failed(error)

    def close(self) -> None:
        self._closed = True
        if self.sink is not None:
            _close(self.sink)
        if self._opening is not None:
            _close_late(self._opening)

    def _hand(self, call: Callable[[Sink], None], counts: bool = False) -> None:
        if self.sink is None:
            self._dropped += counts
            return
        try:
            call(self.sink)
        except Exception as error:
            self._dropped += counts + self.sink.missed
            broken, self.sink = self.sink, None
            self._close_aside(broken)
            self._failed(error)

    def _open_to(self, answer: queue.SimpleQueue[Sink | Exception]) -> None:
        try:
            answer.put(self._make())
        except Exception as error:
            answer.put(error)
        if self._closed:
            _close_late(answer)


class QueuedOutlet(Outlet):
    """For sinks of which nothing is known: each has its own thread, and a queue that drops what does not fit."""

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        super().__init__(name, make)
        self._calls: queue.Queue[tuple[Callable[[Sink], None], bool]] = queue.Queue(QUEUE_LENGTH)
        self._stopping = threading.Event()
        self._lost = 0
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def health(self) -> SinkHealth:
        health = super().health()
        busy = self._busy_since
        blocked = busy is not None and time.monotonic() - busy > BLOCKED_AFTER_S
        state = "blocked" if blocked else health.state
        return SinkHealth(state, health.published, health.dropped + self._lost, health.failures, health.reason)

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.warning("sink %s: still busy after %.1f s; left behind", self.name, CLOSE_TIMEOUT_S)

    def _hand(self, call: Callable[[Sink], None], counts: bool = False) -> None:
        try:
            self._calls.put_nowait((call, counts))
        except queue.Full:
            self._dropped += counts

    # The rest runs on the sink's thread; `_lost` is its own counter.

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._busy_since = time.monotonic()
                self._opened(self._make())
                self._busy_since = None
                self._feed()
            except Exception as error:
                broken, self.sink = self.sink, None
                if broken is not None:
                    self._lost += broken.missed
                    _close(broken)
                self._failed(error)
                self._busy_since = None
                self._stopping.wait(max(0.0, self._retry_at - time.monotonic()))
        if self.sink is not None:
            _close(self.sink)

    def _feed(self) -> None:
        assert self.sink is not None
        serve_at = time.monotonic() + SERVE_EVERY_S
        call: Callable[[Sink], None]
        while not (self._stopping.is_set() and self._calls.empty()):
            left_s = serve_at - time.monotonic()
            if left_s <= 0:  # however many calls wait
                serve_at += SERVE_EVERY_S - left_s
                call, counts = _serve, False
            else:
                try:
                    call, counts = self._calls.get(timeout=left_s)
                except queue.Empty:
                    continue
            self._busy_since = time.monotonic()
            try:
                call(self.sink)
            except Exception:
                self._lost += counts
                raise
            self._busy_since = None


def _serve(sink: Sink) -> None:
    sink.serve()


def _close_late(answer: queue.SimpleQueue[Sink | Exception]) -> None:
    """Close what was opened after its outlet was closed; whoever comes first finds it."""
    with suppress(queue.Empty):
        made = answer.get_nowait()
        if not isinstance(made, Exception):
            _close(made)


def _close(sink: Any) -> None:
    try:
        sink.close()
    except Exception:
        log.exception("sink: cannot be closed")
