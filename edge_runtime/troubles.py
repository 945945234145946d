"""Why a runtime is not `ready`: judged once a second from what the status message tells."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from edge_runtime.streams import StreamSpec, kind_of
from edge_runtime.wire import DecisionMessage, SinkHealth, SourceHealth, StreamHealth

SAFE_NS = 1_000_000_000
"""Safe decisions for longer than this are trouble, whatever their reason."""
LOW_RATE = 0.5
"""A stream slower than this part of what the bundle expects is trouble."""
REPLACED = 0.25
"""So much of the trigger's messages replaced before they were decided on is a backlog."""
FEWEST = 5
"""Messages of the trigger, of which a part says something."""
MAX_REASON = 500
"""Characters of all reasons together."""
_UNDECIDED = ("replaced", "superseded")


class Troubles:
    """What is remembered from one status to the next. Loop thread only."""

    def __init__(self) -> None:
        self._safe_since_ns: int | None = None
        self._safe_reason: str | None = None
        self._trigger: tuple[str, int, int] = ("", 0, 0)

    def decided(self, message: DecisionMessage) -> None:
        """A decision was published."""
        if message.source == "model":
            self._safe_since_ns = None
            return
        if self._safe_since_ns is None:
            self._safe_since_ns = message.published_ns
        self._safe_reason = message.reason

    def reason(
        self,
        now_ns: int,
        specs: Mapping[str, StreamSpec],
        trigger: str,
        streams: Mapping[str, StreamHealth],
        measured: Collection[str],
        sources: Sequence[SourceHealth],
        sinks: Mapping[str, SinkHealth],
        engines: str | None,
    ) -> str | None:
        """All that keeps it from being ready, gravest first; None if nothing does.

        `measured`: streams that are there for long enough that their rate says something; `engines`: why they are
        down, if so.
        """
        reasons = [] if engines is None else [engines]
        reasons += [f"{name} is silent" for name, spec in specs.items() if spec.required and not streams[name].alive]
        if not any(stream.alive for stream in streams.values()):
            reasons += ["no input"] if not reasons else []
        reasons += [
            f"source {source.name}: {source.reason or source.state}"
            for source in sources
            if source.reason is not None or source.state in ("failed", "waiting")
        ]
        reasons += [f"sink {name}: {sink.reason or sink.state}" for name, sink in sinks.items() if sink.state != "open"]
        reasons += [
            f"{name} comes at {streams[name].rate_hz:.3g} Hz, {spec.rate_hz:g} Hz are expected"
            for name, spec in specs.items()
            # Sentences come when they come.
            if name in measured and not kind_of(spec).each_answered and streams[name].alive
            if streams[name].rate_hz < LOW_RATE * spec.rate_hz
        ]
        reasons += self._backlog(trigger, streams[trigger])
        safe_ns = 0 if self._safe_since_ns is None else now_ns - self._safe_since_ns
        if safe_ns > SAFE_NS and not reasons:
            reasons.append(f"decisions are safe for {safe_ns / 1e9:.0f} s: {self._safe_reason}")
        return "; ".join(reasons)[:MAX_REASON] or None

    def _backlog(self, trigger: str, stream: StreamHealth) -> list[str]:
        """Since the status before: messages come faster than they are decided on."""
        undecided = sum(stream.dropped.get(reason, 0) for reason in _UNDECIDED)
        name, captured_before, undecided_before = self._trigger
        self._trigger = trigger, stream.captured, undecided
        if name != trigger:
            return []
        came, left = stream.captured - captured_before, undecided - undecided_before
        if came < FEWEST or left < REPLACED * came:
            return []
        return [f"backlog: {left} of {came} {trigger} messages were replaced before they were decided on"]
