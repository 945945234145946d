"""The live runtime: sources fill mailboxes on their threads, one loop decides and publishes.

The loop wakes when a message of the bundle's trigger stream arrives and decides; when one of another stream arrives it
runs that stream's stage ahead of the next decision; it wakes at the heartbeat, and at least 20 times a second to serve
subscribers. It owns the pipeline and the sinks; nothing else touches them.
"""

from __future__ import annotations

import gc
import logging
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.assembly import Assembly
from edge_runtime.capture import OpenSources, open_sources
from edge_runtime.clock import Clock, RealClock, rfc3339
from edge_runtime.config import Config
from edge_runtime.decision_fields import Times, decision_values, input_state, latency, side_answers
from edge_runtime.errors import UserError
from edge_runtime.health import LatencyWindow, Thermometer, WallClockWatch, resident_mb
from edge_runtime.messages import Message
from edge_runtime.notify import Notifier
from edge_runtime.pipeline import Outcome
from edge_runtime.publish import Sink
from edge_runtime.publish.zmq_publisher import ZmqPublisher
from edge_runtime.wire import DecisionMessage, State, StatusMessage

if TYPE_CHECKING:
    from edge_runtime.recording.recorder import Recorder

log = logging.getLogger("edge_runtime")

TURN_S = 0.05
TURN_NS = int(TURN_S * 1e9)
STATUS_INTERVAL_NS = 1_000_000_000
STOP_SOURCES_NS = 1_000_000_000
SWITCH_INTERVAL_S = 0.0005
"""A source thread in the middle of Python code hands the loop the interpreter after at most this long."""


