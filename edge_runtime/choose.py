"""How alignment chooses among one stream's messages: the newest, or a window that ends at an anchor. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from edge_runtime.messages import Message, Slice
from edge_runtime.specs import NS_PER_MS, max_age_ns

captured = attrgetter("captured_ns")


def newest_only(
    name: str, spec: Any, messages: Sequence[Message], reference_ns: int, now_ns: int, too_old: str = "stale"
) -> Slice:
    """The newest of `messages`; `too_old` is said where its age is above the stream's `max_age_ms`."""
    end = bisect_right(messages, reference_ns, key=captured)
    if end == 0:
        return Slice(name, False, until_ns=reference_ns, reason="missing")
    newest = messages[end - 1]
    age_ns = now_ns - newest.captured_ns
    if age_ns > max_age_ns(spec):
        return Slice(name, False, age_ns=age_ns, until_ns=reference_ns, reason=too_old)
    return Slice(name, True, (newest,), key=newest.seq, age_ns=age_ns, until_ns=reference_ns)


def window(name: str, spec: Any, messages: Sequence[Message], reference_ns: int, now_ns: int, span_ns: int) -> Slice:
    """The messages captured within `span_ns` before the anchor of a stream with `hop_ms` and `max_age_ms`.

    The window ends at its anchor: with `hop_ms` = 0 the newest message; else the first message of the newest hop (time
    cut into hops of that length), so that the window moves once a hop however often messages come.
    """
    end = bisect_right(messages, reference_ns, key=captured)
    if end == 0:
        return Slice(name, False, until_ns=reference_ns, reason="missing")
    anchor_ns = messages[end - 1].captured_ns
    if hop_ns := int(spec.hop_ms * NS_PER_MS):
        first_of_hop = bisect_right(messages, anchor_ns // hop_ns * hop_ns - 1, 0, end, key=captured)
        anchor_ns = messages[first_of_hop].captured_ns
        end = bisect_right(messages, anchor_ns, 0, end, key=captured)
    chosen = tuple(messages[bisect_right(messages, anchor_ns - span_ns - 1, 0, end, key=captured) : end])
    age_ns = now_ns - chosen[-1].captured_ns
    # The hop holds the window back on purpose; that wait is not staleness.
    if age_ns > max_age_ns(spec) + hop_ns:
        return Slice(name, False, age_ns=age_ns, until_ns=anchor_ns, reason="stale")
    key = (chosen[0].seq, chosen[-1].seq, len(chosen))
    return Slice(name, True, chosen, key=key, age_ns=age_ns, until_ns=anchor_ns)
