"""The live runtime: sources fill mailboxes on their threads, one loop decides and publishes.

The loop wakes when a message of the bundle's trigger stream arrives and decides; when one of another stream arrives it
runs that stream's stage ahead of the next decision; it wakes at the heartbeat, and at least 20 times a second to serve
subscribers. It owns the session (pipeline, mailboxes, sources) and the sinks; nothing else touches them. A reload hands
the loop over to the thread that opened the next session: see `reload`.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

from edge_runtime import realtime
from edge_runtime.attempt import Attempt
from edge_runtime.capture import OpenSources, open_sources
from edge_runtime.clock import Clock, RealClock, rfc3339
from edge_runtime.config import Config, ZmqSink
from edge_runtime.decision_fields import Times, answer_fields, latency
from edge_runtime.errors import ConfigError, EnginesLost
from edge_runtime.infer.stages import StageGraph
from edge_runtime.messages import Message
from edge_runtime.notify import Notifier
from edge_runtime.pipeline import Outcome, Pipeline
from edge_runtime.publish import open_outlets, shows_messages
from edge_runtime.publish.outlet import Outlet
from edge_runtime.publish.sink import published
from edge_runtime.recovery import Recovery
from edge_runtime.reload import Reloads
from edge_runtime.session import Books, Session
from edge_runtime.status import Status
from edge_runtime.wire import DecisionMessage, State, StatusMessage

log = logging.getLogger("edge_runtime")

TURN_S = 0.05
TURN_NS = int(TURN_S * 1e9)
STATUS_INTERVAL_NS = 1_000_000_000
END_S = 1.5
"""What does not end within this time of being told is left behind: a library that builds, a device that hangs."""
CLOSE_S = 1.5
"""As much for the sinks, after that."""
SWITCH_INTERVAL_S = 0.0005
"""A source thread in the middle of Python code hands the loop the interpreter after at most this long."""


def _lasting(config: Config) -> tuple[object, ...]:
    """What a reload cannot change."""
    return config.name, config.realtime, config.sinks


class Listener(Protocol):
    """Is shown what a runtime does. All is called on the loop's thread, which must not be kept."""

    def took(self, message: Message) -> None:
        """A message that will be decided on, in that order."""

    def heard(self, message: DecisionMessage | StatusMessage) -> None:
        """What was published."""


