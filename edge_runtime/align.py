"""Choose, by capture time, the messages that belong together, or say why not.

`align` is a pure function of the history and two times. `History` is the loop's memory that feeds it: a bounded,
time-ordered list per stream, with the account of which messages still wait for their decision.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from edge_runtime.choose import captured
from edge_runtime.messages import AlignedSet, Message, Slice
from edge_runtime.streams import StreamSpec, kind_of


def align(
    streams: Mapping[str, StreamSpec], history: Mapping[str, Sequence[Message]], reference_ns: int, now_ns: int
) -> AlignedSet:
    """The newest messages captured at or before `reference_ns`, per stream; ages are taken at `now_ns`.

    `history` holds each stream's messages in order of capture time. Pure; any thread.
    """
    slices = {
        name: kind_of(spec).choose(name, spec, history[name], reference_ns, now_ns) for name, spec in streams.items()
    }
    return AlignedSet(reference_ns, slices)


class History:
    """The loop's memory: per stream the messages that a decision may still need. Loop thread only."""

    def __init__(self, streams: Mapping[str, StreamSpec]) -> None:
        self._streams = streams
        self._kinds = {name: kind_of(spec) for name, spec in streams.items()}
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
            kept.insert(bisect_right(kept, message.captured_ns, key=captured), message)
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
                dropped[self._kinds[part.stream].surplus] += 1
        pending.clear()
        pending.extend(waiting)
        self._forget(part)
        return decided, dropped

    def _forget(self, part: Slice) -> None:
        kept = self._messages[part.stream]
        spec = self._streams[part.stream]
        if (reach_ns := self._kinds[part.stream].reach_ns(spec)) is not None:
            del kept[: bisect_right(kept, part.until_ns - reach_ns - 1, key=captured)]
        else:
            # The newest one considered stays: it may serve later decisions until it is too old.
            del kept[: max(0, bisect_right(kept, part.until_ns, key=captured) - 1)]
