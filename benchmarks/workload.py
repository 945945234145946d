"""What all latency measurements run on: pictures, sensor values and commands of one drive through the town.

Deterministic, so that every process of a benchmark can make it for itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.capture.cameras import wait_until
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.source import Source
from edge_runtime.world import expert
from edge_runtime.world.commands import Sentence
from edge_runtime.world.simulation import Reading, Simulation
from edge_runtime.world.view import View, to_jpeg

FRAME_HZ = 30
FRAMES = 90
TEXT_EVERY = 150
"""Frames between two sentences: 0.2 Hz."""


@dataclass(frozen=True)
class Moment:
    """What happens at one frame's time."""

    jpeg: bytes
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class Workload:
    """A few seconds of a drive, to be played in a loop."""

    moments: tuple[Moment, ...]
    sentences: tuple[str, ...]

    def moment(self, index: int) -> Moment:
        return self.moments[index % len(self.moments)]

    def sentence(self, index: int) -> str | None:
        """The sentence spoken at frame `index`, if any: another one each time."""
        if index % TEXT_EVERY:
            return None
        return self.sentences[index // TEXT_EVERY % len(self.sentences)]


def make_workload(seed: int = 7) -> Workload:
    """Draw it (about a second)."""
    simulation = Simulation(seed)
    view = View(simulation.town, seed)
    moments = []
    for _ in range(FRAMES):
        sensed = simulation.step(1 / FRAME_HZ, expert.label(simulation.observe()))
        data = to_jpeg(view.draw(simulation))
        moments.append(Moment(data, tuple(item for item in sensed if not isinstance(item, Sentence))))
    return Workload(tuple(moments), ("turn left at the next junction", "在下一个路口右转", "go straight ahead"))


class WorkloadSource(Source):
    """Plays the workload inside the runtime's process, as a camera driver and a sensor bus would."""

    ends = True

    def __init__(self, intake: Intake, workload: Workload, frames: int) -> None:
        super().__init__("workload", intake)
        self._workload = workload
        self._frames = frames

    def _run(self) -> None:
        due_ns = time.monotonic_ns()
        for index in range(self._frames):
            if not wait_until(self, due_ns):
                return
            moment = self._workload.moment(index)
            sentence = self._workload.sentence(index)
            if sentence is not None:
                self._intake.text("text", sentence, captured_ns=time.monotonic_ns())
            for reading in moment.readings:
                self._intake.sample(reading.stream, reading.values, time.monotonic_ns())
            # The camera is another device: its frame is there when it is there.
            self._intake.jpeg("camera.front", moment.jpeg, time.monotonic_ns())
            due_ns += 1_000_000_000 // FRAME_HZ


def percentile(values: Sequence[float], q: float) -> float:
    """Linear-interpolation percentile."""
    import numpy as np

    return float(np.percentile(values, q))