class Runtime:
    """Runs a configuration until stopped. `run` is called once and waits; the loop has a thread of its own, so that the
    caller hears of signals whatever the loop does.

    `stop` and `reload` may be called from any thread and from signal handlers.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock | None = None,
        open_sources: OpenSources = open_sources,
        answer: Callable[[str | None], None] = lambda reason: None,
        listener: Listener | None = None,
    ) -> None:
        """`open_sources` may be replaced by a program that brings its own capture. `answer` hears what became of each
        reload (None, or why it was refused), on a thread that must not be kept.
        """
        self._open_sources = open_sources
        self._answer = answer
        self._listener = listener
        self._clock = clock or RealClock()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._config = config
        self._busy_poll_ns = int(config.realtime.busy_poll_ms * 1e6) if config.realtime is not None else 0
        self._books = Books()
        self._status = Status(config.name, self._clock)
        self._reloads = Reloads(self._begin_reload)
        self._recovery = Recovery(self._begin_recovery)
        self._outlets: list[Outlet] = []
        self._taps: list[Outlet] = []
        self._stopping = threading.Event()
        self._ending = threading.Event()
        """Set by whoever has `run` come to its end."""
        self._finished = threading.Event()
        self._error: BaseException | None = None
        self._last_decided_ns = 0
        self._next_status_ns = 0
        self._due_ns = 0
        """When the next message that calls for a decision is expected; 0 where none is."""
        self.started = threading.Event()
        """Set when every endpoint is bound and the loop is about to turn (or `run` has ended)."""
        self.decisions_endpoint = ""

    @property
    def input_endpoints(self) -> list[str]:
        """Where inputs may be sent, once it has started. Any thread."""
        return self._session.endpoints

    def run(self) -> None:
        """Start everything, decide until told to stop (or the sources end, where so configured), drain, and return.

        Raises UserError if the configuration or the bundle cannot be used.
        """
        with ExitStack() as cleanup:
            cleanup.callback(self.started.set)
            cleanup.enter_context(realtime.granted(self._config.realtime))
            self._quieten_interpreter(cleanup)
            self._notifier = Notifier()
            cleanup.callback(self._notifier.close)
            cleanup.callback(self._close_outlets)
            threading.Thread(target=self._begin, name="loop", daemon=True).start()
            try:
                self._ending.wait()
            except BaseException:
                self.stop()
                self._finished.wait(END_S)
                raise
            if not self._finished.wait(END_S):
                log.warning("the loop does not come to its end within %.1f s; left behind", END_S)
            if self._error is not None:
                raise self._error

    def stop(self) -> None:
        """End the loop after the decision in hand."""
        self._stopping.set()
        self._ending.set()
        self._ring()

    def reload(self, load: Callable[[], Config]) -> None:
        """Take over the configuration that `load` gives, while decisions go on; whatever fails changes nothing."""
        self._reloads.ask(load)
        self._ring()

    @property
    def config(self) -> Config:
        """What runs, once it has started. Any thread."""
        return self._session.config

    @property
    def trigger(self) -> str:
        """The stream that calls for decisions, once it has started. Any thread."""
        return self._session.trigger

    @property
    def period_ms(self) -> float:
        """How often it is expected to, once it has started. Any thread."""
        return self._session.period_ms

    def captured(self, stream: str) -> int:
        """Messages of `stream` seen so far. Any thread."""
        return self._session.mailboxes[stream].captured

    def _close_outlets(self) -> None:
        """All at once, so that several that take their time cost it once."""
        threads = [threading.Thread(target=outlet.close, daemon=True) for outlet in self._outlets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(CLOSE_S)

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

    def _start(self) -> None:
        self._announce_session()
        self._spare_collector()
        self._session.start()
        self._last_decided_ns = self._clock.now_ns()
        session = self._session
        self._publish_status("starting")
        log.info(
            "%s: bundle %s %s (%s), decisions at %s, inputs at %s",
            self._config.name,
            session.bundle_id.name,
            session.bundle_id.version,
            f"signed by {session.bundle.signed_by}" if session.bundle.signed_by else "not signed",
            self.decisions_endpoint,
            ", ".join(self.input_endpoints) or "no socket",
        )
        self.started.set()

    def _begin(self) -> None:
        """Open everything, then be the loop."""
        try:
            rows = self._config.sinks
            self._outlets = open_outlets(rows, self._clock)
            self._taps = [outlet for outlet, row in zip(self._outlets, rows, strict=True) if shows_messages(row)]
            number, row = next((number, row) for number, row in enumerate(rows) if isinstance(row, ZmqSink))
            self.decisions_endpoint = getattr(self._outlets[number].sink, "endpoint", row.bind)
            self._session = self._open_session(self._config)
        except BaseException as error:  # `run` raises it, on its own thread
            self._end(error)
        else:
            self._be_the_loop(self._session)

    def _be_the_loop(self, session: Session) -> None:
        """Decide with `session`, whose engines this thread opened, until the end or until another thread takes over."""
        leave: Callable[[], None] | None = None
        error: BaseException | None = None
        try:
            if not self.started.is_set() and not self._stopping.is_set():
                self._start()
            leave = self._turn_until_done()
        except BaseException as raised:
            error = raised
        try:
            (leave or session.close)()
        except Exception:  # what could not be freed must not end the decisions of the next
            log.exception("session: cannot be closed")
        if leave is None:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self._finished.set()
        self._ending.set()

    def _turn_until_done(self) -> Callable[[], None] | None:
        """Turn the loop. Where another thread takes over: what this one still has to do; None at the end.

        Raises EnginesLost after the last decision.
        """
        lost: EnginesLost | None = None
        while not self._stopping.is_set() and lost is None:
            self._turn()
            if self._reloads.due():
                self._notifier.reloading(self._clock.now_ns())
                self._reloads.start()
            if (attempt := self._reloads.finished()) is not None and (leave := self._end_reload(attempt)):
                return leave
            try:
                if self._recover():
                    return lambda: None  # the engines that failed are closed
            except EnginesLost as error:
                log.error("%s", error)
                lost = error
            if self._session.config.stop_at_end and self._session.ended:
                break
        if self.started.is_set():
            self._drain()
        if lost is not None:
            raise lost
        return None

    def _turn(self) -> None:
        self._wait()
        if self._session.woke():
            log.warning("the machine has slept: nothing captured before counts any more")
            self._announce_session()
        answered = False
        for reference_ns in self._session.take():
            self._decide(reference_ns, triggered=True)
            self._due_ns = reference_ns + int(self._session.period_ms * 1e6)
            answered = True
        now_ns = self._clock.now_ns()
        if now_ns - self._last_decided_ns >= self._session.heartbeat_ns:
            self._decide(now_ns, triggered=False)
        if not answered:
            self._session.prefetch(now_ns)
        for outlet in self._outlets:
            outlet.serve()
        # The time just after a decision is the quietest; without one, a turn is waited for at most.
        late_ns = now_ns - self._next_status_ns
        if late_ns >= (0 if answered else TURN_NS):
            self._publish_status()
            gc.collect()

    def _wait(self) -> None:
        """Sleep until a message has come or something else may be due."""
        wait_s = min(TURN_S, self._session.heartbeat_ns / 1e9)
        if self._busy_poll_ns and self._due_ns:
            wait_s = self._poll(wait_s)
        try:
            self._wake.get(timeout=wait_s)
            # One turn takes all that has come; what rang for it need not ring again (nor pile up under load).
            while not self._wake.empty():
                self._wake.get_nowait()
        except queue.Empty:
            pass

    def _poll(self, wait_s: float) -> float:
        """Stay awake around the time that a message is due, or say for how long to sleep until then."""
        begin_ns, end_ns = self._due_ns - self._busy_poll_ns, self._due_ns + self._busy_poll_ns
        now_ns = self._clock.now_ns()
        if now_ns < begin_ns:
            return min(wait_s, (begin_ns - now_ns) / 1e9)
        while now_ns < end_ns and self._wake.empty():
            os.sched_yield()
            time.sleep(0)  # lets the interpreter's other threads run
            now_ns = self._clock.now_ns()
        self._due_ns = 0
        return wait_s

    def _decide(self, reference_ns: int, triggered: bool) -> None:
        session = self._session
        # A heartbeat waits for nothing: its queue time is exactly 0, which is how subscribers tell it apart.
        taken_ns = self._clock.now_ns() if triggered else reference_ns
        outcome = session.pipeline.decide(reference_ns, taken_ns, heartbeat=not triggered)
        times = Times(reference_ns, taken_ns, self._clock.now_ns(), self._clock.now_ns())
        message = self._message(outcome, times)
        self._publish(message)
        self._status.decided(message)
        self._last_decided_ns = times.decided_ns
        if self._status.decisions == 1:
            self._notifier.send("READY=1")
        self._notifier.decided(times.decided_ns)
        session.settle(outcome.aligned)

    def _message(self, outcome: Outcome, times: Times) -> DecisionMessage:
        session = self._session
        return DecisionMessage(
            schema=1,
            name=self._config.name,
            bundle=session.bundle_id,
            seq=self._status.decisions,
            captured_ns=times.reference_ns,
            published_ns=times.published_ns,
            wall_time=rfc3339(self._clock.wall_ns()),
            latency_ms=latency(times, outcome),
            dropped=session.new_drops(),
            backend=session.pipeline.backends,
            precision=session.pipeline.precisions,
            **answer_fields(outcome),
        )

    def _publish_status(self, state: State | None = None) -> None:
        recordings = [one for outlet in self._taps if (one := outlet.recording()) is not None]
        sinks = {outlet.name: outlet.health() for outlet in self._outlets}
        message = self._status.message(
            self._session, state, self._reloads.health(), recordings[0] if recordings else None, sinks
        )
        self._next_status_ns = message.published_ns + STATUS_INTERVAL_NS
        self._publish(message)
        self._notifier.status(message.state if message.reason is None else f"{message.state}: {message.reason}")

    def _publish(self, message: DecisionMessage | StatusMessage) -> None:
        item = published(message)
        for outlet in self._outlets:
            outlet.publish(item)
        if self._listener is not None:
            self._listener.heard(message)

    def _open_session(self, config: Config, running: Session | None = None) -> Session:
        """On the thread that is to be its loop."""
        return Session(
            config,
            self._clock,
            self._ring,
            self._books,
            self._tap if self._taps or self._listener is not None else None,
            self.decisions_endpoint,
            running.sources if running is not None else (),
            self._open_sources,
            whole=lambda: any(outlet.wants_whole for outlet in self._taps),
        )

    def _begin_recovery(self, pipeline: Pipeline, on_cpu: bool) -> Attempt[StageGraph]:
        session = self._session

        def take_over(graph: StageGraph) -> None:
            self._be_the_loop(session)

        return Attempt("engines", lambda: pipeline.open_graph(on_cpu), take_over, StageGraph.close, self._ring)

    def _recover(self) -> bool:
        """Have engines that failed opened again; whether the thread that opened them is the loop from here on."""
        pipeline = self._session.pipeline
        attempt = self._recovery.turn(pipeline, self._clock.now_ns())
        if attempt is None:
            return False
        assert attempt.opened is not None
        pipeline.adopt(attempt.opened)
        log.info("engines are open again, on %s", ", ".join(sorted(set(pipeline.backends.values()))))
        attempt.accept()
        return True

    def _begin_reload(self, load: Callable[[], Config]) -> Attempt[Session]:
        running = self._session

        def open_session() -> Session:
            config = load()
            if _lasting(config) != _lasting(self._config):
                raise ConfigError("`name`, `[realtime]` and `[[sink]]` cannot change while running; restart instead")
            return self._open_session(config, running)

        return Attempt("reload", open_session, self._be_the_loop, Session.abandon, self._ring, self._answer)

    def _end_reload(self, attempt: Attempt[Session]) -> Callable[[], None] | None:
        """Give way to the session that the attempt has opened, and give what is then left to do; or take note of its
        refusal.
        """
        old, new = self._session, attempt.opened
        if new is None:
            log.error("reload refused, the old configuration goes on: %s", attempt.reason)
            self._notifier.send("READY=1")
            attempt.dismiss()
            return None
        self._recovery.cancel()
        new.start()
        # What came before is decided by those it came to.
        for reference_ns in old.take():
            self._decide(reference_ns, triggered=True)
        old.retire()
        for name in old.mailboxes.keys() - new.mailboxes.keys():
            log.info("reload: stream %s ends with %s", name, old.mailboxes[name].counts(0))
        self._session = new
        self._announce_session()
        log.info("reloaded: bundle %s %s", new.bundle_id.name, new.bundle_id.version)
        self._notifier.send("READY=1")
        attempt.accept()

        def leave() -> None:
            nonlocal old
            old.close(new)
            del old
            self._spare_collector()

        return leave

    def _tap(self, message: Message) -> None:
        for outlet in self._taps:
            outlet.message(message)
        if self._listener is not None:
            self._listener.took(message)

    def _announce_session(self) -> None:
        session = self._session
        for outlet in self._outlets:
            outlet.session(session.config, session.bundle_id, session.pipeline.streams)

    def _drain(self) -> None:
        """Decide on what was captured before the end, and say goodbye."""
        self._notifier.send("STOPPING=1")
        self._publish_status("stopping")
        self._session.stop_sources()
        for reference_ns in self._session.take():
            self._decide(reference_ns, triggered=True)
        self._decide(self._clock.now_ns(), triggered=False)
        self._publish_status("stopped")
        log.info("%s: %s", self._config.name, self._status.summary())
        self._reloads.cancel()
        self._recovery.cancel()