class Runtime:
    """Runs a configuration until stopped. `run` is called once, by the thread that becomes the loop.

    `stop` and `reload` may be called from any thread and from signal handlers.
    """

    def __init__(self, config: Config, clock: Clock | None = None, open_sources: OpenSources = open_sources) -> None:
        """`open_sources` may be replaced by a program that brings its own capture."""
        self._open_sources = open_sources
        self._clock = clock or RealClock()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._config = config
        self._recorder: Recorder | None = None
        self._reload_from: Callable[[], Config] | None = None
        self._stopping = threading.Event()
        self._started_ns = self._clock.now_ns()
        self._latencies = LatencyWindow()
        self._thermometer = Thermometer()
        self._wall = WallClockWatch(self._clock.now_ns(), self._clock.wall_ns())
        self._decisions = 0
        self._safe_decisions = 0
        self._status_seq = 0
        self._last_decided_ns = 0
        self._next_status_ns = 0
        self.started = threading.Event()
        """Set when every endpoint is bound and the loop is about to turn (or `run` has ended)."""
        self.decisions_endpoint = ""
        self.input_endpoints: list[str] = []

    def run(self) -> None:
        """Start everything, decide until told to stop (or the sources end, where so configured), drain, and return.

        Raises UserError if the configuration or the bundle cannot be used.
        """
        with ExitStack() as cleanup:
            cleanup.callback(self.started.set)
            self._quieten_interpreter(cleanup)
            self._notifier = Notifier()
            cleanup.callback(self._notifier.close)
            publisher = ZmqPublisher(self._config.publish.bind, self._config.publish.high_water_mark)
            self.decisions_endpoint = publisher.endpoint
            self._sinks: list[Sink] = [publisher]
            cleanup.callback(publisher.close)
            self._assembly = self._assemble(self._config)
            cleanup.callback(self._close_pipeline)
            self._start_recording(cleanup)
            self._spare_collector()
            self._start_sources()
            cleanup.callback(self._stop_sources)
            self._say_started()
            while not self._stopping.is_set():
                self._turn()
                if self._reload_from is not None:
                    self._reload()
                if self._config.stop_at_end and all(source.ended for source in self._sources):
                    break
            self._drain()

    def stop(self) -> None:
        """End the loop after the decision in hand."""
        self._stopping.set()
        self._ring()

    def reload(self, load: Callable[[], Config]) -> None:
        """Replace bundle and sources by those of the configuration that `load` gives; keep the old on any error."""
        self._reload_from = load
        self._ring()

    def captured(self, stream: str) -> int:
        """Messages of `stream` seen so far. Any thread."""
        return self._assembly.mailboxes[stream].captured

    def _ring(self) -> None:
        self._wake.put(None)

    @staticmethod
    def _quieten_interpreter(cleanup: ExitStack) -> None:
        """Collect garbage when there is time for it, not in the middle of a decision."""
        cleanup.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.disable()
        cleanup.callback(gc.enable)
        cleanup.callback(gc.unfreeze)

    @staticmethod
    def _spare_collector() -> None:
        """Leave what stands now out of later collections: a collection stops every thread, for as long as it looks."""
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def _say_started(self) -> None:
        self._last_decided_ns = self._clock.now_ns()
        self._status("starting")
        log.info(
            "%s: bundle %s %s (%s), decisions at %s, inputs at %s",
            self._config.name,
            self._assembly.bundle_id.name,
            self._assembly.bundle_id.version,
            f"signed by {self._assembly.bundle.signed_by}" if self._assembly.bundle.signed_by else "not signed",
            self.decisions_endpoint,
            ", ".join(self.input_endpoints) or "no socket",
        )
        self.started.set()

    def _turn(self) -> None:
        self._wait()
        references = self._assembly.take()
        for reference_ns in references:
            self._decide(reference_ns, triggered=True)
        now_ns = self._clock.now_ns()
        if now_ns - self._last_decided_ns >= self._assembly.heartbeat_ns:
            self._decide(now_ns, triggered=False)
        if not references:
            self._assembly.pipeline.prefetch(now_ns)
        for sink in self._sinks:
            sink.serve()
        # The time just after a decision is the quietest; without one, a turn is waited for at most.
        late_ns = now_ns - self._next_status_ns
        if late_ns >= (0 if references else TURN_NS):
            self._wall.look(now_ns, self._clock.wall_ns())
            self._status("degraded" if self._assembly.trouble(now_ns) else "ready")
            gc.collect()

    def _wait(self) -> None:
        """Sleep until a message has come or something else may be due."""
        try:
            self._wake.get(timeout=min(TURN_S, self._assembly.heartbeat_ns / 1e9))
            # One turn takes all that has come; what rang for it need not ring again (nor pile up under load).
            while not self._wake.empty():
                self._wake.get_nowait()
        except queue.Empty:
            pass

    def _decide(self, reference_ns: int, triggered: bool) -> None:
        assembly = self._assembly
        # A heartbeat waits for nothing: its queue time is exactly 0, which is how subscribers tell it apart.
        taken_ns = self._clock.now_ns() if triggered else reference_ns
        outcome = assembly.pipeline.decide(reference_ns, taken_ns)
        times = Times(reference_ns, taken_ns, self._clock.now_ns(), self._clock.now_ns())
        message = self._message(outcome, times)
        for sink in self._sinks:
            sink.decision(message)
        if triggered:
            self._latencies.add(message.latency_ms.capture_to_publish)
        self._decisions += 1
        self._safe_decisions += message.source == "safe"
        self._last_decided_ns = times.decided_ns
        if self._decisions == 1:
            self._notifier.send("READY=1")
        self._notifier.decided(times.decided_ns)
        assembly.settle(outcome.aligned)

    def _message(self, outcome: Outcome, times: Times) -> DecisionMessage:
        assembly, verdict = self._assembly, outcome.verdict
        return DecisionMessage(
            schema=1,
            name=self._config.name,
            bundle=assembly.bundle_id,
            seq=self._decisions,
            captured_ns=times.reference_ns,
            published_ns=times.published_ns,
            wall_time=rfc3339(self._clock.wall_ns()),
            label=verdict.label,
            confidence=verdict.confidence,
            probabilities=dict(verdict.probabilities),
            tags=list(verdict.tags),
            source=verdict.source,
            reason=verdict.reason,
            inputs={name: input_state(part) for name, part in outcome.aligned.slices.items()},
            latency_ms=latency(times, outcome),
            dropped=assembly.new_drops(),
            backend=assembly.pipeline.backends,
            precision=assembly.pipeline.precisions,
            values=decision_values(verdict),
            heads=side_answers(outcome),
        )

    def _status(self, state: State) -> None:
        assembly, now_ns = self._assembly, self._clock.now_ns()
        self._next_status_ns = now_ns + STATUS_INTERVAL_NS
        streams = assembly.health(now_ns)
        message = StatusMessage(
            schema=1,
            name=self._config.name,
            bundle=assembly.bundle_id,
            seq=self._status_seq,
            published_ns=now_ns,
            wall_time=rfc3339(self._clock.wall_ns()),
            state=state,
            reason=assembly.trouble(now_ns),
            uptime_s=round((now_ns - self._started_ns) / 1e9, 3),
            decisions=self._decisions,
            safe_decisions=self._safe_decisions,
            streams=streams,
            unrouted=assembly.intake.unrouted_counts(),
            conserved=all(stream.balanced for stream in streams.values()),
            latency_ms=self._latencies.percentiles(),
            wall_clock_jumps=self._wall.jumps,
            engine_restarts=assembly.pipeline.engine_restarts,
            memory_mb=round(resident_mb(), 1),
            temperature_c=self._thermometer.read(),
            backend=assembly.pipeline.backends,
            precision=assembly.pipeline.precisions,
            signed_by=assembly.bundle.signed_by,
            recording=self._recorder.health() if self._recorder is not None else None,
        )
        self._status_seq += 1
        for sink in self._sinks:
            sink.status(message)

    def _start_sources(self) -> None:
        assembly = self._assembly
        self._sources = self._open_sources(
            self._config.source, assembly.pipeline.streams, assembly.intake, self.decisions_endpoint
        )
        self.input_endpoints = [source.endpoint for source in self._sources if hasattr(source, "endpoint")]
        for source in self._sources:
            source.start()

    def _assemble(self, config: Config) -> Assembly:
        return Assembly(config, self._clock, self._ring, self._tap if config.record is not None else None)

    def _tap(self, message: Message) -> None:
        if self._recorder is not None:
            self._recorder.message(message)

    def _start_recording(self, cleanup: ExitStack) -> None:
        """Where so configured; opened before the first message can be taken."""
        if self._config.record is None:
            return
        from edge_runtime.recording.recorder import Recorder, free_name

        settings = self._config.record
        path = free_name(Path(settings.path))
        self._recorder = Recorder(path, self._clock, settings.max_gb, settings.jpeg_quality)
        cleanup.callback(self._recorder.close)
        self._sinks.append(self._recorder)
        self._record_session()

    def _record_session(self) -> None:
        if self._recorder is not None:
            assembly = self._assembly
            self._recorder.session(self._config, assembly.bundle_id, assembly.pipeline.streams)

    def _close_pipeline(self) -> None:
        self._assembly.pipeline.close()

    def _stop_sources(self) -> None:
        # All are told before any is waited for, so that several hung devices cost one waiting time, not several.
        for source in self._sources:
            source.stopping.set()
        deadline_ns = self._clock.now_ns() + STOP_SOURCES_NS
        for source in self._sources:
            source.stop(max(0.0, (deadline_ns - self._clock.now_ns()) / 1e9))

    def _reload(self) -> None:
        """Take over a new configuration. Decisions pause while its engines open; the publisher and `seq` go on."""
        load, self._reload_from = self._reload_from, None
        assert load is not None
        old_config, old = self._config, self._assembly
        self._notifier.send("RELOADING=1")
        try:
            config = load()
            if (config.publish, config.name) != (old_config.publish, old_config.name):
                raise UserError("`name` and `publish` cannot change while running; restart instead")
            if config.record != old_config.record:
                raise UserError("`record` cannot change while running; restart instead")
            new = self._assemble(config)
        except UserError as error:
            log.error("reload refused, the old configuration goes on: %s", error)
        else:
            self._stop_sources()
            self._config, self._assembly = config, new
            try:
                self._start_sources()
            except UserError as error:
                log.error("reload refused, the old configuration goes on: %s", error)
                new.pipeline.close()
                self._config, self._assembly = old_config, old
                self._start_sources()
            else:
                old.pipeline.close()
                del old
                self._spare_collector()
                self._record_session()
                log.info("reloaded: bundle %s %s", new.bundle_id.name, new.bundle_id.version)
        self._notifier.send("READY=1")

    def _drain(self) -> None:
        """Decide on what was captured before the end, and say goodbye."""
        self._notifier.send("STOPPING=1")
        self._status("stopping")
        self._stop_sources()
        for reference_ns in self._assembly.take():
            self._decide(reference_ns, triggered=True)
        self._decide(self._clock.now_ns(), triggered=False)
        self._status("stopped")
