"""Choose, by capture time, the messages that belong together, or say why not.

`align` is a pure function of the history and two times. `History` is the loop's memory that feeds it: a bounded,
time-ordered list per stream, with the account of which messages still wait for their decision.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edge_runtime.choose import captured
from edge_runtime.messages import AlignedSet, Message, Slice
from edge_runtime.specs import NS_PER_MS, max_age_ns
from edge_runtime.streams import StreamSpec, kind_of

RULES = 2
"""Number of the rules by which messages are aligned and heartbeats counted; a recording names those it was made by.
1: a heartbeat counted as any decision, and cameras were not paired."""
HEARTBEAT_REACH_NS = 60_000_000_000
"""A message that calls for a decision may have been captured this long before a heartbeat and still get its own: older
stamps are refused at the door."""
MAX_HELD_BYTES = 64 << 20
"""Of one stream's pictures. Where more wait for a trigger that keeps silent, the oldest are let go."""
MAX_HELD = 20_000
"""Messages of one stream, those included of which only the time is remembered."""
_NEVER = -(1 << 63)


def align(
    streams: Mapping[str, StreamSpec],
    history: Mapping[str, Sequence[Message]],
    reference_ns: int,
    now_ns: int,
    pair: bool = True,
) -> AlignedSet:
    """The newest messages captured at or before `reference_ns`, per stream; ages are taken at `now_ns`.

    Cameras that see the same moment do not stamp it the same: of several, the newest frame at or before the reference
    is the moment, and another camera's frame belongs to it up to half its own frame interval later (unless `pair` is
    off). `history` holds each stream's messages in order of capture time. Pure; any thread.
    """
    until = _paired(streams, history, reference_ns) if pair else {}
    slices = {
        name: kind_of(spec).choose(name, spec, history[name], until.get(name, reference_ns), now_ns)
        for name, spec in streams.items()
    }
    return AlignedSet(reference_ns, slices)


def _paired(
    streams: Mapping[str, StreamSpec], history: Mapping[str, Sequence[Message]], reference_ns: int
) -> dict[str, int]:
    """For each of several cameras the time up to which its frames belong to the moment of `reference_ns`."""
    cameras = [name for name, spec in streams.items() if kind_of(spec).pairs]
    if len(cameras) < 2:
        return {}
    newest = {}
    for name in cameras:
        if end := bisect_right(history[name], reference_ns, key=captured):
            newest[name] = history[name][end - 1].captured_ns
    if not newest:
        return {}
    moment_ns = max(newest.values())
    return {
        name: max(reference_ns, moment_ns + int(500 * NS_PER_MS / streams[name].rate_hz))
        for name in cameras
        if newest.get(name) != moment_ns
    }


class _Pending(NamedTuple):
    """What the account needs to know of a message that waits for its decision."""

    captured_ns: int
    seq: int
    late: bool
    """Its moment had been decided when it came."""


class History:
    """The loop's memory: per stream the messages that a decision may still need. Loop thread only.

    As long as no reference lies before the floor, and `now_ns` never goes backwards, `align` chooses from it exactly
    what it would choose if nothing were ever forgotten (within MAX_HELD and MAX_HELD_BYTES).
    """

    def __init__(self, streams: Mapping[str, StreamSpec]) -> None:
        self._streams = streams
        self._kinds = {name: kind_of(spec) for name, spec in streams.items()}
        self._messages: dict[str, list[Message]] = {name: [] for name in streams}
        self._pending: dict[str, deque[_Pending]] = {name: deque() for name in streams}
        self._floor_ns = _NEVER
        self._decided_ns = _NEVER

    @property
    def messages(self) -> Mapping[str, Sequence[Message]]:
        """Each stream's messages in order of capture time."""
        return self._messages

    @property
    def floor_ns(self) -> int:
        """No decision is made any more whose reference lies before this."""
        return self._floor_ns

    def add(self, message: Message) -> None:
        """Remember `message`, in order of its capture time."""
        messages = self._messages[message.stream]
        if messages and message.captured_ns < messages[-1].captured_ns:
            messages.insert(bisect_right(messages, message.captured_ns, key=captured), message)
        else:
            messages.append(message)
        late = message.captured_ns < self._decided_ns
        self._pending[message.stream].append(_Pending(message.captured_ns, message.seq, late))
        if len(messages) > 1 and self._kinds[message.stream].keep == 1:
            self._let_go_of_pictures(message.stream)

    def decided(self, reference_ns: int, heartbeat: bool = False) -> None:
        """A decision was made at `reference_ns`: later ones have no earlier reference. A heartbeat answers no message,
        and costs none that is still on its way its decision.
        """
        if heartbeat:
            reference_ns -= HEARTBEAT_REACH_NS
        else:
            self._decided_ns = max(self._decided_ns, reference_ns)
        self._floor_ns = max(self._floor_ns, reference_ns)

    def pending(self, stream: str) -> int:
        """Messages still waiting for a decision."""
        return len(self._pending[stream])

    def settle(self, part: Slice, now_ns: int) -> tuple[int, Counter[str]]:
        """Close the account of a stream's messages that `part`, chosen at `now_ns`, considered, and forget what no
        later decision can need.

        Gives the number of messages that went into the decision, and those left out by reason: `superseded` (a newer
        one was there), `late` (older than the window, or come after its moment was decided), or the slice's own reason
        for being absent.
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
                dropped["late" if message.late else self._kinds[part.stream].surplus] += 1
        pending.clear()
        pending.extend(waiting)
        self._forget(part.stream, now_ns)
        return decided, dropped

    def _forget(self, stream: str, now_ns: int) -> None:
        messages, spec = self._messages[stream], self._streams[stream]
        reach_ns = self._kinds[stream].reach_ns(spec)
        # The newest one that every later decision considers stays: it may serve until it is too old.
        if first := bisect_right(messages, self._floor_ns, key=captured):
            if reach_ns is None:
                del messages[: first - 1]
            else:
                del messages[: bisect_right(messages, messages[first - 1].captured_ns - reach_ns - 1, key=captured)]
        # What is too old can only be found so: of it the time is remembered.
        oldest_ns = now_ns - max_age_ns(spec) - (reach_ns or 0)
        for index in range(bisect_right(messages, oldest_ns - 1, key=captured)):
            if type(message := messages[index]) is not Message:
                messages[index] = Message(message.stream, message.seq, message.captured_ns)
        if len(messages) > MAX_HELD:
            del messages[: len(messages) - MAX_HELD]

    def _let_go_of_pictures(self, stream: str) -> None:
        messages, size = self._messages[stream], 0
        for index in range(len(messages) - 1, -1, -1):
            if type(messages[index]) is Message:
                continue
            size += self._kinds[stream].footprint(messages[index])
            if size > MAX_HELD_BYTES and index < len(messages) - 1:
                del messages[: index + 1]
                return
