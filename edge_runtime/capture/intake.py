"""The one door into the run flow: every source hands its raw messages to the intake.

The intake admits or refuses them (with a reason that is counted), stamps them and puts them into their stream's
mailbox. It logs a stream's trouble once per change of state, not once per message.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edge_runtime.capture.admit import (
    FreezeDetector,
    Refusal,
    admit_image,
    admit_sample,
    admit_stamp,
    admit_text,
    decode_jpeg,
)
from edge_runtime.clock import Clock
from edge_runtime.mailbox import Mailbox
from edge_runtime.messages import Frame, Sample, Utterance
from edge_runtime.streams import CameraStream, SensorStream, StreamSpec, TextStream

log = logging.getLogger("edge_runtime.capture")


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
    ) -> None:
        """`unrouted`: go on with these counts."""
        self.clock = clock
        self._streams = streams
        self._mailboxes = mailboxes
        self._freeze = {name: FreezeDetector(spec) for name, spec in streams.items() if isinstance(spec, CameraStream)}
        self._trouble: dict[str, str] = {}
        self._unrouted = unrouted or Unrouted()
        self._refused: dict[str, Counter[str]] = {name: Counter() for name in streams}

    def frame(
        self,
        stream: str,
        image: NDArray[np.uint8],
        captured_ns: int | None = None,
        id: str | None = None,
        encoded: bytes | memoryview | None = None,
    ) -> None:
        """A decoded picture [height, width, 3] uint8 BGR, and the JPEG it came from, if it came as one.

        The caller must not write into either afterwards.
        """
        spec = self._streams.get(stream)
        if not isinstance(spec, CameraStream):
            self.unrouted("unknown_stream", stream)
            return
        stamp = admit_stamp(self.clock.now_ns(), captured_ns)
        if isinstance(stamp, Refusal):
            self.refuse(stream, stamp)
            return
        admitted = admit_image(spec, image)
        if isinstance(admitted, Refusal):
            self.refuse(stream, admitted)
            return
        if frozen := self._freeze[stream].admit(admitted):
            self.refuse(stream, frozen)
            return
        self._recovered(stream)
        self._mailboxes[stream].put(lambda seq: Frame(stream, seq, stamp, admitted, id, encoded))

    def jpeg(
        self, stream: str, data: bytes | memoryview, captured_ns: int | None = None, id: str | None = None
    ) -> None:
        """A JPEG picture of at most 8 MiB; decoded here, on the source's thread. `data` must not change afterwards."""
        if not isinstance(self._streams.get(stream), CameraStream):
            self.unrouted("unknown_stream", stream)
            return
        # The picture's age counts from its arrival, not from the end of its decoding.
        arrived_ns = self.clock.now_ns() if captured_ns is None else captured_ns
        self._mailboxes[stream].announce()
        image = decode_jpeg(data)
        if isinstance(image, Refusal):
            self.refuse(stream, image)
            return
        self.frame(stream, image, arrived_ns, id, data)

    def sample(
        self, stream: str, values: Mapping[str, float], captured_ns: int | None = None, id: str | None = None
    ) -> None:
        """Sensor values by channel name, in the channels' units."""
        spec = self._streams.get(stream)
        if not isinstance(spec, SensorStream):
            self.unrouted("unknown_stream", stream)
            return
        stamp = admit_stamp(self.clock.now_ns(), captured_ns)
        if isinstance(stamp, Refusal):
            self.refuse(stream, stamp)
            return
        admitted = admit_sample(spec, values)
        if isinstance(admitted, Refusal):
            self.refuse(stream, admitted)
            return
        self._recovered(stream)
        self._mailboxes[stream].put(lambda seq: Sample(stream, seq, stamp, admitted, id))

    def text(
        self, stream: str, text: str, lang: str | None = None, captured_ns: int | None = None, id: str | None = None
    ) -> None:
        """One sentence."""
        spec = self._streams.get(stream)
        if not isinstance(spec, TextStream):
            self.unrouted("unknown_stream", stream)
            return
        stamp = admit_stamp(self.clock.now_ns(), captured_ns)
        if isinstance(stamp, Refusal):
            self.refuse(stream, stamp)
            return
        admitted = admit_text(spec, text)
        if isinstance(admitted, Refusal):
            self.refuse(stream, admitted)
            return
        self._recovered(stream)
        words, truncated = admitted
        self._mailboxes[stream].put(lambda seq: Utterance(stream, seq, stamp, words, lang, truncated, id))

    def refuse(self, stream: str, refusal: Refusal) -> None:
        """Count a message of a known stream that cannot be used."""
        self._mailboxes[stream].refuse(refusal.reason)
        self._refused[stream][refusal.reason] += 1
        if self._trouble.get(stream) != refusal.reason:
            self._trouble[stream] = refusal.reason
            log.warning("%s: refusing messages: %s %s", stream, refusal.reason, refusal.detail)

    def refusals(self, stream: str) -> Counter[str]:
        """Messages of `stream` refused so far, by reason. Any thread."""
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
            log.warning("%s: messages are good again", stream)
