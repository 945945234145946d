"""A learner at the wheel while the expert says what it should have done: DAgger (Ross et al. 2011, arXiv:1011.0686)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle import open_bundle
from edge_runtime.messages import Frame, Message, Sample, Utterance
from edge_runtime.pipeline import Pipeline
from edge_runtime.world import expert
from edge_runtime.world.commands import Sentence
from edge_runtime.world.simulation import Sensed
from edge_runtime.world.view import to_jpeg

CAMERA = "camera.front"
EPOCH_NS = 1_000_000_000_000
PATIENCE_S = 2.5
"""Disagreeing longer than this, the learner is stuck: its mistake is on record often enough."""
LESSON_S = 2.0
"""Then the expert drives for this long."""

Draw = Callable[[], NDArray[np.uint8]]


class Learner:
    """Decides with a bundle's own pipeline, from what the car senses. Single-threaded."""

    def __init__(self, bundle: Path) -> None:
        self._pipeline = Pipeline(open_bundle(bundle, allow_unsigned=True))
        self.begin()

    def begin(self) -> None:
        """Forget the last drive."""
        self._pipeline.reset()
        self._seq: Counter[str] = Counter()
        self._disagrees_since: float | None = None
        self._lesson_until = 0.0

    def drive(self, now: expert.Situation, right: str, draw: Draw, sensed: Iterable[Sensed]) -> str:
        """The label to drive by at `now`; `sensed` came since the last call."""
        at_ns = EPOCH_NS + round(now.t * 1e9)
        for item in sensed:
            if isinstance(item, Sentence):
                self._add(Utterance("text", self._seq["text"], at_ns, item.text, item.lang))
            elif item.stream in self._pipeline.streams:
                self._add(Sample(item.stream, self._seq[item.stream], at_ns, item.values))
        # Through JPEG, as in the car.
        self._add(Frame(CAMERA, self._seq[CAMERA], at_ns, to_jpeg(draw())))
        outcome = self._pipeline.decide(at_ns, at_ns)
        for part in outcome.aligned.slices.values():
            self._pipeline.settle(part)
        return self._supervised(now.t, outcome.verdict.label, right)

    def _supervised(self, t: float, own: str, right: str) -> str:
        if own == right:
            self._disagrees_since = None
        elif self._disagrees_since is None:
            self._disagrees_since = t
        elif t - self._disagrees_since > PATIENCE_S:
            self._disagrees_since, self._lesson_until = None, t + LESSON_S
        return right if t < self._lesson_until else own

    def _add(self, message: Message) -> None:
        self._seq[message.stream] += 1
        self._pipeline.add(message)
