"""What all latency measurements run on: pictures, sensor values and commands of one drive through the town.

Deterministic, so that every process of a benchmark can make it for itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edge_runtime.capture.intake import Intake
from edge_runtime.capture.playback import wait_until
from edge_runtime.capture.source import Source
from edge_runtime.config import RealtimeConfig
from edge_runtime.errors import UserError
from edge_runtime.world import expert
from edge_runtime.world.commands import Sentence
from edge_runtime.world.lens import HEIGHT, WIDTH
from edge_runtime.world.simulation import Reading, Simulation
from edge_runtime.world.view import View, to_jpeg

Picture = bytes | NDArray[np.uint8]

FRAME_HZ = 30
FRAMES = 90
FEWER = 15
"""Pictures where all would take much memory: large ones."""
GRAIN = 4
"""Levels of noise, either way, on every pixel of an enlarged picture: without it, JPEG finds them too easy."""
DEFAULT_PICTURES = f"{WIDTH}x{HEIGHT}"
SETTLE_S = 0.5
"""The subscriber connects meanwhile."""
TEXT_EVERY = 150
"""Frames between two sentences: 0.2 Hz."""


@dataclass(frozen=True)
class Workload:
    """A few seconds of a drive, to be played in a loop."""

    pictures: tuple[Picture, ...]
    readings: tuple[tuple[Reading, ...], ...]
    sentences: tuple[str, ...]

    def picture(self, index: int) -> Picture:
        """What the camera gives at frame `index`: JPEG, or an array [height, width, 3] BGR of the caller's own."""
        picture = self.pictures[index % len(self.pictures)]
        return picture if isinstance(picture, bytes) else picture.copy()

    def sensed(self, index: int) -> tuple[Reading, ...]:
        return self.readings[index % len(self.readings)]

    def sentence(self, index: int) -> str | None:
        """The sentence spoken at frame `index`, if any: another one each time."""
        if index % TEXT_EVERY:
            return None
        return self.sentences[index // TEXT_EVERY % len(self.sentences)]


def size_of(pictures: str) -> tuple[int, int, bool]:
    """Width, height and whether they are raw. Raises UserError."""
    try:
        width, height = map(int, pictures.removesuffix("-raw").split("x"))
    except ValueError:
        raise UserError(f"pictures are {pictures!r}; expected WIDTHxHEIGHT or WIDTHxHEIGHT-raw") from None
    return width, height, pictures.endswith("-raw")


def make_workload(pictures: str = DEFAULT_PICTURES, seed: int = 7) -> Workload:
    """Draw it (seconds): pictures of that size, enlarged from the town's and with a sensor's grain on every pixel."""
    width, height, raw = size_of(pictures)
    simulation = Simulation(seed)
    view = View(simulation.town, seed)
    rng = np.random.default_rng(seed)
    count = FRAMES if not raw and height <= HEIGHT else FEWER
    shown: list[Picture] = []
    readings = []
    for index in range(FRAMES):
        sensed = simulation.step(1 / FRAME_HZ, expert.label(simulation.observe()))
        readings.append(tuple(item for item in sensed if not isinstance(item, Sentence)))
        if index % (FRAMES // count) == 0:
            image = view.draw(simulation)
            if (width, height) != (WIDTH, HEIGHT):
                large = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
                grain = rng.integers(-GRAIN, GRAIN + 1, large.shape, np.int16)
                image = np.clip(large + grain, 0, 255).astype(np.uint8)
            shown.append(image if raw else to_jpeg(image))
    sentences = ("turn left at the next junction", "在下一个路口右转", "go straight ahead")
    return Workload(tuple(shown), tuple(readings), sentences)


class Play(Struct, frozen=True):
    """What a process under measurement is to do."""

    bundle: str
    endpoint: str
    """Where decisions are published."""
    frames: int
    """Of each camera."""
    pictures: str = DEFAULT_PICTURES
    recording: str | None = None
    """The MCAP file to write."""
    cameras: tuple[str, ...] = ("camera.front",)
    """Streams that get every picture, each from a thread of its own."""
    paces: tuple[tuple[int, float], ...] = ((0, float(FRAME_HZ)),)
    """From which frame on, and how many a second; the sensors and the voice keep their own rates."""
    newest: bool = False
    """Whether a frame that was not taken within its period gives way to the next, and is counted as the door counts
    it; otherwise it comes late."""
    realtime: RealtimeConfig | None = None
    spread: bool = False
    """Whether the cameras' moments are spread evenly over a period, or the same."""
    settle_s: float = SETTLE_S
    """Before the first frame."""
    beside: str | None = None
    """A configuration whose sinks and sources run besides."""
    packets: str | None = None
    """Where a sink of kind `unix` listens; the benchmark then hears that one."""


def encode_play(play: Play) -> str:
    """As JSON."""
    return msgspec.json.encode(play).decode()


def decode_play(text: str) -> Play:
    """From JSON."""
    return msgspec.json.decode(text, type=Play)


class WorkloadSource(Source):
    """Plays the workload to one camera inside the runtime's process, as its driver would; to the first camera's also
    what the sensor bus and the voice give.
    """

    ends = True

    def __init__(self, intake: Intake, workload: Workload, play: Play, camera: str) -> None:
        super().__init__(f"workload {camera}", intake)
        self._workload = workload
        self._play = play
        self._camera = camera

    def _run(self) -> None:
        paces = dict(self._play.paces)
        period_ns = int(1e9 / paces[0])
        cameras = self._play.cameras
        begun_ns = due_ns = time.monotonic_ns()
        sensed = 0
        if self._play.spread:
            due_ns += cameras.index(self._camera) * period_ns // len(cameras)
        for index in range(self._play.frames):
            if index in paces:
                period_ns = int(1e9 / paces[index])
            if not wait_until(self, due_ns):
                return
            if self._play.newest and time.monotonic_ns() >= due_ns + period_ns:
                self._intake.replaced(self._camera)
                due_ns += period_ns
                continue
            picture = self._workload.picture(index)
            while self._camera == cameras[0] and (due_ns - begun_ns) * FRAME_HZ + 500_000_000 >= sensed * 1_000_000_000:
                self._sense(sensed)
                sensed += 1
            # The camera is another device: its frame is there when it is there.
            self._intake.put(self._camera, picture, time.monotonic_ns())
            due_ns += period_ns

    def _sense(self, index: int) -> None:
        """What the sensors and the voice give in the `index`-th period of FRAME_HZ."""
        sentence = self._workload.sentence(index)
        if sentence is not None and self._intake.expected_hz("text") is not None:
            self._intake.text("text", sentence, captured_ns=time.monotonic_ns())
        for reading in self._workload.sensed(index):
            if self._intake.expected_hz(reading.stream) is not None:
                self._intake.sample(reading.stream, reading.values, time.monotonic_ns())


def percentile(values: Sequence[float], q: float) -> float:
    """Linear-interpolation percentile."""
    return float(np.percentile(values, q))
