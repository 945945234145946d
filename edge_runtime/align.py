"""Choose, by capture time, the messages that belong together, or say why not.

`align` is a pure function of the history and two times. `History` is the loop's memory that feeds it: a bounded,
time-ordered list per stream, with the account of which messages still wait for their decision.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from operator import attrgetter

from edge_runtime.messages import AlignedSet, Message, Sample, Slice
from edge_runtime.streams import NS_PER_MS, CameraStream, SensorStream, StreamSpec, TextStream, max_age_ns

_captured = attrgetter("captured_ns")


def align(
    streams: Mapping[str, StreamSpec], history: Mapping[str, Sequence[Message]], reference_ns: int, now_ns: int
) -> AlignedSet:
    """The newest messages captured at or before `reference_ns`, per stream; ages are taken at `now_ns`.

    `history` holds each stream's messages in order of capture time. Pure; any thread.
    """
    slices = {
        name: _ALIGNERS[type(spec)](name, spec, history[name], reference_ns, now_ns) for name, spec in streams.items()
    }
    return AlignedSet(reference_ns, slices)


def _newest_only(name: str, spec: StreamSpec, messages: Sequence[Message], reference_ns: int, now_ns: int) -> Slice:
    """A camera's newest frame, or the newest sentence."""
    end = bisect_right(messages, reference_ns, key=_captured)
    if end == 0:
        return Slice(name, False, until_ns=reference_ns, reason="missing")
    newest = messages[end - 1]
    age_ns = now_ns - newest.captured_ns
    if age_ns > max_age_ns(spec):
        reason = "expired" if isinstance(spec, TextStream) else "stale"
        return Slice(name, False, age_ns=age_ns, until_ns=reference_ns, reason=reason)
    return Slice(name, True, (newest,), key=newest.seq, age_ns=age_ns, until_ns=reference_ns)


def _window(name: str, spec: StreamSpec, messages: Sequence[Message], reference_ns: int, now_ns: int) -> Slice:
    """The samples behind a sensor window.

    The window ends at its anchor: with `hop_ms` = 0 the newest sample; else the first sample of the newest hop (time
    cut into hops of that length), so that the window moves once a hop however often samples come.
    """
    assert isinstance(spec, SensorStream)
    end = bisect_right(messages, reference_ns, key=_captured)
    if end == 0:
        return Slice(name, False, until_ns=reference_ns, reason="missing", missing_channels=_required(spec))
    anchor_ns = messages[end - 1].captured_ns
    if hop_ns := int(spec.hop_ms * NS_PER_MS):
        first_of_hop = bisect_right(messages, anchor_ns // hop_ns * hop_ns - 1, 0, end, key=_captured)
        anchor_ns = messages[first_of_hop].captured_ns
        end = bisect_right(messages, anchor_ns, 0, end, key=_captured)
    age_limit_ns = max_age_ns(spec)
    start_ns = anchor_ns - int((spec.window - 1) * spec.step_ms * NS_PER_MS) - age_limit_ns
    chosen = tuple(messages[bisect_right(messages, start_ns - 1, 0, end, key=_captured) : end])
    age_ns = now_ns - chosen[-1].captured_ns
    # The hop holds the window back on purpose; that wait is not staleness.
    if age_ns > age_limit_ns + hop_ns:
        return Slice(name, False, age_ns=age_ns, until_ns=anchor_ns, reason="stale", missing_channels=_required(spec))
    return Slice(
        name,
        True,
        chosen,
        key=(chosen[0].seq, chosen[-1].seq, len(chosen)),
        age_ns=age_ns,
        until_ns=anchor_ns,
        missing_channels=_stale_required(spec, chosen, now_ns - age_limit_ns - hop_ns),
    )


def _required(spec: SensorStream) -> tuple[str, ...]:
    return tuple(channel.name for channel in spec.channels if channel.required)


def _stale_required(spec: SensorStream, samples: Sequence[Message], oldest_ns: int) -> tuple[str, ...]:
    missing = set(_required(spec))
    for sample in reversed(samples):
        if not missing or sample.captured_ns < oldest_ns:
            break
        assert isinstance(sample, Sample)
        missing.difference_update(sample.values)
    return tuple(sorted(missing))


_ALIGNERS = {CameraStream: _newest_only, TextStream: _newest_only, SensorStream: _window}


class History:
    """The loop's memory: per stream the messages that a decision may still need. Loop thread only."""

    def __init__(self, streams: Mapping[str, StreamSpec]) -> None:
        self._streams = streams
        self._messages: dict[str, list[Message]] = {name: [] for name in streams}
        self._pending: dict[str, deque[Message]] = {name: deque() for name in streams}

    @property
    def messages(self) -> Mapping[str, Sequence[Message]]:
        """Each stream's messages in order of capture time."""
        return self._messages

    def add(self, message: Message) -> None:
        """Remember `message`, in order of its capture time."""
        kept = self._messages[message.stream]
        if kept and message.captured_ns < kept[-1].captured_ns:
            kept.insert(bisect_right(kept, message.captured_ns, key=_captured), message)
        else:
            kept.append(message)
        self._pending[message.stream].append(message)

    def pending(self, stream: str) -> int:
        """Messages still waiting for a decision."""
        return len(self._pending[stream])

    def settle(self, part: Slice) -> tuple[int, Counter[str]]:
        """Close the account of a stream's messages that `part` considered, and forget what no later one can need.

        Gives the number of messages that went into the decision, and those left out by reason: `superseded` (a newer
        one was there), `late` (older than the window), or the slice's own reason for being absent.
        """
        pending = self._pending[part.stream]
        decided, dropped = 0, Counter[str]()
        chosen = {message.seq for message in part.messages} if pending else set()
        waiting = []
        for message in pending:
            if message.captured_ns > part.until_ns:
                waiting.append(message)
            elif message.seq in chosen:
                decided += 1
            elif part.reason is not None:
                dropped[part.reason] += 1
            else:
                dropped["late" if isinstance(message, Sample) else "superseded"] += 1
        pending.clear()
        pending.extend(waiting)
        self._forget(part)
        return decided, dropped

    def _forget(self, part: Slice) -> None:
        kept = self._messages[part.stream]
        spec = self._streams[part.stream]
        if isinstance(spec, SensorStream):
            reach_ns = int((spec.window * spec.step_ms + 2 * spec.hop_ms + spec.max_age_ms) * NS_PER_MS)
            del kept[: bisect_right(kept, part.until_ns - reach_ns - 1, key=_captured)]
        else:
            # The newest one considered stays: it may serve later decisions until it is too old.
            del kept[: max(0, bisect_right(kept, part.until_ns, key=_captured) - 1)]
