"""What the status message tells: counted here as decisions are made, put together once a second."""

from __future__ import annotations

from edge_runtime import realtime
from edge_runtime.clock import Clock, rfc3339
from edge_runtime.health import Thermometer, WallClockWatch, resident_mb
from edge_runtime.histograms import TimeKeeper
from edge_runtime.session import Session
from edge_runtime.troubles import Troubles
from edge_runtime.wire import (
    DecisionMessage,
    Percentiles,
    RecordingHealth,
    ReloadHealth,
    SinkHealth,
    State,
    StatusMessage,
)

NO_LATENCY = Percentiles(0, None, None, None, None)


class Status:
    """A runtime's running figures, over all its sessions. Loop thread only."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._started_ns = clock.now_ns()
        self._times = TimeKeeper()
        self._thermometer = Thermometer()
        self._wall = WallClockWatch(clock)
        self._troubles = Troubles()
        self._seq = 0
        self.decisions = 0
        self._safe_decisions = 0

    def decided(self, message: DecisionMessage) -> None:
        """Count a published decision."""
        self.decisions += 1
        self._safe_decisions += message.source == "safe"
        self._times.decided(message)
        self._troubles.decided(message)

    def message(
        self,
        session: Session,
        state: State | None,
        reload: ReloadHealth | None,
        recording: RecordingHealth | None,
        sinks: dict[str, SinkHealth],
    ) -> StatusMessage:
        """The next status; unless told, it is judged here whether all is `ready`, or `degraded` and why."""
        now_ns = self._clock.now_ns()
        self._wall.look()
        streams = session.health(now_ns)
        timings = self._times.timings(now_ns, session.period_ms)
        sources = [source.health() for source in session.sources]
        specs = session.pipeline.streams
        measured = [name for name, rate in session.rates.items() if rate.measured]
        reason = self._troubles.reason(
            now_ns, specs, session.trigger, streams, measured, sources, sinks, session.pipeline.down
        )
        self._seq += 1
        return StatusMessage(
            schema=1,
            name=self._name,
            bundle=session.bundle_id,
            seq=self._seq - 1,
            published_ns=now_ns,
            wall_time=rfc3339(self._clock.wall_ns()),
            state=state or ("ready" if reason is None else "degraded"),
            reason=reason,
            uptime_s=round((now_ns - self._started_ns) / 1e9, 3),
            decisions=self.decisions,
            safe_decisions=self._safe_decisions,
            streams=streams,
            unrouted=session.unrouted,
            conserved=all(stream.balanced for stream in streams.values()),
            latency_ms=timings.last_minute.get("latency", NO_LATENCY),
            wall_clock_jumps=self._wall.jumps,
            engine_restarts=session.engine_restarts,
            memory_mb=round(resident_mb(), 1),
            temperature_c=self._thermometer.read(),
            backend=session.pipeline.backends,
            precision=session.pipeline.precisions,
            signed_by=session.bundle.signed_by,
            recording=recording,
            reload=reload,
            sinks=sinks,
            sources=sources,
            timings=timings,
            realtime=None if session.config.realtime is None else realtime.health(session.config.realtime),
        )

    def summary(self) -> str:
        """One line on all decisions so far."""
        times = self._times.since_start()
        measures = ", ".join(
            f"{name} {percentiles.p50:.2f}/{percentiles.p99:.2f}/{percentiles.max:.2f}"
            for name, percentiles in times.items()
        )
        return (
            f"{self.decisions} decisions, {self._safe_decisions} of them safe, {self._times.misses} past their "
            f"deadline; ms p50/p99/max: {measures or 'none'}"
        )
