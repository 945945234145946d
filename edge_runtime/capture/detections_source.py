"""What a detection head sees, as a stream of sensors: for a model that decides by it together with other inputs."""

from __future__ import annotations

import logging
from typing import ClassVar

import msgspec
from msgspec import UnsetType

from edge_runtime import config, endpoints
from edge_runtime.admit import Refusal
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError
from edge_runtime.messages import Verdict
from edge_runtime.objects import readings, wanted
from edge_runtime.publish.subscriber import Subscriber
from edge_runtime.specs import SensorStream
from edge_runtime.wire import DecisionMessage

log = logging.getLogger("edge_runtime.capture")

TURN_S = 0.1


class DetectionsSource(Source):
    """Follows the decisions of a runtime (another one, or this one's own) and puts a sample into its stream for each in
    which a detection head has looked: captured when the oldest picture or reading was that it decided by.

    Where the head could not look there is no sample: the stream grows stale, as any sensor's does.
    """

    ends: ClassVar[bool] = False
    passive: ClassVar[bool] = True

    def __init__(self, intake: Intake, row: config.DetectionsSource, spec: SensorStream, decisions: str) -> None:
        """`decisions`: where this runtime publishes."""
        super().__init__(f"detections {row.stream}", intake)
        try:
            self._wanted = wanted((channel.name for channel in spec.channels), row.zones)
        except ValueError as error:
            raise ConfigError(f"source detections: stream {row.stream}: {error}; draw it under [zones]") from None
        if not self._wanted:
            raise ConfigError(
                f"source detections: stream {row.stream} has no channel <class>.<zone>.<figure>, "
                "such as person.picture.count"
            )
        self._row = row
        endpoint = row.decisions or decisions
        self._same_clock = endpoints.is_local(endpoints.parse(endpoint))
        self._subscriber = Subscriber(endpoint, row.name, keys=row.keys or None)
        self._newest_ns = -1
        self._unknown: frozenset[str] = frozenset()

    def _run(self) -> None:
        while not self.stopping.is_set():
            try:
                message = self._subscriber.receive(TURN_S)
            except msgspec.DecodeError as error:
                self._intake.refuse(self._row.stream, Refusal("malformed", str(error)))
                continue
            if isinstance(message, DecisionMessage) and self._row.name in ("", message.name):
                self._take(message)

    def _take(self, message: DecisionMessage) -> None:
        row = self._row
        verdict: DecisionMessage | Verdict = message
        if row.head:
            heads = {} if isinstance(message.heads, UnsetType) else message.heads
            if row.head not in heads:
                return
            verdict = heads[row.head]
        if isinstance(verdict.detections, UnsetType):
            return
        captured_ns = looked_ns(message)
        if captured_ns <= self._newest_ns:  # the same picture, in a heartbeat's decision
            return
        self._newest_ns = captured_ns
        known = [one for one in self._wanted if one.label in verdict.probabilities]
        self._say_unknown(frozenset(one.label for one in self._wanted) - verdict.probabilities.keys())
        if known:
            values = readings(verdict.detections, known, row.zones)
            self._intake.sample(row.stream, values, captured_ns if self._same_clock else None)

    def _say_unknown(self, labels: frozenset[str]) -> None:
        """A class that the head does not know is never counted as not there: its channels get no values."""
        if labels != self._unknown:
            self._unknown = labels
            if labels:
                log.warning("%s: what decides there knows no %s: left out", self.name, ", ".join(sorted(labels)))

    def _close(self) -> None:
        self._subscriber.close()


def looked_ns(message: DecisionMessage) -> int:
    """When the oldest input of a decision was captured: no thing that was seen is younger than this says."""
    taken_ns = message.captured_ns + round(message.latency_ms.queue * 1e6)
    ages = [part.age_ms for part in message.inputs.values() if part.present and part.age_ms is not None]
    return taken_ns - round(max(ages, default=0.0) * 1e6)
