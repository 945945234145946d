"""The one door into the run flow: every source hands its raw messages to the intake.

The intake admits or refuses them (with a reason that is counted), stamps them and puts them into their stream's
mailbox. It logs a stream's trouble once per change of state, not once per message.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.admit import Refusal, admit_stamp
from edge_runtime.capture.shares import Share
from edge_runtime.clock import Clock, SleepWatch
from edge_runtime.kinds.kind import Admit, Partly
from edge_runtime.mailbox import Mailbox
from edge_runtime.messages import Message, Words
from edge_runtime.streams import StreamSpec, kind_of

log = logging.getLogger("edge_runtime.capture")

LOG_LINES = 10
"""Lines about one stream's trouble that may be said at once."""


class Unrouted:
    """Messages refused before they had a stream, by reason. Any thread; outlives the intakes that count into it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, reason: str) -> bool:
        """Count one; whether it is the first with that reason."""
        with self._lock:
            self._counts[reason] += 1
            return self._counts[reason] == 1

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)


class Intake:
    """Admits messages from any source thread."""

    def __init__(
        self,
        streams: Mapping[str, StreamSpec],
        mailboxes: Mapping[str, Mailbox],
        clock: Clock,
        unrouted: Unrouted | None = None,
        sleep: SleepWatch | None = None,
        stamped: Collection[str] = (),
        whole: Callable[[], bool] = lambda: True,
        admissions: Mapping[str, Admit] | None = None,
    ) -> None:
        """`unrouted`: go on with these counts. `sleep` tells of the machine's sleep. `stamped`: the streams whose
        messages must say when they were captured. `whole`: whether messages keep what only recorders and viewers ask
        for, at present; any thread. `admissions`: of each stream, with what they remember; new ones otherwise.
        """
        self.clock = clock
        self.sleep = sleep or SleepWatch(clock)
        self._stamped = frozenset(stamped)
        self._whole = whole
        self._streams = streams
        self._mailboxes = mailboxes
        self._admit = admissions or {name: kind_of(spec).admission(spec) for name, spec in streams.items()}
        self._lock = threading.RLock()
        """Of all below."""
        self._trouble: dict[str, str] = {}
        self._lines = {name: Share(1.0, clock.now_ns(), LOG_LINES) for name in streams}
        self._unsaid: Counter[str] = Counter()
        self._parts: dict[str, dict[str, str]] = {name: {} for name in streams}
        self._unrouted = unrouted or Unrouted()
        self._refused: dict[str, Counter[str]] = {name: Counter() for name in streams}

    def put(self, stream: str, content: Any, captured_ns: int | None = None, id: str | None = None) -> None:
        """One message's content as its sender gave it: what the kind of `stream` takes (`Kind.content`), or a message
        of that kind. Bytes are decoded here, on the source's thread. Nothing may write into it afterwards.
        """
        spec = self._streams.get(stream)
        if spec is None or not isinstance(content, (*(row := kind_of(spec)).content, row.message)):
            self.unrouted("unknown_stream", stream)
            return
        # The message's age counts from its arrival, not from the end of its decoding.
        self.sleep.look()
        stamp = admit_stamp(self.clock.now_ns(), None if captured_ns is None else self.sleep.aged(captured_ns))
        if isinstance(stamp, Refusal):
            self.refuse(stream, stamp)
            return
        if isinstance(content, bytes | memoryview):
            self._mailboxes[stream].announce(stamp)
        make = self._admit[stream](content)
        if isinstance(make, Refusal):
            self.refuse(stream, make)
            return
        with self._lock:
            self._recovered(stream)
            if isinstance(make, Partly):
                self._refuse_parts(stream, make.refused)
                make = make.make
            elif self._parts[stream]:
                self._refuse_parts(stream, {})

        def message(seq: int) -> Message:
            made = make(stream, seq, stamp, id)
            return made if self._whole() else row.unrecorded(made)

        self._mailboxes[stream].put(message)

    def frame(
        self, stream: str, image: NDArray[np.uint8], captured_ns: int | None = None, id: str | None = None
    ) -> None:
        """A decoded picture [height, width, 3] uint8 BGR."""
        self.put(stream, image, captured_ns, id)

    def jpeg(
        self, stream: str, data: bytes | memoryview, captured_ns: int | None = None, id: str | None = None
    ) -> None:
        """A JPEG picture of at most 8 MiB."""
        self.put(stream, data, captured_ns, id)

    def sample(
        self,
        stream: str,
        values: Mapping[str, float | str | None],
        captured_ns: int | None = None,
        id: str | None = None,
    ) -> None:
        """Sensor values by channel name, in the channels' units."""
        self.put(stream, values, captured_ns, id)

    def text(
        self, stream: str, text: str, lang: str | None = None, captured_ns: int | None = None, id: str | None = None
    ) -> None:
        """One sentence."""
        self.put(stream, Words(text, lang), captured_ns, id)

    def expected_hz(self, stream: str) -> float | None:
        """Messages a second that the bundle expects of `stream`; None if there is no such stream."""
        spec = self._streams.get(stream)
        return None if spec is None else spec.rate_hz

    def needs_stamp(self, stream: str) -> bool:
        """Whether messages of `stream` must say when they were captured."""
        return stream in self._stamped

    def newest_only(self, stream: str) -> bool:
        """Whether of several messages of `stream` that wait only the newest counts."""
        spec = self._streams.get(stream)
        return spec is not None and kind_of(spec).keep == 1

    def work_ns(self, stream: str, content: Any) -> int:
        """How long the admission of `content` may take, roughly: see `Kind.work_ns`."""
        spec = self._streams.get(stream)
        return 0 if spec is None else kind_of(spec).work_ns(content)

    def refuse(self, stream: str, refusal: Refusal) -> None:
        """Count a message that cannot be used."""
        if stream not in self._mailboxes:
            self.unrouted("unknown_stream", stream)
            return
        self._mailboxes[stream].refuse(refusal.reason)
        with self._lock:
            self._refused[stream][refusal.reason] += 1
            if self._trouble.get(stream) != refusal.reason:
                self._trouble[stream] = refusal.reason
                self._say("%s: refusing messages: %s %s", stream, refusal.reason, refusal.detail)

    def _refuse_parts(self, stream: str, refused: Mapping[str, Refusal]) -> None:
        """Count readings that are left out, and say so whenever the cause changes. Unknown names are nobody's channel:
        they are said together, so that a sender who makes up names fills neither memory nor log."""
        causes: dict[str, str] = {}
        for name, why in refused.items():
            self._mailboxes[stream].refuse_part(why.reason)
            known = why.reason != "unknown_channel"
            causes[name if known else ""] = why.reason
            if self._parts[stream].get(name if known else "") != why.reason:
                self._say("%s: left out: %s %s %s", stream, name, why.reason, why.detail)
        for name in self._parts[stream].keys() - causes.keys():
            if name:
                self._say("%s: %s is good again, or not sent", stream, name)
        self._parts[stream] = causes

    def replaced(self, stream: str) -> None:
        """Count a message that a newer one replaced before it was looked at: no trouble, and not said."""
        self._mailboxes[stream].refuse("replaced")

    def refusals(self, stream: str) -> Counter[str]:
        """Messages of `stream` refused so far, by reason. Any thread."""
        with self._lock:
            return Counter(self._refused[stream])

    def unrouted(self, reason: str, detail: str = "") -> None:
        """Count a message that belongs to no stream (malformed, too big, unknown)."""
        if self._unrouted.add(reason):
            log.warning("input: refusing messages: %s %s", reason, detail[:200])

    def unrouted_counts(self) -> dict[str, int]:
        """Messages refused before they had a stream, by reason."""
        return self._unrouted.counts()

    def _recovered(self, stream: str) -> None:
        if self._trouble.pop(stream, None) is not None:
            self._say("%s: messages are good again", stream)

    def _say(self, text: str, stream: str, *more: str) -> None:
        """To the log, but no more than LOG_LINES at once and one a second for each stream: trouble may come and go with
        every message. What was left out is counted with the next line."""
        if not self._lines[stream].take(self.clock.now_ns()):
            self._unsaid[stream] += 1
            return
        if unsaid := self._unsaid.pop(stream, 0):
            text += f" ({unsaid} changes not said)"
        log.warning(text, stream, *more)
